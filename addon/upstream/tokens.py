"""Bearer tokens that the proxy gets for itself (the distribution token spec)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yarl import URL

from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from addon.config.model import Endpoint
    from addon.upstream.challenge import Bearer
    from addon.upstream.response import Response

    _Key = tuple[URL, str]  # the origin of the URL (RFC 6454), and the repository there

# The token spec's own default when expires_in is missing, and a margin for the way there.
_LIFE, _LIFE_MAX, _MARGIN = 60.0, 30 * 86400.0, 10.0
_MOST = 1000
_MAX_ANSWER = 1 << 20


@dataclass(frozen=True)
class _Token:
    value: str
    expires: float  # on the monotonic clock

    @property
    def stale(self) -> bool:
        return self.expires <= time.monotonic()


class Tokens:
    """Those that are held, each for one repository at one host."""

    def __init__(self, send: Callable[[Endpoint, URL], Awaitable[Response]]) -> None:
        """`send` asks a token server, on behalf of an endpoint. It may raise EndpointError."""
        self._send = send
        self._tokens: dict[_Key, _Token] = {}
        self._renewals: dict[_Key, asyncio.Task[bool]] = {}

    def authorization(self, url: URL, name: str) -> str | None:
        """The header's value for repository `name` at `url`, if a token is held."""
        token = self._tokens.get((url.origin(), name))
        return f"Bearer {token.value}" if token and not token.stale else None

    async def renew(self, endpoint: Endpoint, refusal: Response, name: str, wanted: Bearer) -> bool:
        """Gets the anonymous token that a 401 asks for; False when there is none, or it is the one refused."""
        key = (refusal.url.origin(), name)
        known = self.authorization(refusal.url, name)
        if known and refusal.sent_authorization != known:
            return True
        # One exchange, and one failure, for the many blobs of an image that are asked for at once.
        renewal = self._renewals.get(key)
        if renewal is None:
            renewal = self._renewals[key] = asyncio.create_task(self._renew(key, endpoint, wanted))
        return await asyncio.shield(renewal)

    async def _renew(self, key: _Key, endpoint: Endpoint, wanted: Bearer) -> bool:
        try:
            token = await self._exchange(endpoint, wanted)
            if len(self._tokens) >= _MOST:
                self._tokens = {k: t for k, t in self._tokens.items() if not t.stale}
            # In one go with the end of the renewal: who is refused in between would begin another.
            self._tokens.pop(key, None)
            if token:
                self._tokens[key] = token
            return token is not None
        finally:
            del self._renewals[key]

    async def _exchange(self, endpoint: Endpoint, wanted: Bearer) -> _Token | None:
        try:
            realm = URL(wanted.realm)
            if realm.scheme != "https" and not (realm.scheme == "http" and endpoint.url.startswith("http:")):
                return None
            named = {"service": wanted.service, "scope": wanted.scope}
            realm = realm.update_query({name: value for name, value in named.items() if value})
            async with await self._send(endpoint, realm) as response:
                if response.status != 200:
                    return None
                answer: Any = json.loads(await response.read_all(_MAX_ANSWER))
        except (EndpointError, ValueError, RecursionError):
            return None
        if not isinstance(answer, dict):
            return None
        value = answer.get("token") or answer.get("access_token")
        if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
            return None
        life = answer.get("expires_in")
        life = life if isinstance(life, int | float) and 0 < life < _LIFE_MAX else _LIFE
        return _Token(value, time.monotonic() + max(life - _MARGIN, life / 2))
