"""The proxy door: mitmproxy's hooks on one side, the engine on the other."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mitmproxy import ctx, http
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy.layers import HttpLayer

from addon import addresses, journal
from addon.admission import rules
from addon.admission.gate import Refusal, login_to_proxy
from addon.body import BodyCut
from addon.counts import answered
from addon.doors import answers, live
from addon.doors.answers import RegistryResponse
from addon.doors.asked import SECRET_HEADERS, Asked, by_host, by_ticket
from addon.doors.guests import Guest
from addon.doors.handover import Handover, Tunnel
from addon.doors.leaves import Leaves
from addon.doors.streaming import (
    CHECKED,
    ITSELF,
    Ahead,
    RegistryHttpLayer,
    RegistryTLSLayer,
    RequestBody,
    Turn,
)
from addon.doors.tunnels import HangUp
from addon.doors.visitors import GRACE
from addon.doors.ways import Ways
from addon.oci import OciError
from addon.reply import Request
from ca.authority import AuthorityError

if TYPE_CHECKING:
    from mitmproxy import tls
    from mitmproxy.connection import Client
    from mitmproxy.proxy import layer
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layers.http import HTTPMode
    from mitmproxy.proxy.layers.modes import Socks5AuthData
    from mitmproxy.proxy.server_hooks import ServerConnectionHookData

    from addon.config.model import Admission, Config
    from addon.doors.handshake import Handshake
    from addon.doors.socks import Wish
    from addon.doors.streaming import Handing
    from addon.doors.tunnels import Begun
    from addon.service import Service

log = logging.getLogger("mirrortap")

# Lines that the log gets a minute about clients that keep us waiting.
_LINES = 60
# mitmproxy saves flows, and shows them; the engine gets these headers as they came.
_HIDDEN = "[hidden]"
# Of TLS clients, those that get http say so.
_NOT_TLS = b"HTTP/1.1 400 this port speaks http\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_COME_BACK = Refusal(
    508,
    "mirrortap got this request from itself: its own HTTPS_PROXY leads back to it",
    "mirrortap got this request from itself: the HTTPS_PROXY or HTTP_PROXY of its own environment leads back to it\n",
)
_USE_CONNECT = Refusal(
    400,
    "mirrortap speaks TLS for registries alone: use CONNECT",
    "mirrortap speaks TLS for registries alone; to reach other https hosts, clients use CONNECT\n",
)


class ProxyDoor:
    """A mitmproxy addon. `service` is what it leads to.

    With `hand_over`, mitmproxy sees of tunnels to registries no more than their beginning, and they are faster; without
    it they can be looked at there.
    """

    def __init__(self, service: Service, *, hand_over: bool = False) -> None:
        self._service = service
        self._hand_over = hand_over
        self._handover: Handover | None = None
        self._leaves = Leaves()
        self._gate = service.gate
        self._guests: dict[str, Guest] = {}
        self._ways = Ways(service, self._http)
        self._late = journal.Seldom(log, _LINES)
        self._busy: dict[str, Asked] = {}  # the requests that are under way
        self._idle = asyncio.Event()
        self._idle.set()
        self._leaving = False
        self._gone = asyncio.Event()  # nobody is left

    @property
    def _limits(self) -> Admission:
        return self._service.config.admission

    def running(self) -> None:
        _ = self._service.engine
        if self._hand_over:
            self._handover = Handover(self._service)

    # Connections.

    def client_connected(self, client: Client) -> None:
        address = str(addresses.parse(client.peername[0]))
        if not self._gate.enter(address):
            client.error = "turned away"
            return
        guest = self._guests[client.id] = Guest(address, self._limits.header, lambda: self._too_late(client))
        guest.awaited()
        self._ways.begun(client, guest)
        watchdog = live.proxyserver().connections[client.id].timeout_watchdog
        watchdog.timeout = self._limits.idle  # type: ignore[assignment]
        # Its own watch has begun with mitmproxy's timeout.
        guest.watched(watchdog.watch())

    def client_disconnected(self, client: Client) -> None:
        live.close_all(client.id)
        if guest := self._guests.pop(client.id, None):
            guest.left()
            self._gate.leave(guest.address)
            if not self._guests:
                self._gone.set()

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Whatever makes mitmproxy connect: it leads only where the gate has looked."""
        guest = self._guests.get(data.client.id)
        if guest is None or data.server.address not in guest.ways:
            data.server.error = "mirrortap has not let this connection through"

    def server_connected(self, data: ServerConnectionHookData) -> None:
        self._ways.connected(data.client, data.server)

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        self._ways.disconnected(data.server)

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        self._ways.not_connected(data.client, data.server)

    async def socks5_auth(self, login: Socks5AuthData) -> None:
        await self._ways.login(login)

    async def mirrortap_begun(self, begun: Begun) -> None:
        await self._ways.decide(begun, self._guests[begun.context.client.id])

    async def mirrortap_wish(self, wish: Wish) -> None:
        await self._ways.wished(wish, self._guests[wish.client.id])

    def _too_late(self, client: Client) -> None:
        self._late.warning(
            "%s was hung up on: no complete request, or no TLS, within %g s (header-timeout)",
            live.peer(client),
            self._limits.header,
        )
        with suppress(KeyError):
            live.writer(client).transport.abort()

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        context = nextlayer.context
        guest = self._guests.get(context.client.id)
        if nextlayer.layer or guest is None:
            return
        if starts_like_tls_record(nextlayer.data_client()):
            if context.server.address:
                # Without mitmproxy's server side: the engine makes its own connections.
                nextlayer.layer = RegistryTLSLayer(context)
            else:
                use = guest.refused.reason if guest.refused else "write http://, not https://, in HTTPS_PROXY"
                log.error("%s speaks TLS to the proxy's port: %s", live.peer(context.client), use)
                nextlayer.layer = HangUp(context, _NOT_TLS)
            return
        # Script addons are asked before mitmproxy's own, whose choice is only to be refined.
        ctx.master.addons.get("nextlayer").next_layer(nextlayer)
        chosen = nextlayer.layer
        if type(chosen) is HttpLayer:
            context.layers.remove(chosen)
            nextlayer.layer = self._http(context, chosen.mode)

    def _http(self, context: Context, mode: HTTPMode) -> RegistryHttpLayer:
        intercepts = partial(self._intercepts, context.client)
        ahead = Ahead(self._service.parents, self._service.via.header)
        return RegistryHttpLayer(context, mode, intercepts, self._limits.header, ahead)

    async def tls_start_client(self, start: tls.TlsData) -> None:
        address = start.context.server.address
        assert address  # by next_layer
        try:
            start.ssl_conn = self._leaves.connection(await self._service.valid_authority(), address[0])
        except AuthorityError as error:
            # mitmproxy would leave the client waiting.
            live.hang_up(start.context.client, f"cannot be shown a certificate: {error}")

    def tls_established_client(self, data: tls.TlsData) -> None:
        self._guests[data.context.client.id].heard()
        # For mitmproxy's own displays: there is no server connection to tell it that the URL is an https one.
        data.context.server.tls = True

    def tls_failed_client(self, data: tls.TlsData) -> None:
        address = data.context.server.address
        if guest := self._guests.get(data.context.client.id):
            self._service.tally.broke_off_tls(guest.address, f"for {address and address[0]}")
        log.warning(
            "%s broke off TLS for %s (%s); if it does not trust the CA yet, install %s there",
            live.peer(data.context.client),
            address and address[0],
            data.conn.error,
            self._service.authority.root_path,
        )

    # Requests.

    async def http_connect(self, flow: http.HTTPFlow) -> None:
        guest = self._guests[flow.client_conn.id]
        guest.heard()
        if flow.response:
            # Refused by another addon: mitmproxy's own login, for one.
            return
        guest.config = config = self._service.config
        rule = config.rule(flow.request.host, flow.request.port)
        flow.response = await self._admitted(flow, guest, config, Asked(rule, (), "") if rule else None)
        if flow.response:
            flow.response.headers["Connection"] = "close"
        else:
            guest.inside = True

    def mirrortap_handing(self, handing: Handing) -> None:
        client, request = handing.flow.client_conn, handing.flow.request
        guest = self._guests[client.id]
        if self._handover and self._handover.take(client, guest, Tunnel(request.host, request.port)):
            handing.over = True
            guest.left()
            # As a visitor from now on: the end of it here is not that of its stay.
            del self._guests[client.id]
            if not self._guests:
                self._gone.set()

    def http_connected(self, flow: http.HTTPFlow) -> None:
        guest = self._guests[flow.client_conn.id]
        if guest.config and guest.config.rule(flow.request.host, flow.request.port):
            guest.awaited()

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        if flow.error:
            return
        guest = self._guests[flow.client_conn.id]
        guest.asks(flow.id)
        config = self._service.config
        asked = None
        try:
            asked = by_ticket(self._service, guest, flow.request) or by_host(config, guest, flow.request)
        except OciError as problem:
            flow.response = answers.error(problem)
        if asked:
            self._busy[flow.id] = asked
            self._idle.clear()
        flow.request.stream = RequestBody(live.transport(flow.client_conn), self._limits.idle)
        guest.heard()
        if flow.response:
            return
        flow.response = await self._admitted(flow, guest, config, asked)
        if asked:
            _hide_secrets(flow.request.headers)
        if flow.metadata.get(CHECKED):
            flow.request.stream = True

    async def _admitted(
        self, flow: http.HTTPFlow, guest: Guest, config: Config, asked: Asked | None
    ) -> http.Response | None:
        """The refusal, or None: then the flow has CHECKED, and without it nothing is answered or connected to."""
        request = flow.request
        # It is for us alone (RFC 9110, 11.7.2).
        authorization = request.headers.get("Proxy-Authorization")
        request.headers.pop("Proxy-Authorization", None)
        found: list[str] | Refusal = []
        if request.method == "CONNECT" or request.host != ITSELF:
            if guest.refused:
                return answers.refused(request, guest.refused)
            ask = login_to_proxy(rules.place(*flow.client_conn.sockname[:2]))
            # A ticket stands for the login with which it was got.
            let_in = guest.inside or (asked is not None and asked.anonymous)
            if not let_in and (refusal := await self._gate.login(guest.address, authorization, ask)):
                return answers.refused(request, refusal)
            come_back = self._service.via.is_on(request.headers.get_all("Via"))
            if come_back and (asked is None or request.method == "CONNECT"):
                return answers.refused(request, _COME_BACK)  # of the others the engine says so
            if asked is None:
                if request.scheme == "https" and not config.offline:
                    return answers.refused(request, _USE_CONNECT)
                scheme = "https" if request.method == "CONNECT" else "http"
                found = await self._gate.way(guest.address, request.host, request.port, live.listening(), scheme=scheme)
                if isinstance(found, Refusal):
                    return answers.refused(request, found)
                parent = self._service.parents.way(scheme, request.host, request.port)
                guest.ways |= {(address, parent.port if parent else request.port) for address in found}
        flow.metadata[CHECKED] = found
        return None

    async def request(self, flow: http.HTTPFlow) -> None:
        if flow.response or flow.error or CHECKED not in flow.metadata:
            return
        if flow.request.host == ITSELF:
            flow.response = await self._own_page(flow)
        elif asked := self._busy.get(flow.id):
            body = flow.request.stream
            request = Request(
                rule=asked.rule,
                method=flow.request.method,
                target=asked.target,
                headers=asked.headers,
                body=body if isinstance(body, RequestBody) and flow.request.raw_content is None else None,
                anonymous=asked.anonymous,
            )
            flow.response = answers.of_reply(await self._service.engine.answer(request), flow.request.method)
            if asked.rule.offline:
                answers.name_offline(flow.response)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self._leaving and flow.response and flow.response.status_code != 101:
            flow.response.headers["Connection"] = "close"
        if flow.response and not isinstance(flow.response, RegistryResponse) and flow.request.host != ITSELF:
            flow.response.stream = self._refused_ahead(flow) is None

    async def mirrortap_parent(self, handshake: Handshake) -> None:
        await handshake.wait(self._service.config.timeouts.first_byte)

    async def mirrortap_turn(self, turn: Turn) -> None:
        try:
            await self._taken(live.writer(turn.client))
            turn.piece = await turn.source.read()
            turn.failure = None
        except BodyCut as cut:
            turn.failure = str(cut)
        except (OSError, KeyError):
            turn.failure = "the client has left"

    async def _taken(self, writer: asyncio.StreamWriter) -> None:
        """Until the client has taken what was sent. Raises BodyCut when it has stopped taking any of it."""
        while True:
            waiting = writer.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._limits.idle):
                    return await writer.drain()
            except TimeoutError:
                if writer.transport.get_write_buffer_size() == waiting:
                    raise BodyCut("the client has stopped reading (idle-timeout)") from None

    async def response(self, flow: http.HTTPFlow) -> None:
        if refused := self._refused_ahead(flow):
            flow.response = answers.page(flow.request, 502, f"mirrortap cannot go through {refused}\n")
        await self._ended(flow, None)

    async def error(self, flow: http.HTTPFlow) -> None:
        await self._ended(flow, flow.error.msg if flow.error else "")

    async def _ended(self, flow: http.HTTPFlow, failure: str | None) -> None:
        response = flow.response
        asked = self._busy.get(flow.id)
        if isinstance(response, RegistryResponse) and response.source:
            await response.source.close()
        if isinstance(response, RegistryResponse) and asked:
            seconds = time.time() - flow.request.timestamp_start
            sent = response.sent or len(response.raw_content or b"")
            method, target = flow.request.method, asked.target
            told = answered.of(
                Request(asked.rule, method, target, asked.headers),
                response.reply,
                at=flow.request.timestamp_start,
                client=str(addresses.parse(flow.client_conn.peername[0])),
                sent=sent,
                seconds=seconds,
                cut=failure,
            )
            self._service.tally.answered(told)
            log.info("%s", journal.Entry(told, response.reply.served))
        if guest := self._guests.get(flow.client_conn.id):
            guest.answered(flow.id)
        self._busy.pop(flow.id, None)
        if not self._busy:
            self._idle.set()

    def busy(self) -> int:
        """Those that were handed over among them, and tunnels."""
        led_on = sum(live.led_on(client) for client in self._guests)
        return len(self._busy) + led_on + (self._handover.busy if self._handover else 0)

    async def leave(self) -> None:
        await live.proxyserver().servers.update([])
        self._leaving = True
        handed_over = [self._handover.leave] if self._handover else []
        await asyncio.gather(self._emptied(), *(leave() for leave in handed_over))
        # And who was handed over since.
        await asyncio.gather(*(leave() for leave in handed_over))

    async def _emptied(self) -> None:
        """Until all that mitmproxy has in its hands have gone, the idle ones soon. Tunnels end by themselves."""
        before: set[tuple[str, int]] = set()
        while self._guests:
            idle = {(client, guest.answers) for client, guest in self._guests.items() if self._is_idle(client, guest)}
            for client, _ in idle & before:
                live.close(client)
            before = idle
            self._gone.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), GRACE)

    def _is_idle(self, client: str, guest: Guest) -> bool:
        return guest.idle and not live.led_on(client)

    async def close(self) -> None:
        """Stops listening, and lets running transfers finish."""
        await live.proxyserver().servers.update([])
        await asyncio.gather(self._drained(), *([self._handover.close()] if self._handover else []))

    async def _drained(self) -> None:
        drain = self._limits.drain
        if self._busy:
            log.info("stopping when %d running transfers are through, at most %g s", len(self._busy), drain)
        try:
            async with asyncio.timeout(drain):
                await self._idle.wait()
                await live.sent()
        except TimeoutError:
            log.warning("%d transfers were cut", len(self._busy))

    async def _own_page(self, flow: http.HTTPFlow) -> http.Response:
        request = flow.request
        address = self._guests[flow.client_conn.id].address
        page = await self._service.pages.answer(request.method, request.path, request.headers, address)
        if page is None:
            return answers.page(request, 404, "mirrortap has no such page; its status is at /\n")
        return answers.of_reply(page, request.method)

    def _intercepts(self, client: Client, host: str, port: int) -> bool:
        """Whether mitmproxy must not connect there, whatever becomes of the hooks here."""
        guest = self._guests.get(client.id)
        config = guest.config if guest and guest.config else self._service.config
        return config.offline or config.rule(host, port) is not None

    def _refused_ahead(self, flow: http.HTTPFlow) -> str | None:
        """Why a parent proxy has refused a plain request: it is our login that it does not take, not the client's."""
        request, response = flow.request, flow.response
        if not response or response.status_code != 407 or not flow.metadata.get(CHECKED):
            return None
        parent = self._service.parents.way("http", request.host, request.port)
        return parent.refusal(407, response.reason) if parent else None


def _hide_secrets(headers: http.Headers) -> None:
    for name in SECRET_HEADERS:
        if name in headers:
            headers[name] = _HIDDEN
