"""The proxy's own credentials: read anew for each use, asked of helpers now and then, not shown again once refused."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.config import docker_config, secrets
from addon.config.docker_config import Helper
from addon.config.login import Login, Password, RegistryToken
from addon.config.secrets import SecretError
from addon.upstream import helpers
from addon.upstream.helpers import HelperError
from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from addon.config.model import Auth

log = logging.getLogger("mirrortap")

# Seconds: helpers do not say how long what they give is good for, so they are asked again after that; before the end of
# a secret that does say; at the earliest; after a failure; and how long a login that was refused is not shown again.
_LIFE, _MARGIN, _LIFE_MIN = 600.0, 60.0, 10.0
_FAILURE, _REFUSAL = 30.0, 60.0
_MOST = 1000


class LoginRefused(Exception):
    """A 401 to the proxy's own credential: for `repository`, or for all of them."""

    def __init__(self, repository: str | None) -> None:
        super().__init__("401")
        self.repository = repository


@dataclass(frozen=True)
class _Answer:
    """What a helper gave, or why it did not; since when, and until when that counts, on the monotonic clock."""

    login: Login | str
    since: float
    until: float


class Credentials:
    """What the configuration's credentials are just now."""

    def __init__(self) -> None:
        self._answers: dict[Helper, _Answer] = {}
        self._runs: dict[Helper, asyncio.Task[_Answer]] = {}
        self._refused: dict[tuple[Auth, Login, str | None], float] = {}

    async def close(self) -> None:
        """Ends the helpers that run."""
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def of(self, auth: Auth, repository: str) -> Login:
        """The login that `auth` names, for a repository. Raises EndpointError when it cannot be had, or was refused."""
        login = await self._current(auth)
        now = time.monotonic()
        if any(self._refused.get((auth, login, where), now) > now for where in (None, repository)):
            raise _refusal(auth)
        return login

    async def instead(self, auth: Auth, refused: Login, refusal: LoginRefused) -> Login:
        """What `auth` names now that `refused` was refused. Raises EndpointError when that is the same still."""
        # Who is refused at the same time as others must not have the helper asked once more for the same answer.
        login = await self.of(auth, refusal.repository or "")
        if login == refused:
            # Nor must one who asks for much that the credential may not read have it run all the time.
            old = time.monotonic() - _LIFE_MIN
            self._answers = {h: a for h, a in self._answers.items() if a.login != refused or a.since > old}
            login = await self._current(auth)
        if login != refused:
            return login
        raise self.refused(auth, refused, refusal)

    def refused(self, auth: Auth, login: Login, refusal: LoginRefused) -> EndpointError:
        """Notes that; the error to raise."""
        now, key = time.monotonic(), (auth, login, refusal.repository)
        if len(self._refused) >= _MOST:
            self._refused = {key: until for key, until in self._refused.items() if until > now}
        if self._refused.get(key, now) <= now:
            what = f" for {refusal.repository.lstrip('/')}" if refusal.repository else ""
            log.warning("%s was refused%s: not tried again for %.0f s, unless it changes", auth, what, _REFUSAL)
        self._refused[key] = now + _REFUSAL
        return _refusal(auth)

    async def _current(self, auth: Auth) -> Login:
        try:
            found = await asyncio.to_thread(_read, auth)
        except (SecretError, ValueError) as error:
            raise EndpointError(f"{auth} cannot be had: {error}") from None
        return await self._helped(auth, found) if isinstance(found, Helper) else found

    async def _helped(self, auth: Auth, helper: Helper) -> Login:
        answer = self._answers.get(helper)
        if answer is None or answer.until <= time.monotonic():
            run = self._runs.get(helper)
            if run is None:
                run = asyncio.create_task(self._run(helper))
                # mitmproxy's loop begins tasks at once: that of a program that cannot be run has ended.
                if not run.done():
                    self._runs[helper] = run
            answer = await asyncio.shield(run)
        if isinstance(answer.login, str):
            raise EndpointError(f"{auth} cannot be had: {helper.program} {answer.login}")
        return answer.login

    async def _run(self, helper: Helper) -> _Answer:
        try:
            try:
                login = await helpers.ask(helper)
            except HelperError as error:
                now = time.monotonic()
                answer = _Answer(str(error), now, now + _FAILURE)
            else:
                now, ends = time.monotonic(), helpers.expiry(login)
                life = _LIFE if ends is None else min(_LIFE, ends - _MARGIN - time.time())
                answer = _Answer(login, now, now + max(life, _LIFE_MIN))
            self._answers[helper] = answer
            return answer
        finally:
            self._runs.pop(helper, None)


def _read(auth: Auth) -> Login | Helper:
    """Raises SecretError, or ValueError."""
    if auth.docker_config:
        return docker_config.read(auth.docker_config, auth.registry)
    if auth.password:
        return Password(auth.username or "", secrets.read(auth.password))
    assert auth.token
    return RegistryToken(secrets.read(auth.token))


def _refusal(auth: Auth) -> EndpointError:
    return EndpointError(f"{auth} was refused", 401)
