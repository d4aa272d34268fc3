"""Connects to endpoints as pulls do, and says what is wrong with them."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from addon import peers
from addon.addresses import forbidden
from addon.config.current import Current
from addon.config.model import Tls, is_loopback
from addon.upstream import challenge, findings
from addon.upstream.client import Upstream, new_context
from addon.upstream.findings import Finding
from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from addon.config.model import Config, Endpoint
    from addon.loops import Via
    from addon.parent import Parents
    from addon.upstream.findings import Certificate
    from addon.upstream.response import Response

# Endpoints that are looked at at once.
_AT_ONCE = 8
_UNVERIFIED = Tls(verify=False)
_WHO = "see whether a registry listens there, whether it wants a client certificate (keypair), and into its log"


class Probe:
    """For one configuration. Made inside a running event loop; `close` it."""

    def __init__(
        self, config: Config, via: Via, parents: Parents, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._upstream = Upstream(Current(config), via, parents)
        self._now = now
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        await self._upstream.close()

    async def look(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, Finding]:
        """What there is to find at each of them."""
        wanted = list(dict.fromkeys(endpoints))
        return dict(zip(wanted, await asyncio.gather(*map(self._one, wanted)), strict=True))

    async def _one(self, endpoint: Endpoint) -> Finding:
        finding = Finding(endpoint)
        if endpoint.authority.startswith("*"):
            finding.notes.append("stands for many hosts: there is none to try")
            return finding
        async with self._room:
            await self._try(finding)
        return finding

    async def _try(self, finding: Finding) -> None:
        endpoint = finding.endpoint
        url = URL(f"{endpoint.url}{root(endpoint)}", encoded=True)
        parent = self._upstream.parent(url)
        if parent:
            finding.notes.append(f"through {parent}")
        else:
            finding.notes += await _addresses(url)
        seen = _Seen(await self._upstream.tls(endpoint, url))
        began = time.monotonic()
        try:
            response = await self._upstream.probe(endpoint, url, context=seen.context)
        except EndpointError as error:
            finding.chain = seen.chain
            await self._unreached(finding, url, error)
            return
        finding.seconds = time.monotonic() - began
        finding.chain = seen.chain
        async with response:
            await self._answered(finding, url, response)

    async def _answered(self, finding: Finding, url: URL, response: Response) -> None:
        endpoint = finding.endpoint
        finding.status = response.status
        if skewed := findings.clock(response.headers.get("Date"), self._now()):
            finding.problems.append(skewed)
        if url.scheme == "http" and response.status == 400 and (chain := await self._speaks_tls(endpoint, url)):
            _not_plain(finding, chain)
            return
        if response.status == 401 or 300 <= response.status < 400 or endpoint.auth:
            await self._as_itself(finding, url, asked=response.status == 401)
        else:
            _judge(finding, response)

    async def _as_itself(self, finding: Finding, url: URL, *, asked: bool) -> None:
        """Asks again as the proxy is known there, after redirects. `asked`: whether it wanted to know who that is."""
        endpoint = finding.endpoint
        try:
            response = await self._upstream.probe(endpoint, url, itself=True)
        except EndpointError as error:
            remedy = (
                "see what it redirects to, or its token server" if endpoint.auth is None else "put that right first"
            )
            if error.status == 401:
                remedy = "log in anew, or write the right user and password where the credential is kept"
            finding.wrong(str(error), remedy)
            return
        async with response:
            finding.status = response.status
            if response.status == 401:
                await self._unknown(finding, response)
                return
            if endpoint.auth:
                finding.notes.append(f"{endpoint.auth} {'is accepted' if asked else 'is not asked for here'}")
            elif asked:
                finding.notes.append("gives anybody a token")
            _judge(finding, response)

    async def _unknown(self, finding: Finding, refusal: Response) -> None:
        """It wants to know who asks, and nothing of ours will do."""
        endpoint = finding.endpoint
        challenges = refusal.headers.getall("WWW-Authenticate", [])
        wanted = challenge.bearer(challenges)
        if wanted:
            try:
                realm = URL(wanted.realm)
                async with await self._upstream.probe(endpoint, realm):
                    pass
            except (EndpointError, ValueError) as error:
                where = "" if isinstance(error, ValueError) else f" at {realm.origin()}"
                finding.wrong(f"its token server{where}: {error}", "pulls need that one as well")
                return
        elif not challenge.basic(challenges):
            finding.wrong(
                "it refuses (HTTP 401) and does not say how to log in", "look whether it is a registry at all"
            )
            return
        how = "a token" if wanted else "a user and password"
        if endpoint.is_origin and endpoint.auth is None:
            finding.notes.append(f"wants {how}, which clients get with their own login")
        else:
            why = f"{endpoint.auth} gives none" if endpoint.auth else "there is none of ours for it"
            finding.wrong(
                f"it wants {how}, and {why}", f'write [registry."{endpoint.authority}".auth]: see docs/credentials.md'
            )

    async def _unreached(self, finding: Finding, url: URL, error: EndpointError) -> None:
        endpoint, fault = finding.endpoint, error.fault
        where = f"{endpoint.name} ({endpoint.place})"
        parent = self._upstream.parent(url)
        match fault:
            case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
                finding.wrong(str(error), f"correct ${parent.variable} in the proxy's environment" if parent else "")
            case aiohttp.ClientConnectorDNSError() if parent:
                finding.wrong(str(error), f"correct ${parent.variable} in the proxy's environment")
            case aiohttp.ClientConnectorDNSError():
                finding.wrong(str(error), f"correct the name in {where}, or have this machine's DNS know it")
            case aiohttp.ClientConnectorCertificateError():
                await self._unverified(finding, url, fault)
            case aiohttp.ClientConnectorSSLError():
                await self._no_tls(finding, url, error)
            case aiohttp.ConnectionTimeoutError():
                # asyncio makes this of some servers' wish for a client certificate, too.
                finding.wrong(str(error), f"see whether a firewall lets this machine through; {_WHO}")
            case aiohttp.ClientConnectorError(errno=errno.ECONNREFUSED):
                finding.wrong(f"{error}: nothing listens there", f"start it, or correct the port in {where}")
            case aiohttp.ClientConnectorError():
                finding.wrong(str(error), "see whether this machine has a way there")
            case _ if url.scheme == "http" and (chain := await self._speaks_tls(endpoint, url)):
                _not_plain(finding, chain)
            case _:
                finding.wrong(str(error), _WHO)

    async def _unverified(self, finding: Finding, url: URL, fault: aiohttp.ClientConnectorCertificateError) -> None:
        refused = fault.certificate_error
        code, message = getattr(refused, "verify_code", 0), getattr(refused, "verify_message", str(refused))
        seen, date = _Seen(_UNVERIFIED), None
        try:
            async with await self._upstream.probe(finding.endpoint, url, context=seen.context) as response:
                date = response.headers.get("Date")
        except EndpointError:
            pass  # the certificates are what is wanted
        finding.chain = seen.chain
        finding.problems.append(
            findings.untrusted(finding.endpoint, url.host or "", code, message, seen.chain, date, self._now())
        )

    async def _no_tls(self, finding: Finding, url: URL, error: EndpointError) -> None:
        endpoint = finding.endpoint
        try:
            async with await self._upstream.probe(endpoint, url.with_scheme("http").with_port(url.port)):
                pass
        except EndpointError:
            finding.wrong(str(error), _WHO)
        else:
            finding.wrong(
                "it speaks plain http, and is asked over https",
                f"correct the port, or, where the network is to be trusted, write http = true under"
                f' [registry."{endpoint.authority}"]',
            )

    async def _speaks_tls(self, endpoint: Endpoint, url: URL) -> tuple[Certificate, ...]:
        seen = _Seen(_UNVERIFIED)
        try:
            async with await self._upstream.probe(
                endpoint, url.with_scheme("https").with_port(url.port), context=seen.context
            ):
                pass
        except EndpointError:
            pass  # the certificates are what is wanted
        return seen.chain


class _Seen:
    """TLS that remembers the certificates that it was shown."""

    def __init__(self, tls: Tls) -> None:
        seen: list[bytes] = []

        # The loop's own TLS has the one, that through a parent proxy the other.
        class Socket(ssl.SSLSocket):
            def do_handshake(self, block: bool = False) -> None:
                super().do_handshake(block)
                seen[:] = peers.chain(self)

        class Object(ssl.SSLObject):
            def do_handshake(self) -> None:
                super().do_handshake()
                seen[:] = peers.chain(self)

        self.context = new_context(tls)
        self.context.sslsocket_class, self.context.sslobject_class = Socket, Object
        self._seen = seen

    @property
    def chain(self) -> tuple[Certificate, ...]:
        return tuple(map(findings.certificate, self._seen))


def _judge(finding: Finding, response: Response) -> None:
    content_type = response.headers.get("Content-Type", "")
    if problem := findings.answered(finding.endpoint, response.url.path, response.status, content_type):
        finding.problems.append(problem)


def root(endpoint: Endpoint) -> str:
    """The path at which the endpoint says whether it is a registry."""
    before, found, _ = f"{endpoint.base}/".partition("/v2/")
    return before + (found or "")


def _not_plain(finding: Finding, chain: tuple[Certificate, ...]) -> None:
    finding.chain = chain
    mends = "http = false" if is_loopback(URL(finding.endpoint.url).host or "") else "no http = true"
    finding.wrong(
        "it speaks TLS, and is asked over plain http", f'write {mends} under [registry."{finding.endpoint.authority}"]'
    )


async def _addresses(url: URL) -> list[str]:
    """Where the name leads; nothing where that is what the connection will fail by."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.raw_host or "", url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    told = [f"{each} ({why})" if (why := forbidden(each)) else each for each in addresses]
    return [f"at {', '.join(told)}"] if [*addresses] != [url.host] else []
