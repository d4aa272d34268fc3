"""Bearer tokens that the proxy gets for itself (the distribution token spec)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from yarl import URL

from addon.config.login import IdentityToken, Login, Password
from addon.upstream.credentials import LoginRefused
from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from addon.config.model import Endpoint
    from addon.upstream.challenge import Bearer
    from addon.upstream.response import Response

    _Key = tuple[URL, str, Login | None]  # the origin of the URL (RFC 6454), the repository there, and whose it is

# The token spec's own default when expires_in is missing, and a margin for the way there.
_LIFE, _LIFE_MAX, _MARGIN = 60.0, 30 * 86400.0, 10.0
_MOST = 1000
_MAX_ANSWER = 1 << 20
_CLIENT = "mirrortap"


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    expires: float  # on the monotonic clock

    @property
    def stale(self) -> bool:
        return self.expires <= time.monotonic()


class Send(Protocol):
    """Asks a token server on behalf of an endpoint: GET, or POST with a form. May raise EndpointError."""

    async def __call__(
        self, endpoint: Endpoint, realm: URL, authorization: str | None, form: dict[str, str] | None
    ) -> Response: ...


class Tokens:
    """Those that are held, each for one repository at one host, for anybody or for one login."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tokens: dict[_Key, _Token] = {}
        self._renewals: dict[_Key, asyncio.Task[bool]] = {}

    def authorization(self, url: URL, name: str, login: Login | None = None) -> str | None:
        """The header's value for repository `name` at `url`, if a token is held."""
        token = self._tokens.get((url.origin(), name, login))
        return f"Bearer {token.value}" if token and not token.stale else None

    async def renew(
        self, endpoint: Endpoint, refusal: Response, name: str, wanted: Bearer, login: Login | None = None
    ) -> bool:
        """Gets the token that a 401 asks for; False when there is none.

        Without a login an anonymous one, and there is none, either, when the token server fails. With a login that
        raises EndpointError, and a login that the token server refuses LoginRefused.
        """
        key = (refusal.url.origin(), name, login)
        known = self.authorization(refusal.url, name, login)
        if known and refusal.sent_authorization != known:
            return True
        # One exchange, and one failure, for the many blobs of an image that are asked for at once.
        renewal = self._renewals.get(key)
        if renewal is None:
            renewal = asyncio.create_task(self._renew(key, endpoint, wanted))
            # mitmproxy's loop begins tasks at once: one that had nothing to wait for has ended.
            if not renewal.done():
                self._renewals[key] = renewal
            # Those who wanted to know may have left.
            renewal.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(renewal)

    async def _renew(self, key: _Key, endpoint: Endpoint, wanted: Bearer) -> bool:
        login = key[2]
        try:
            token = await (self._exchange(endpoint, wanted, login) if login else self._anonymous(endpoint, wanted))
            if len(self._tokens) >= _MOST:
                self._tokens = {k: t for k, t in self._tokens.items() if not t.stale}
            # In one go with the end of the renewal: who is refused in between would begin another.
            self._tokens.pop(key, None)
            if token:
                self._tokens[key] = token
            return token is not None
        finally:
            self._renewals.pop(key, None)

    async def _anonymous(self, endpoint: Endpoint, wanted: Bearer) -> _Token | None:
        realm = _realm(endpoint, wanted)
        if realm is None:
            return None
        try:
            async with await self._send(endpoint, realm.update_query(_named(wanted)), None, None) as response:
                return _token(await response.read_all(_MAX_ANSWER)) if response.status == 200 else None
        except EndpointError:
            return None

    async def _exchange(self, endpoint: Endpoint, wanted: Bearer, login: Login) -> _Token | None:
        realm = _realm(endpoint, wanted)
        if realm is None:
            raise EndpointError("names a token server without https, to which a credential must not be shown")
        where = f"the token server at {realm.authority}"
        try:
            async with await self._ask(endpoint, realm, wanted, login) as response:
                status, answer = response.status, await response.read_all(_MAX_ANSWER)
        except EndpointError as error:
            raise EndpointError(f"{where}: {error}") from None
        if status == 401 or (isinstance(login, IdentityToken) and status == 400):  # RFC 6749, 5.2
            raise LoginRefused(None)
        if isinstance(login, IdentityToken) and status in (404, 405):
            raise EndpointError(f"{where} does not take identity tokens (HTTP {status}): use a password")
        if 400 <= status < 500 and status not in (408, 425, 429):
            return None
        token = _token(answer) if status == 200 else None
        if token is None:
            raise EndpointError(f"{where} answered HTTP {status}{' without a token' if status == 200 else ''}")
        return token

    async def _ask(self, endpoint: Endpoint, realm: URL, wanted: Bearer, login: Login) -> Response:
        if isinstance(login, IdentityToken):
            # The distribution OAuth2 spec.
            form = {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": login.value, **_named(wanted)}
            return await self._send(endpoint, realm, None, form)
        assert isinstance(login, Password)
        return await self._send(endpoint, realm.update_query(_named(wanted)), login.authorization, None)


def _realm(endpoint: Endpoint, wanted: Bearer) -> URL | None:
    """Where a token is to be had; None when that is no place to send to: https is, or http for an http endpoint."""
    try:
        realm = URL(wanted.realm)
        realm.origin()
    except ValueError:
        return None
    safe = realm.scheme == "https" or (realm.scheme == "http" and endpoint.url.startswith("http:"))
    return realm if safe else None


def _named(wanted: Bearer) -> dict[str, str]:
    named = {"service": wanted.service, "scope": wanted.scope}
    return {name: value for name, value in named.items() if value}


def _token(answered: bytes) -> _Token | None:
    """What a token server gave, if that is one."""
    try:
        answer: Any = json.loads(answered)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
        return None
    life = answer.get("expires_in")
    life = life if isinstance(life, int | float) and 0 < life < _LIFE_MAX else _LIFE
    return _Token(value, time.monotonic() + max(life - _MARGIN, life / 2))
