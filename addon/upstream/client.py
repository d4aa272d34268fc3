"""Talking to an endpoint: connections, TLS, redirects, and what is shown there of the proxy itself."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import aiohttp
import certifi
from yarl import URL

from addon import __version__
from addon.config.model import Tls, host_of
from addon.upstream.authorization import Authorizations
from addon.upstream.connecting import Connections, Misled
from addon.upstream.credentials import Credentials, LoginRefused
from addon.upstream.leniency import Leniency
from addon.upstream.response import EndpointError, Response, reason
from addon.upstream.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from addon.config.current import Current
    from addon.config.login import Login
    from addon.config.model import Config, Endpoint
    from addon.loops import Via
    from addon.parent import Parent, Parents

    Headers = Sequence[tuple[str, str]]

log = logging.getLogger("mirrortap")

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A registry may take long over the end of an upload: it moves the blob into its storage before it answers.
_UPLOAD_ANSWER = 15 * 60.0
_FORM = ("Content-Type", "application/x-www-form-urlencoded")
_AGENT = ("User-Agent", f"mirrortap/{__version__}")


class Upstream:
    """All endpoints, and what they lead to. Made inside a running event loop; `close` it."""

    def __init__(self, current: Current, via: Via, parents: Parents | None = None) -> None:
        self._current = current
        self._via = via
        # Others with each configuration: a file may have been replaced under its name.
        self._contexts: Callable[[], dict[Tls, ssl.SSLContext]] = current.derived(lambda _: {})
        self._credentials = Credentials()
        self._authorizations = Authorizations(Tokens(self._send_for_token))
        self._connections = Connections(current, parents)
        self._leniency = Leniency()

    @property
    def _config(self) -> Config:
        return self._current.config

    async def close(self) -> None:
        await self._credentials.close()
        await self._leniency.close()
        await self._connections.close()

    async def tls(self, endpoint: Endpoint, url: URL) -> Tls:
        """How `url`, reached on behalf of the endpoint, is verified just now."""
        return await self._leniency.decided(self._tls(endpoint, url), url.host or "")

    def parent(self, url: URL) -> Parent | None:
        """The proxy through which `url` is asked for, if there is one."""
        return self._connections.parent(url)

    async def pull(
        self,
        endpoint: Endpoint,
        method: str,
        repository: str,
        rest: str,
        headers: Headers,
        *,
        registry: str,
        authorization: str | None = None,
    ) -> Response:
        """Asks for `<repository>/<rest>`, and follows redirects. Raises EndpointError.

        With the endpoint's own credential, else as anybody may: where it wants a token, the proxy gets one. Or, with
        `authorization`, as the client may whose header that is: the endpoint must be the origin.
        """
        name = endpoint.path(repository)
        url = URL(f"{endpoint.url}{name}/{rest}", encoded=True)
        if endpoint.told:
            url = url.update_query(ns=registry)
        headers = [*headers, ("Accept-Encoding", "identity"), _AGENT]
        if authorization is not None:
            return await self._follow(endpoint, method, url, [*headers, ("Authorization", authorization)])
        return await self._pull_as_itself(endpoint, method, url, headers, name)

    async def probe(
        self, endpoint: Endpoint, url: URL, *, itself: bool = False, context: ssl.SSLContext | None = None
    ) -> Response:
        """Asks for what is no content: whether somebody is there. Raises EndpointError.

        As anybody, or as the proxy `itself` is known there. `context`: TLS otherwise than the endpoint's.
        """
        if itself:
            return await self._pull_as_itself(endpoint, "GET", url, [_AGENT], url.path)
        return await self._send(endpoint, "GET", url, [_AGENT], self._tls(endpoint, url), context=context)

    async def _pull_as_itself(self, endpoint: Endpoint, method: str, url: URL, headers: Headers, name: str) -> Response:
        """With the endpoint's own credential, else as anybody may."""
        if endpoint.auth is None:
            return await self._pull_as(endpoint, method, url, headers, name, None)
        login = await self._credentials.of(endpoint.auth, name)
        try:
            return await self._pull_as(endpoint, method, url, headers, name, login)
        except LoginRefused as refusal:
            # A helper's may have run out, a file may have changed meanwhile.
            login = await self._credentials.instead(endpoint.auth, login, refusal)
        try:
            return await self._pull_as(endpoint, method, url, headers, name, login)
        except LoginRefused as refusal:
            raise self._credentials.refused(endpoint.auth, login, refusal) from None

    async def _pull_as(
        self, endpoint: Endpoint, method: str, url: URL, headers: Headers, name: str, login: Login | None
    ) -> Response:
        """Raises EndpointError and LoginRefused."""
        response = await self._follow(endpoint, method, url, headers, name, login)
        if response.status != 401:
            return response
        try:
            if not await self._authorizations.renew(endpoint, response, name, login):
                return response
        except BaseException:
            await response.close()
            raise
        await response.close()
        response = await self._follow(endpoint, method, response.url, headers, name, login)
        if response.status == 401 and self._authorizations.refused(endpoint, response, login):
            await response.close()
            raise LoginRefused(name)
        return response

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
        self,
        endpoint: Endpoint,
        method: str,
        url: URL,
        headers: Headers,
        name: str | None = None,
        login: Login | None = None,
    ) -> Response:
        """With the proxy's own authorization for repository `name`, where there is one."""
        for _ in range(_MAX_REDIRECTS + 1):
            authorization = self._authorizations.header(endpoint, url, name, login) if name else None
            sent = [*headers, ("Authorization", authorization)] if authorization else headers
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
        body: AsyncIterator[bytes] | bytes | None = None,
        connect: float | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Response:
        try:
            parent = self._connections.parent(url)
        except Misled as misled:
            raise EndpointError(misled.explain(url.host or "")) from None
        session = self._connections.session(url, endpoint, kept=connect is None)
        timeouts = self._config.timeouts
        sent = [*headers, *self._own(endpoint, url)]
        if parent and url.scheme == "http":
            sent.extend(parent.headers)
        # While a client uploads, silence from the registry means nothing.
        patience = None if isinstance(body, bytes | None) else _UPLOAD_ANSWER
        try:
            async with asyncio.timeout(patience or timeouts.first_byte):
                if url.scheme == "https":
                    tls = await self._leniency.decided(tls, url.host or "")
                response = await session.request(
                    method,
                    url,
                    headers=_spelled_alike(sent),
                    data=body,
                    allow_redirects=False,
                    ssl=context or self._context(tls),
                    proxy=f"http://{parent.authority}" if parent else None,
                    # Of the CONNECT alone.
                    proxy_headers=[*parent.headers, self._via.header, _AGENT] if parent else None,
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=connect,
                        sock_connect=endpoint.dial_timeout or timeouts.connect,
                        sock_read=patience or timeouts.stall,
                    ),
                )
        except aiohttp.ServerTimeoutError as error:
            raise EndpointError(reason(error, parent), fault=error) from None
        except TimeoutError as error:
            through = f", through {parent}" if parent else ""
            raise EndpointError(f"no answer within {timeouts.first_byte:g} s{through}", fault=error) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EndpointError(reason(error, parent), fault=error) from None
        if parent and response.status == 407:
            # To a plain http request; that to a CONNECT has been an error.
            response.close()
            raise EndpointError(parent.refusal(407, response.reason or ""))
        return Response(endpoint, response)

    def _own(self, endpoint: Endpoint, url: URL) -> Headers:
        """What the operator has us say to the endpoint, and to nobody that it leads to; and who we are."""
        here = url.origin() == URL(endpoint.url).origin()
        return [*(endpoint.headers if here else ()), self._via.header]

    async def _send_for_token(
        self, endpoint: Endpoint, realm: URL, authorization: str | None, form: dict[str, str] | None
    ) -> Response:
        headers, tls = [_AGENT], self._tls(endpoint, realm)
        if authorization:
            headers.append(("Authorization", authorization))
        try:
            if form is None:
                return await self._send(endpoint, "GET", realm, headers, tls)
            return await self._send(endpoint, "POST", realm, [*headers, _FORM], tls, urlencode(form).encode())
        except EndpointError as error:
            # Who asked for content will only hear of the 401 that remains.
            log.warning("%s: no token from its token server: %s", endpoint.name, error)
            raise

    def _tls(self, endpoint: Endpoint, url: URL) -> Tls:
        """How `url`, reached on behalf of `endpoint`, is verified."""
        if url.host == host_of(endpoint.url.partition("://")[2]):
            return endpoint.tls
        configured = self._config.tls.get(url.authority.lower().removesuffix(":443"))
        # A private registry's CDN and token server often have its CA; its client key and its leniency are its own.
        return configured or replace(Tls(), ca=endpoint.tls.ca)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        contexts = self._contexts()
        context = contexts.get(tls)
        if context is None:
            context = contexts[tls] = new_context(tls)
        return context


def new_context(tls: Tls) -> ssl.SSLContext:
    """What a server is verified by, and shown."""
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
    return context


def _spelled_alike(headers: Headers) -> Headers:
    """For aiohttp, which takes "Via" after "via" for another value in the first one's place."""
    spellings: dict[str, str] = {}
    return [(spellings.setdefault(name.lower(), name), value) for name, value in headers]
