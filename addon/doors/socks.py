"""SOCKS5 (RFC 1928) as a layer of mitmproxy's: connections alone, with a user and password (RFC 1929) where asked for.

mitmproxy's own connects before anybody is asked, asks for a login by an option of its own, has one answer to whatever
fails, and writes what it does not understand to the log, passwords included.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mitmproxy.connection import Server
from mitmproxy.net import check
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers.modes import HttpProxy, Socks5AuthData, Socks5AuthHook

from addon.doors.tunnels import Undecided, reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.connection import Client
    from mitmproxy.proxy.context import Context

    Commands = layer.CommandGenerator[None]

_VERSION = 5
_NO_LOGIN, _USER_AND_PASSWORD, _NO_WAY_IN = 0, 2, 0xFF
_LOGIN_VERSION, _RIGHT, _WRONG = 1, 0, 1
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4

GRANTED, FAILED, NOT_ALLOWED, UNREACHABLE, _NO_SUCH_COMMAND, _NO_SUCH_ADDRESS = 0, 1, 2, 4, 7, 8


@dataclass
class Wish:
    """Where a client wants to go. A door says in `reply` whether it may, and in `addresses` where that is connected to,
    or that nothing is: the host is ours, or `undecided` by its address alone."""

    client: Client
    host: str
    port: int
    reply: int = FAILED
    addresses: list[str] = field(default_factory=list)
    undecided: bool = False


@dataclass
class MirrortapWishHook(commands.StartHook):
    """Asks the door whether somebody may go where they want to."""

    wish: Wish


class SocksLayer(layer.Layer):
    """What is not SOCKS5 is taken for HTTP, as in the regular mode."""

    def __init__(self, context: Context, login: bool) -> None:
        super().__init__(context)
        self._login = login
        self._buffer = b""
        self._state: Callable[[], Commands] = self._greeting

    def _handle_event(self, event: events.Event) -> Commands:
        match event:
            case events.DataReceived():
                self._buffer += event.data
                yield from self._state()
            case events.ConnectionClosed():
                yield commands.CloseConnection(self.context.client)

    def _taken(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _greeting(self) -> Commands:
        if self._buffer[0] != _VERSION:
            self.context.layers.remove(self)
            yield from self._continue_as(HttpProxy(self.context))
            return
        if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            return
        offered = self._taken(2 + self._buffer[1])[2:]
        wanted = _USER_AND_PASSWORD if self._login else _NO_LOGIN
        if wanted not in offered:
            yield from self._end(bytes([_VERSION, _NO_WAY_IN]))
            return
        yield commands.SendData(self.context.client, bytes([_VERSION, wanted]))
        self._state = self._logging_in if self._login else self._request
        yield from self._state()

    def _logging_in(self) -> Commands:
        if len(self._buffer) < 2 or len(self._buffer) < (after := 2 + self._buffer[1]) + 1:
            return
        if len(self._buffer) < (end := after + 1 + self._buffer[after]):
            return
        said = self._taken(end)
        user, password = (part.decode("utf-8", "replace") for part in (said[2:after], said[after + 1 :]))
        login = Socks5AuthData(self.context.client, user, password)
        yield Socks5AuthHook(login)
        if said[0] != _LOGIN_VERSION or not login.valid:
            yield from self._end(bytes([_LOGIN_VERSION, _WRONG]))
            return
        yield commands.SendData(self.context.client, bytes([_LOGIN_VERSION, _RIGHT]))
        self._state = self._request
        yield from self._state()

    def _request(self) -> Commands:
        if len(self._buffer) < 5:
            return
        version, command, _, kind, length = self._buffer[:5]
        size = {_IPV4: 4, _IPV6: 16, _NAME: 1 + length}.get(kind)
        if version != _VERSION or command != _CONNECT:
            yield from self._refuse(_NO_SUCH_COMMAND)
        elif size is None:
            yield from self._refuse(_NO_SUCH_ADDRESS)
        elif len(self._buffer) >= 4 + size + 2:
            said = self._taken(4 + size + 2)[4:]
            (port,) = struct.unpack("!H", said[-2:])
            if kind != _NAME:
                yield from self._go(str(ipaddress.ip_address(said[:-2])), port)
            elif check.is_valid_host(name := said[1:-2]):
                yield from self._go(name.decode(), port)
            else:
                yield from self._refuse(UNREACHABLE)

    def _go(self, host: str, port: int) -> Commands:
        wish = Wish(self.context.client, host, port)
        yield MirrortapWishHook(wish)
        if wish.reply != GRANTED:
            yield from self._refuse(wish.reply)
        elif not wish.addresses:
            self.context.server = Server(address=(host, port))
            yield from self._grant(Undecided(self.context) if wish.undecided else layer.NextLayer(self.context))
        elif (yield from reach(self.context, wish.addresses, port)):
            yield from self._refuse(UNREACHABLE)
        else:
            yield from self._grant(layers.TCPLayer(self.context, ignore=True))

    def _grant(self, child: layer.Layer) -> Commands:
        yield commands.SendData(self.context.client, _reply(GRANTED))
        yield from self._continue_as(child)

    def _refuse(self, code: int) -> Commands:
        yield from self._end(_reply(code))

    def _end(self, last: bytes) -> Commands:
        yield commands.SendData(self.context.client, last)
        yield commands.CloseConnection(self.context.client)
        self._state = self._ended

    def _ended(self) -> Commands:
        self._buffer = b""
        yield from ()

    def _continue_as(self, child: layer.Layer) -> Commands:
        self._handle_event = child.handle_event  # type: ignore[method-assign]
        yield from child.handle_event(events.Start())
        if self._buffer:
            yield from child.handle_event(events.DataReceived(self.context.client, self._taken(len(self._buffer))))


def _reply(code: int) -> bytes:
    """Without the address of the proxy's own end, which no client needs."""
    return bytes([_VERSION, code, 0, _IPV4, *bytes(6)])
