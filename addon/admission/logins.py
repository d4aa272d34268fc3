"""Who has logged in to the proxy: what clients say in Proxy-Authorization, held against an htpasswd file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import secrets
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mitmproxy.utils.htpasswd import HtpasswdFile

from addon.config import htpasswd
from addon.pulls.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger("mirrortap")

# Seconds that a credential that was right, or wrong, is taken for that without computing its hash again.
_RIGHT, _WRONG = 300.0, 60.0
# Different wrong credentials that one client may try in so many seconds.
_GUESSES, _WINDOW = 10, 60.0
# Credentials, and clients with wrong ones, that are remembered at most.
_MANY = 4096


class TooManyGuesses(Exception):
    """One client's credentials were wrong so often that no new one of its is looked at for `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = wait


class Logins:
    """The users of one file, which is read again when it changes.

    A file that cannot be read lets nobody in, and a line that is wrong lets nobody in as that user.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._users = HtpasswdFile("")
        self._version: tuple[int, ...] | None = None
        # By a keyed hash of the credential, which is kept nowhere.
        self._known: dict[bytes, tuple[bool, float]] = {}
        self._asked: Questions[bytes, bool] = Questions()
        self._guesses: dict[str, deque[float]] = {}
        # One at a time: hashing is meant to be slow, and must leave the cores to others.
        self._hashing = ThreadPoolExecutor(1, "login")

    async def allows(self, client: str, authorization: str) -> bool:
        """Whether a Proxy-Authorization is that of a user. Raises TooManyGuesses."""
        self._read_again()
        given = credentials(authorization)
        if given is None:
            return False
        name = hmac.digest(self._key, ":".join(given).encode(), "sha256")
        right, until = self._known.get(name, (False, 0.0))
        if self._clock() < until:
            return right
        return await self._asked.put(name, lambda: self._look(self._guess(client), name, *given)).answer()

    def _guess(self, client: str) -> deque[float]:
        """Counts one before it is known to be wrong, so that many at once count too. Raises TooManyGuesses."""
        now = self._clock()
        guesses = self._guesses.setdefault(client, deque())
        while guesses and guesses[0] <= now - _WINDOW:
            guesses.popleft()
        if len(guesses) >= _GUESSES:
            raise TooManyGuesses(guesses[0] + _WINDOW - now)
        guesses.append(now)
        return guesses

    async def _look(self, guesses: deque[float], name: bytes, user: str, password: str) -> bool:
        users = self._users
        right = await asyncio.get_running_loop().run_in_executor(self._hashing, _matches, users, user, password)
        if right:
            guesses.pop()
        if users is self._users:
            self._known[name] = right, self._clock() + (_RIGHT if right else _WRONG)
        self._forget()
        return right

    def _forget(self) -> None:
        now = self._clock()
        if len(self._known) > _MANY:
            self._known = {name: known for name, known in self._known.items() if known[1] > now}
            for name in list(self._known)[: max(0, len(self._known) - _MANY)]:
                del self._known[name]
        if len(self._guesses) > _MANY:
            self._guesses = {who: times for who, times in self._guesses.items() if times and times[-1] > now - _WINDOW}

    def _read_again(self) -> None:
        version: tuple[int, ...] = ()
        try:
            found = self._path.stat()
            version = found.st_ino, found.st_size, found.st_ctime_ns
            if version == self._version:
                return
            self._users, faults = htpasswd.read(self._path)
        except OSError as error:
            if version == self._version:
                return
            self._users, faults = HtpasswdFile(""), [f"{self._path}: cannot be read: {error.strerror}"]
        self._version = version
        self._known.clear()
        for fault in faults:
            log.error("%s; until that is mended, nobody logs in by it", fault)


def credentials(authorization: str) -> tuple[str, str] | None:
    """User and password of a Basic credential (RFC 7617), None when it is none."""
    scheme, _, encoded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def _matches(users: HtpasswdFile, user: str, password: str) -> bool:
    if user not in users.users:
        # As long as for one that is there: the time must not tell.
        user, password = next(iter(users.users), ""), ""
        _checked(users, user, password)
        return False
    return _checked(users, user, password)


def _checked(users: HtpasswdFile, user: str, password: str) -> bool:
    try:
        return users.check_password(user, password)
    except ValueError:
        # What bcrypt cannot take: more than 72 bytes, or a NUL.
        return False
