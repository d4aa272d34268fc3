"""Talking to an endpoint: connections, TLS, redirects, and the proxy's own anonymous tokens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import certifi
from yarl import URL

from addon import __version__
from addon.config.model import Config, Endpoint, Tls, host_of
from addon.upstream.challenge import Bearer, bearer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from multidict import CIMultiDictProxy

    Headers = Sequence[tuple[str, str]]

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A registry may take long over the end of an upload: it moves the blob into its storage before it answers.
_UPLOAD_ANSWER = 15 * 60.0
# The token spec's own default when expires_in is missing, and a margin for the way there.
_TOKEN_LIFE, _TOKEN_LIFE_MAX, _TOKEN_MARGIN = 60.0, 30 * 86400.0, 10.0
_AGENT = ("User-Agent", f"mirrortap/{__version__}")
_MAX_TOKENS = 1000
_MAX_TOKEN_ANSWER = 1 << 20
_READ_AHEAD = 1 << 20
_MAX_HEADER = 64 << 10


class EndpointError(Exception):
    """No HTTP answer came from the endpoint, or its body broke off; the message says why, for people."""


class Response:
    """An endpoint's answer, its body not read yet."""

    def __init__(self, endpoint: Endpoint, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self._response = response

    @property
    def source(self) -> str:
        """The endpoint's name."""
        return self.endpoint.name

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The headers exactly as they came; bytes that are not UTF-8 as surrogates."""
        raw = self._response.raw_headers
        return [(n.decode("utf-8", "surrogateescape"), v.decode("utf-8", "surrogateescape")) for n, v in raw]

    @property
    def url(self) -> URL:
        """Where the answer came from, after redirects."""
        return self._response.url

    @property
    def sent_authorization(self) -> str | None:
        return self._response.request_info.headers.get("Authorization")

    @property
    def size(self) -> int | None:
        """Content-Length in bytes; None when it is not said, or is nonsense."""
        length = self.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None

    async def read(self) -> bytes:
        """What has come of the body, b"" at its end. Raises EndpointError when it breaks off or stalls."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # What came before the break is still in there, megabytes maybe; aiohttp has no public way to it.
            if left := self._response.content._read_nowait(-1):
                return left
            raise EndpointError(f"the body broke off: {_reason(error)}") from None

    async def read_all(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes. Raises EndpointError."""
        content = bytearray()
        while chunk := await self.read():
            content += chunk
            if len(content) > limit:
                raise EndpointError(f"the body has more than {limit} bytes")
        return bytes(content)

    async def close(self) -> None:
        """Gives the connection back when the body was read to its end, drops it otherwise."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@dataclass(frozen=True)
class _Token:
    value: str
    expires: float  # on the monotonic clock

    @property
    def stale(self) -> bool:
        return self.expires <= time.monotonic()


class Upstream:
    """One connection pool for all endpoints. Made inside a running event loop; `close` it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._contexts: dict[Tls, ssl.SSLContext] = {}
        self._tokens: dict[tuple[URL, str], _Token] = {}  # by the origin of the URL (RFC 6454) and the repository
        self._renewals: dict[tuple[URL, str], asyncio.Task[bool]] = {}
        self._session = _session(aiohttp.TCPConnector(limit=0))
        # A connection that was kept does not tell whether there is still somebody at its other end.
        self._unkept = _session(aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> None:
        await self._session.close()
        await self._unkept.close()

    async def pull(
        self,
        endpoint: Endpoint,
        method: str,
        repository: str,
        rest: str,
        headers: Headers,
        *,
        registry: str,
    ) -> Response:
        """Asks for `<repository>/<rest>` without the client's credential, as anybody may.

        Follows redirects; where the endpoint wants a token, the proxy gets an anonymous one. Raises EndpointError.
        """
        path = "/".join(filter(None, ("/v2", endpoint.path, repository, rest)))
        # `ns` tells a mirror which registry is meant (distribution-spec, "Registry Proxying").
        query = "" if endpoint.is_origin else f"?ns={registry}"
        url = URL(f"{endpoint.url}{path}{query}", encoded=True)
        name = f"{endpoint.path}/{repository}"
        headers = [*headers, ("Accept-Encoding", "identity"), _AGENT]
        response = await self._follow(endpoint, method, url, headers, name)
        if response.status != 401:
            return response
        try:
            wanted = bearer(response.headers.getall("WWW-Authenticate", []))
            # The challenge is of the host at the end of the redirects (lscr.io's is ghcr.io's), and so is the token.
            if not wanted or not await self._authorize(endpoint, response, name, wanted):
                return response
        except asyncio.CancelledError:
            await response.close()
            raise
        await response.close()
        return await self._follow(endpoint, method, response.url, headers, name)

    async def relay(
        self,
        endpoint: Endpoint,
        method: str,
        target: str,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
        *,
        follow: bool = False,
        connect: float | None = None,
    ) -> Response:
        """Asks the origin exactly what the client asked, with the client's own headers. Raises EndpointError.

        With `connect`, on a connection of its own, which must be there within so many seconds, name and TLS included.
        """
        url = URL(f"{endpoint.url}{target}", encoded=True)
        if follow:
            return await self._follow(endpoint, method, url, headers)
        return await self._send(endpoint, method, url, headers, endpoint.tls, body, connect)

    async def _follow(
        self, endpoint: Endpoint, method: str, url: URL, headers: Headers, token_for: str | None = None
    ) -> Response:
        for _ in range(_MAX_REDIRECTS + 1):
            token = self._tokens.get((url.origin(), token_for)) if token_for else None
            sent = [*headers, ("Authorization", f"Bearer {token.value}")] if token and not token.stale else headers
            response = await self._send(endpoint, method, url, sent, self._tls(endpoint, url))
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            await response.close()
            try:
                target = url.join(URL(response.headers["Location"], encoded=True))
                # A port that is none is only found out when it is looked at.
                usable = target.scheme in ("http", "https") and target.host
            except ValueError:
                usable = None
            if not usable:
                raise EndpointError("redirects to something that is not an http URL")
            if target.origin() != url.origin():
                headers = [(name, value) for name, value in headers if name.lower() != "authorization"]
            url = target
        raise EndpointError(f"redirects more than {_MAX_REDIRECTS} times")

    async def _send(
        self,
        endpoint: Endpoint,
        method: str,
        url: URL,
        headers: Headers,
        tls: Tls,
        body: AsyncIterator[bytes] | None = None,
        connect: float | None = None,
    ) -> Response:
        session = self._session if connect is None else self._unkept
        timeouts = self._config.timeouts
        # While a client uploads, silence from the registry means nothing.
        patience = _UPLOAD_ANSWER if body is not None else None
        try:
            async with asyncio.timeout(patience or timeouts.first_byte):
                response = await session.request(
                    method,
                    url,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    ssl=self._context(tls),
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=connect,
                        sock_connect=timeouts.connect,
                        sock_read=patience or timeouts.stall,
                    ),
                )
        except aiohttp.ServerTimeoutError as error:
            raise EndpointError(_reason(error)) from None
        except TimeoutError:
            raise EndpointError(f"no answer within {timeouts.first_byte:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EndpointError(_reason(error)) from None
        return Response(endpoint, response)

    async def _authorize(self, endpoint: Endpoint, refusal: Response, name: str, wanted: Bearer) -> bool:
        """Gets the anonymous token that a 401 asks for; False when there is none, or it is the one refused."""
        key = (refusal.url.origin(), name)
        known = self._tokens.get(key)
        if known and not known.stale and refusal.sent_authorization != f"Bearer {known.value}":
            return True
        # One exchange, and one failure, for the many blobs of an image that are asked for at once.
        renewal = self._renewals.get(key)
        if renewal is None:
            renewal = self._renewals[key] = asyncio.create_task(self._renew(key, endpoint, wanted))
        return await asyncio.shield(renewal)

    async def _renew(self, key: tuple[URL, str], endpoint: Endpoint, wanted: Bearer) -> bool:
        try:
            token = await self._exchange(endpoint, wanted)
            if len(self._tokens) >= _MAX_TOKENS:
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
            async with await self._send(endpoint, "GET", realm, [_AGENT], self._tls(endpoint, realm)) as response:
                if response.status != 200:
                    return None
                answer: Any = json.loads(await response.read_all(_MAX_TOKEN_ANSWER))
        except (EndpointError, ValueError, RecursionError):
            return None
        if not isinstance(answer, dict):
            return None
        value = answer.get("token") or answer.get("access_token")
        if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
            return None
        life = answer.get("expires_in")
        life = life if isinstance(life, int | float) and 0 < life < _TOKEN_LIFE_MAX else _TOKEN_LIFE
        return _Token(value, time.monotonic() + max(life - _TOKEN_MARGIN, life / 2))

    def _tls(self, endpoint: Endpoint, url: URL) -> Tls:
        """How `url`, reached on behalf of `endpoint`, is verified."""
        if url.host == host_of(endpoint.url.partition("://")[2]):
            return endpoint.tls
        configured = self._config.tls.get(url.authority.lower().removesuffix(":443"))
        # A private registry's CDN and token server often have its CA; its client key and its leniency are its own.
        return configured or replace(Tls(), ca=endpoint.tls.ca)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        context = self._contexts.get(tls)
        if context is None:
            context = ssl.create_default_context()
            paths = ssl.get_default_verify_paths()
            if not paths.cafile and not paths.capath:
                context.load_verify_locations(certifi.where())
            for ca in tls.ca:
                context.load_verify_locations(ca)
            for pair in tls.keypairs:
                context.load_cert_chain(pair.certificate, pair.key)
            if not tls.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[tls] = context
        return context


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        # The store holds the bytes a digest is of, and what passes through is not ours to change.
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=_READ_AHEAD,
        max_line_size=_MAX_HEADER,
        max_field_size=_MAX_HEADER,
    )


def _reason(error: Exception) -> str:
    """`error` in words that name no URL: a signed one is a secret."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.SocketTimeoutError():
            return "no data in time"
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {getattr(error.certificate_error, 'verify_message', error.certificate_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"DNS: {error.host} is not known"
        case aiohttp.ClientConnectorSSLError():
            return f"TLS: {getattr(error.os_error, 'reason', None) or error.os_error}"
        case aiohttp.ClientConnectorError():
            return os.strerror(error.errno) if error.errno else str(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "fewer bytes than announced, or broken framing"
        case aiohttp.ClientResponseError():
            return f"not a valid HTTP answer: {error.message.splitlines()[0] if error.message else 'bad framing'}"
        case aiohttp.InvalidURL():
            return "not a valid URL"
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return type(error).__name__
