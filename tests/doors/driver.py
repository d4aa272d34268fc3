"""mitmproxy's layers without its sockets."""

from __future__ import annotations

from dataclasses import dataclass, field

from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.mode_specs import ProxyMode

from addon.doors.streaming import MirrortapTurnHook


@dataclass
class Driver:
    """Feeds the layers what a client sends, and keeps what they send and ask in return. No sockets."""

    layer: layer.Layer
    client: Client
    sent: bytearray = field(default_factory=bytearray)
    hooks: list[commands.StartHook] = field(default_factory=list)
    alarms: list[commands.RequestWakeup] = field(default_factory=list)
    opened: list[commands.OpenConnection] = field(default_factory=list)
    onward: bytearray = field(default_factory=bytearray)  # to whom a connection was opened
    hung_up: bool = False  # on those
    closed: bool = False

    def feed(self, event: events.Event) -> None:
        for command in self.layer.handle_event(event):
            match command:
                case commands.SendData(connection=self.client):
                    self.sent += command.data
                case commands.CloseConnection(connection=self.client):
                    self.closed = True
                case commands.SendData():
                    self.onward += command.data
                case commands.CloseConnection():
                    self.hung_up = True
                case commands.StartHook():
                    self.hooks.append(command)
                case commands.RequestWakeup():
                    self.alarms.append(command)
                case commands.OpenConnection():
                    self.opened.append(command)
                case commands.Log():
                    pass
                case _:
                    raise AssertionError(f"unexpected: {command}")

    def send(self, data: bytes) -> None:
        self.feed(events.DataReceived(self.client, data))

    def leave(self) -> None:
        self.client.state &= ~ConnectionState.CAN_READ
        self.feed(events.ConnectionClosed(self.client))

    def asked(self, name: str) -> http.HTTPFlow:
        """The flow of the hook that the layers wait for, which must be this one."""
        assert [hook.name for hook in self.hooks] == [name]
        (flow,) = self.hooks[0].args()
        assert isinstance(flow, http.HTTPFlow)
        return flow

    def done(self) -> None:
        self.feed(events.HookCompleted(self.hooks.pop()))

    def turn(self, piece: bytes, failure: str | None = None) -> None:
        hook = self.hooks.pop()
        assert isinstance(hook, MirrortapTurnHook)
        hook.turn.piece, hook.turn.failure = piece, failure
        self.feed(events.HookCompleted(hook))

    def past(self, *names: str) -> None:
        for name in names:
            self.asked(name)
            self.done()


def make_client() -> Client:
    return Client(
        peername=("192.0.2.1", 1),
        sockname=("192.0.2.2", 3128),
        timestamp_start=0.0,
        state=ConnectionState.OPEN,
        proxy_mode=ProxyMode.parse("regular"),
    )
