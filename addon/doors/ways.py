"""Connections that do not say where to as those to a regular proxy do: redirected ones, and those that speak SOCKS."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING

from mitmproxy import ctx
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.modes import HttpProxy
from mitmproxy.proxy.mode_specs import Socks5Mode, TransparentMode

from addon import addresses
from addon.admission import rules
from addon.admission.gate import Refusal, is_own, login_to_proxy
from addon.config.model import is_address
from addon.doors import live
from addon.doors.listening import tell_where_to
from addon.doors.socks import GRANTED, NOT_ALLOWED, UNREACHABLE, SocksLayer
from addon.doors.streaming import RegistryHttpLayer, RegistryTLSLayer
from addon.doors.tunnels import MAX_HEAD, HangUp, Tunnel, Undecided, begin
from addon.journal import Seldom

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.connection import Client, Server
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layers.modes import Socks5AuthData

    from addon.doors.guests import Guest
    from addon.doors.socks import Wish
    from addon.doors.tunnels import Begun
    from addon.service import Service

log = logging.getLogger("mirrortap")

# Lines of each kind that the log gets a minute.
_LINES = 60
# A fatal alert, which Go programs show as "tls: access denied" (RFC 8446, 6.2).
_ACCESS_DENIED = bytes.fromhex("15 03 03 00 02 02 31")
_NOT_REDIRECTED = Refusal(
    400,
    "mirrortap takes redirected connections here: no HTTPS_PROXY",
    "mirrortap runs with --mode transparent: connections are redirected to this port, it is not for HTTPS_PROXY\n",
)
_NOT_SOCKS = Refusal(
    400,
    "mirrortap speaks SOCKS5 here: use socks5:// in HTTPS_PROXY",
    "mirrortap runs with --mode socks5: write socks5://, not http://, in HTTPS_PROXY\n",
)
_OWN = Refusal(
    403,
    "it is mirrortap's own connection: what the user that it runs as sends must not be redirected to it",
    "this is mirrortap's own connection: what the user that it runs as sends must not be redirected to it\n",
)
_LONG = Refusal(431, f"more than {MAX_HEAD} bytes, and no end of a ClientHello", "")


class Ways:
    """What of the door is about such connections."""

    def __init__(self, service: Service, http: Callable[[Context, HTTPMode], RegistryHttpLayer]) -> None:
        tell_where_to()
        self._service = service
        self._gate = service.gate
        self._http = http
        self._own: set[tuple[str, int]] = set()  # the near ends of the connections that we have made
        self._hung_up, self._unreached = Seldom(log, _LINES), Seldom(log, _LINES)

    def begun(self, client: Client, guest: Guest) -> None:
        """Before anything of it is read."""
        handler = live.proxyserver().connections[client.id]
        if isinstance(client.proxy_mode, Socks5Mode):
            guest.refused = _NOT_SOCKS
            login = self._gate.wants_login or _mitmproxy_logs_in()
            begin(handler, lambda context: SocksLayer(context, login))
        elif isinstance(client.proxy_mode, TransparentMode):
            server = handler.layer.context.server
            assert server.address
            if is_own(*server.address[:2], live.listening()):
                server.address = None
                guest.refused = _NOT_REDIRECTED
                begin(handler, HttpProxy)
            else:
                begin(handler, Undecided)

    async def login(self, login: Socks5AuthData) -> None:
        """mitmproxy's own ProxyAuth has been asked before, where that is in use."""
        if _mitmproxy_logs_in() and not login.valid:
            return
        client = login.client_conn
        basic = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        here = rules.place(*(client.sockname or ("", 0))[:2])
        who = str(addresses.parse(client.peername[0]))
        login.valid = not await self._gate.login(who, f"Basic {basic}", login_to_proxy(here))

    async def wished(self, wish: Wish, guest: Guest) -> None:
        """Answers what a SOCKS client has asked for."""
        guest.let_in(self._service.config)
        guest.refused = None
        wish.undecided = is_address(wish.host)
        if wish.undecided or self._service.config.rule(wish.host, wish.port):
            wish.reply = GRANTED
            guest.awaited()
            return
        found = await self._way(wish.client, guest, wish.host, wish.port)
        if isinstance(found, Refusal):
            wish.reply = UNREACHABLE if found.status == 502 else NOT_ALLOWED
        else:
            wish.reply, wish.addresses = GRANTED, found

    async def decide(self, begun: Begun, guest: Guest) -> None:
        """Where a connection leads that was meant for an address."""
        context, opening = begun.context, begun.opening
        assert context.server.address
        address, port = context.server.address[:2]
        if opening.host and self._service.config.rule(opening.host, port):
            guest.let_in(self._service.config)
            context.server.address = (opening.host, port)
            tls = opening.protocol == "tls"
            begun.layer = RegistryTLSLayer(context) if tls else self._http(context, HTTPMode.transparent)
            return
        found = await self._way(context.client, guest, address, port) if opening.complete else _LONG
        if not isinstance(found, Refusal):
            begun.layer = Tunnel(context, found, port)
        elif opening.protocol == "http":
            guest.refused = found
            begun.layer = self._http(context, HTTPMode.transparent)
        else:
            begun.layer = HangUp(context, _ACCESS_DENIED if opening.protocol == "tls" else b"")
        if found in (_OWN, _LONG):
            self._hung_up.warning("%s was hung up on: %s", guest.address, found.reason)

    async def _way(self, client: Client, guest: Guest, host: str, port: int) -> list[str] | Refusal:
        guest.heard()
        if client.peername[:2] in self._own:
            return _OWN
        # It takes itself for connected, and would send what nobody takes yet; until `connected`.
        live.hold(client)
        found = await self._gate.way(guest.address, host, port, live.listening())
        if isinstance(found, Refusal):
            live.release(client)
        else:
            guest.ways |= {(address, port) for address in found}
        return found

    def connected(self, client: Client, server: Server) -> None:
        if server.sockname:
            self._own.add(server.sockname[:2])
        live.release(client)

    def disconnected(self, server: Server) -> None:
        if server.sockname:
            self._own.discard(server.sockname[:2])

    def not_connected(self, client: Client, server: Server) -> None:
        """Says so in the log: clients that believe to be connected are told nothing."""
        if server.address and isinstance(client.proxy_mode, TransparentMode):
            where = rules.place(*server.address[:2])
            self._unreached.warning("%s cannot be connected to %s: %s", live.peer(client), where, server.error)


def _mitmproxy_logs_in() -> bool:
    return bool(getattr(ctx.options, "proxyauth", None))
