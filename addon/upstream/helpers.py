"""Credential helper programs: the protocol of github.com/docker/docker-credential-helpers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from addon import jwt
from addon.config.login import IdentityToken, Login, Password

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from addon.config.docker_config import Helper

_PATIENCE = 10.0  # seconds
_MAX_OUTPUT = 64 << 10
# With these words, and an exit code, a helper says that it knows nothing of the server.
_NOT_FOUND = b"credentials not found in native keychain"


class HelperError(Exception):
    """A helper gives no credential; the message says what it did, and shows nothing of what it wrote."""


async def ask(helper: Helper) -> Login:
    """What the helper says. Raises HelperError."""
    program = shutil.which(helper.program)
    if program is None:
        raise HelperError("is not on PATH: install it")
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise HelperError(f"cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(_PATIENCE):
            output = await _answer(process, helper.server)
            code = await process.wait()
    except TimeoutError:
        raise HelperError(f"did not answer within {_PATIENCE:g} s, and was killed") from None
    finally:
        if process.returncode is None:
            await _kill(process)
    if code:
        if output.strip() == _NOT_FOUND:
            raise HelperError("knows no credential for it: log in")
        raise HelperError(f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}")
    return understand(output)


def understand(output: bytes) -> Login:
    """A helper's answer. Raises HelperError. Pure."""
    try:
        answer: Any = json.loads(output)
    except (ValueError, RecursionError):
        raise HelperError("wrote something that is not JSON") from None
    username, secret = (answer.get("Username"), answer.get("Secret")) if isinstance(answer, dict) else (None, None)
    if not isinstance(username, str) or not isinstance(secret, str):
        raise HelperError("wrote JSON without Username and Secret")
    if not secret:
        # As `pass` does for what it has not.
        raise HelperError("knows no credential for it: log in")
    try:
        return IdentityToken(secret) if username == "<token>" else Password(username, secret)
    except ValueError as error:
        raise HelperError(f"gave what cannot be sent: {error}") from None


def expiry(login: Login) -> float | None:
    """When its secret ends, in seconds since the epoch, as far as that says so."""
    return jwt.expiry(login.password if isinstance(login, Password) else login.value)


async def _answer(process: Process, server: str) -> bytes:
    assert process.stdin
    assert process.stdout
    # One that does not read its input may answer all the same.
    with suppress(ConnectionError):
        process.stdin.write(server.encode())
        await process.stdin.drain()
    process.stdin.close()
    try:
        await process.stdout.readexactly(_MAX_OUTPUT + 1)
    except asyncio.IncompleteReadError as ended:
        return ended.partial
    raise HelperError(f"wrote more than {_MAX_OUTPUT} bytes, and was killed")


async def _kill(process: Process) -> None:
    """With all that it has started, which may hold its output open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await process.communicate()
