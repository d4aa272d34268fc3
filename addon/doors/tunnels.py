"""mitmproxy's layers for connections that are led on, or that nothing has said yet where to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events, layer, layers

from addon.doors import openings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.server import ConnectionHandler

    Commands = layer.CommandGenerator[None]

MAX_HEAD = 64 << 10
"""Bytes of one request head or ClientHello, and of what may be sent ahead of an answer; signed URLs and tokens come to
a few KiB."""
FAULT = "a fault in mirrortap"


def begin(handler: ConnectionHandler, make: Callable[[Context], layer.Layer]) -> None:
    """Gives a new connection another first layer than its mode's, which would connect before anybody is asked."""
    context = handler.layer.context
    context.layers.clear()
    handler.layer = make(context)


def reach(context: Context, addresses: Iterable[str], port: int) -> layer.CommandGenerator[str | None]:
    """Connects to the first of these that answers, or says why none does."""
    error: str | None = FAULT
    for address in addresses:
        context.server = Server(address=(address, port))
        error = yield commands.OpenConnection(context.server)
        if not error:
            break
    return error


class Tunnel(layer.Layer):
    """To the first of these addresses that answers, byte for byte."""

    def __init__(self, context: Context, addresses: Iterable[str], port: int) -> None:
        super().__init__(context)
        self._addresses = addresses
        self._port = port

    def _handle_event(self, event: events.Event) -> Commands:
        failed = yield from reach(self.context, self._addresses, self._port)
        child = HangUp(self.context) if failed else layers.TCPLayer(self.context, ignore=True)
        self._handle_event = child.handle_event  # type: ignore[method-assign]
        yield from child.handle_event(event)


class HangUp(layer.Layer):
    """Ends the client's connection, after these bytes."""

    def __init__(self, context: Context, last: bytes = b"") -> None:
        super().__init__(context)
        self._last = last

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            yield commands.SendData(self.context.client, self._last)
            yield commands.CloseConnection(self.context.client)


@dataclass
class Begun:
    """A connection to an address, and what its client has said first. A door gives the layer that goes on with it."""

    context: Context
    opening: openings.Opening
    layer: layer.Layer | None = None


@dataclass
class MirrortapBegunHook(commands.StartHook):
    """Asks the door what becomes of a connection. Not mitmproxy's next_layer, which others answer as well."""

    begun: Begun


class Undecided(layer.Layer):
    """Listens to a client until it can be told what it wants, or has said too much."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._said = b""

    def _handle_event(self, event: events.Event) -> Commands:
        match event:
            case events.DataReceived():
                self._said += event.data
                opening = openings.read(self._said)
                if opening.complete or len(self._said) > MAX_HEAD:
                    yield from self._decided(opening)
            case events.ConnectionClosed():
                yield commands.CloseConnection(self.context.client)

    def _decided(self, opening: openings.Opening) -> Commands:
        begun = Begun(self.context, opening)
        yield MirrortapBegunHook(begun)
        child = begun.layer or HangUp(self.context)
        self._handle_event = child.handle_event  # type: ignore[method-assign]
        yield from child.handle_event(events.Start())
        yield from child.handle_event(events.DataReceived(self.context.client, self._said))
