"""mitmproxy's inner layers for HTTP and TLS: bodies that are streamed from and to us.

mitmproxy can stream what passes between a client and a server, but has no public way to stream a response that an
addon makes, nor a request to one. So its HTTP layers are replaced, at the documented place (the `next_layer` hook), by
subclasses that differ in these points:

- a response with a `source` is sent piece by piece: before each one a hook of our own waits for the client's writer
  (the backpressure) and for the next piece;
- a request whose `stream` is a RequestBody is answered while its body is still coming in;
- no connection to an intercepted host is made by mitmproxy itself;
- a CONNECT to an intercepted host may be handed over: mitmproxy then hears no more of the connection;
- a CONNECT to a host that is not intercepted becomes a plain tunnel, unless the hook has answered it, and one that is
  opens no connection;
- what goes to another host through a parent proxy asks that for the way: by a CONNECT of ours, or by a request in
  absolute form, with our login;
- connections are made to the addresses alone that the hooks have put into the flow (CHECKED), never to a name, and no
  request goes anywhere without them: a hook that fails opens no way;
- a request that cannot be parsed, or that never ends, gets an OCI error;
- what a client may send before it is answered is limited, and how long it may take to say what it wants.

tests/doors/test_streaming_contract.py fails loudly when a new mitmproxy moves something of what is used here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mitmproxy import flow, http
from mitmproxy.connection import Server
from mitmproxy.net.http.http1 import assemble_response
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers import ClientTLSLayer
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, HTTPMode, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import (
    HttpErrorHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.utils import human

from addon import journal
from addon.doors import live
from addon.doors.handshake import Handshake
from addon.doors.tunnels import FAULT, MAX_HEAD, reach
from addon.oci import OciError
from addon.parent import Parents, authority

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.connection import Client
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layers.http._base import HttpEvent

    from addon.body import Body
    from addon.parent import Parent

    Commands = layer.CommandGenerator[None]
    Intercepts = Callable[[str, int], bool]

log = logging.getLogger("mirrortap")
_odd = journal.Seldom(log)
ITSELF = "mirrortap.invalid"
"""The host of requests that are meant for the proxy itself, not for going through it (RFC 6761: never a real one)."""
CHECKED = "mirrortap_checked"
"""The key, in a flow's metadata, of the addresses that may be connected to for it: none for an intercepted host."""

# A client's upload waits when this much of it has not been taken by the origin.
_UPLOAD_BUFFER = 1 << 20


class StreamedResponse(http.Response):
    """A response whose body comes from `source`. `sent` counts the bytes that went to the client."""

    source: Body | None = None
    sent: int = 0


@dataclass
class Turn:
    """One round of sending: the client to wait for, the source to read; then the piece, or why there is none."""

    client: Client
    source: Body
    piece: bytes = b""
    failure: str | None = "the next piece could not be read"


@dataclass
class MirrortapTurnHook(commands.StartHook):
    """Asks the door to take a turn."""

    turn: Turn


@dataclass
class MirrortapParentHook(commands.StartHook):
    """Asks the door to wait for what a parent proxy says."""

    handshake: Handshake


@dataclass
class Handing:
    """A tunnel to a registry that has been let in; `over` once it is not mitmproxy's any more."""

    flow: http.HTTPFlow
    over: bool = False


@dataclass
class MirrortapHandingHook(commands.StartHook):
    """Asks the door whether it takes the connection over."""

    handing: Handing


@dataclass(frozen=True)
class Ahead:
    """The proxies between this one and other hosts, and the Via header that we show them."""

    parents: Parents
    via: tuple[str, str]

    def headers(self, parent: Parent) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in (*parent.headers, self.via)]


class Pausable(Protocol):
    """A transport whose reading can be held back: asyncio.ReadTransport."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class RequestBody:
    """A request's body on its way in: mitmproxy calls it with each piece, the engine iterates over it."""

    def __init__(self, transport: Pausable, idle: float | None = None) -> None:
        """`idle`: seconds without a piece after which it has failed."""
        self._transport = transport
        self._idle = idle
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._ended = False
        self._unwanted = False
        self._failure: str | None = None
        self._news = asyncio.Event()

    def __call__(self, piece: bytes) -> bytes:
        if not self._unwanted:
            self._pieces.append(piece)
            self._waiting += len(piece)
            if self._waiting > _UPLOAD_BUFFER:
                self._transport.pause_reading()
            self._news.set()
        return b""

    def end(self, failure: str | None = None) -> None:
        self._ended = True
        self._failure = failure
        self._news.set()

    def discard(self) -> None:
        """The reply is out: what still comes in is read and dropped, so that the connection stays usable."""
        self._unwanted = True
        self._pieces.clear()
        self._transport.resume_reading()

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._failure:
                raise OSError(self._failure)
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            try:
                async with asyncio.timeout(self._idle):
                    await self._news.wait()
            except TimeoutError:
                self._failure = "the client has stopped sending"
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._waiting <= _UPLOAD_BUFFER // 2:
            self._transport.resume_reading()
        return piece


class RegistryHttpLayer(HttpLayer):
    """mitmproxy's HTTP layer with our streams and our HTTP/1 server in it."""

    def __init__(
        self, context: Context, mode: HTTPMode, intercepts: Intercepts, patience: float, ahead: Ahead | None = None
    ) -> None:
        """`patience`: seconds that the head of a request may take."""
        super().__init__(context, mode)
        self._intercepts = intercepts
        self._ahead = ahead
        self.connections[context.client] = RegistryHttp1Server(context.fork(), patience)

    def make_stream(self, stream_id: int) -> Commands:
        stream = RegistryStream(self.context.fork(), stream_id, self._intercepts, self._ahead)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())


class RegistryStream(HttpStream):
    """One request and its response."""

    def __init__(self, context: Context, stream_id: int, intercepts: Intercepts, ahead: Ahead | None) -> None:
        super().__init__(context, stream_id)
        self._intercepts = intercepts
        self._ahead = ahead
        self._body: RequestBody | None = None
        self._handshake: Handshake | None = None
        self._answered = False

    def handle_event(self, event: events.Event) -> Commands:
        # Past the pause: the hook that answers this request may be waiting for just this piece.
        if self._taken(event):
            return
        for command in super().handle_event(event):
            if isinstance(command, SendHttp) and isinstance(command.event, RequestHeaders):
                command.event = self._shown_ahead(command.event)
            yield command

    def _taken(self, event: events.Event) -> bool:
        """Gives the request's body, or the parent's handshake, what concerns it; whether nobody else needs to see the
        event."""
        if self._handshake and (not self._handshake.over or self._handshake.failure):
            match event:
                case events.DataReceived(connection=Server()):
                    self._handshake.hear(event.data)
                    return True
                case events.ConnectionClosed(connection=Server()):
                    self._handshake.end("closed the connection without an answer")
                    return True
        if self._body:
            match event:
                case RequestData():
                    self._body(event.data)
                    return True
                case RequestEndOfMessage():
                    self._body.end()
                case RequestProtocolError():
                    self._body.end(event.message)
        return False

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        request = event.request
        if self.mode is HTTPMode.regular and request.method != "CONNECT" and not request.host:
            request.data.host, request.data.port, request.data.scheme = ITSELF, 80, b"http"
        yield from super().state_wait_for_request_headers(event)
        if self._answered:
            # mitmproxy's own code has gone on as if a server were to answer still.
            self.server_state = self.state_done

    def handle_connect_regular(self) -> Commands:
        request = self.flow.request
        if self.flow.response:
            pass  # refused by the door
        elif CHECKED not in self.flow.metadata:
            self.flow.response = http.Response.make(502, FAULT, {"Content-Type": "text/plain", "Connection": "close"})
        elif self._intercepts(request.host, request.port):
            if (yield from self._handed_over()):
                return
            self.child_layer = layer.NextLayer(self.context)
        else:
            error = yield from self._tunnel()
            if error:
                message = f"cannot connect to {human.format_address((request.host, request.port))}: {error}"
                self.flow.response = http.Response.make(502, message, {"Content-Type": "text/plain"})
                if self._parent:
                    self.flow.response.reason = f"mirrortap {message}"
            else:
                self.child_layer = layers.TCPLayer(self.context, ignore=True)
        yield from self.handle_connect_finish()  # type: ignore[no-untyped-call]
        if self.child_layer and self._handshake and self._handshake.rest:
            # Servers that speak first may have done so already.
            yield from self.passthrough(events.DataReceived(self.context.server, self._handshake.rest))

    def _handed_over(self) -> layer.CommandGenerator[bool]:
        """Whether the door goes on with the tunnel by itself."""
        *_, http_layer = (each for each in self.context.layers if isinstance(each, RegistryHttpLayer))
        server = http_layer.connections[self.context.client]
        assert isinstance(server, RegistryHttp1Server)
        if server.buf:
            return False  # it has been read into
        handing = Handing(self.flow)
        yield MirrortapHandingHook(handing)
        if handing.over:
            self.flow.live = False
            self._handle_event = self._gone
        return handing.over

    def _gone(self, _: events.Event) -> Commands:
        """What is told of a connection that was handed over is that it has ended, here."""
        yield from ()

    @property
    def _parent(self) -> Parent | None:
        """The proxy that is asked for the way to the host."""
        request = self.flow.request
        scheme = "https" if request.method == "CONNECT" else "http"
        return self._ahead.parents.way(scheme, request.host, request.port) if self._ahead else None

    def _tunnel(self) -> layer.CommandGenerator[str | None]:
        """Connects to the first of the flow's addresses that answers, or says why none does."""
        parent = self._parent
        port = parent.port if parent else self.flow.request.port
        error = yield from reach(self.context, self.flow.metadata[CHECKED], port)
        self.flow.server_conn = self.context.server
        if parent is None:
            return error
        return f"{parent} cannot be reached: {error}" if error else (yield from self._ask_for_the_way(parent))

    def _ask_for_the_way(self, parent: Parent) -> layer.CommandGenerator[str | None]:
        assert self._ahead
        self._handshake = Handshake(parent)
        name = authority(self.flow.request.host, self.flow.request.port).encode()
        fields = [(b"Host", name), *self._ahead.headers(parent)]
        head = b"CONNECT %s HTTP/1.1\r\n%s\r\n" % (name, bytes(http.Headers(fields)))
        yield commands.SendData(self.context.server, head)
        yield MirrortapParentHook(self._handshake)
        self._handshake.end()
        if self._handshake.failure:
            yield commands.CloseConnection(self.context.server)
        return self._handshake.failure

    def _shown_ahead(self, event: RequestHeaders) -> RequestHeaders:
        """The head of a request as it goes out: in mitmproxy's own flow, which can be looked at, it has no login."""
        parent = self._parent
        if not parent or not self._ahead:
            return event
        request = event.request.copy()
        request.authority = authority(request.host, request.port)
        for name, value in self._ahead.headers(parent):
            request.headers.add(name.decode(), value.decode())
        return RequestHeaders(event.stream_id, request, event.end_stream, event.replay_flow)

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        error: str | None = FAULT
        # None for an intercepted host: the hook that should have answered has failed then, and the request must not go
        # out past the engine's rules.
        parent = self._parent
        port = parent.port if parent else self.flow.request.port
        for address in self.flow.metadata.get(CHECKED, ()):
            connection, error = yield GetHttpConnection((address, port), tls=False, via=None)
            if not error:
                self.context.server = self.flow.server_conn = connection
                return True
        assert error
        if parent and error is not FAULT:
            error = f"{parent} cannot be reached: {error}"
        code = ErrorCode.GENERIC_SERVER_ERROR if error is FAULT else ErrorCode.CONNECT_FAILED
        yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, error, code))
        return False

    def start_request_stream(self) -> Commands:
        if not isinstance(self.flow.request.stream, RequestBody):
            return (yield from super().start_request_stream())
        self._body = self.flow.request.stream
        self.client_state = self.state_answering
        # What has come while the head was being looked at.
        self._paused_event_queue = deque(event for event in self._paused_event_queue if not self._taken(event))
        yield HttpRequestHook(self.flow)
        if (yield from self.check_killed(True)):
            return None
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return None
        return (yield from self.send_response())

    def state_answering(self, event: events.Event) -> Commands:
        """The request's body is the engine's business; only its end matters here, and only after the answer."""
        if isinstance(event, RequestEndOfMessage):
            self.client_state = self.state_done
            if self._answered:
                yield from self.flow_done()

    def send_response(self, already_streamed: bool = False) -> Commands:
        response = self.flow.response
        if isinstance(response, StreamedResponse) and response.source:
            yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=False), self.context.client)
            while True:
                turn = Turn(self.context.client, response.source)
                yield MirrortapTurnHook(turn)
                if (yield from self.check_killed(True)):
                    return
                if turn.failure:
                    yield from self._cut(turn.failure)
                    return
                if not turn.piece:
                    break
                response.sent += len(turn.piece)
                yield SendHttp(ResponseData(self.stream_id, turn.piece), self.context.client)
            already_streamed = True
        if self._body:
            self._body.discard()
            self._answered = True
        yield from super().send_response(already_streamed)

    def _cut(self, reason: str) -> Commands:
        """Ends the transfer so that the client cannot take it for complete."""
        self.flow.error = flow.Error(reason)
        yield HttpErrorHook(self.flow)
        error = ResponseProtocolError(self.stream_id, reason, ErrorCode.GENERIC_SERVER_ERROR)
        yield SendHttp(error, self.context.client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored


class RegistryTLSLayer(ClientTLSLayer):
    """mitmproxy's TLS towards a client, which need not wait for more than a ClientHello can be."""

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        if not self.client_hello_parsed and len(self.recv_buffer) + len(data) > MAX_HEAD:
            return False, f"a ClientHello of more than {MAX_HEAD} bytes"
        return (yield from super().receive_handshake_data(data))


class RegistryHttp1Server(Http1Server):
    """mitmproxy's HTTP/1 server, whose own errors are OCI errors too."""

    def __init__(self, context: Context, patience: float) -> None:
        super().__init__(context)
        self._patience = patience
        self._alarm: commands.RequestWakeup | None = None

    def _handle_event(self, event: events.Event) -> Commands:
        if not isinstance(event, events.Wakeup):
            yield from super()._handle_event(event)
        elif event.command is self._alarm:
            yield from self._refuse(408, f"the request's head took longer than {self._patience:g} s")
            self.state = self.done

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, ResponseProtocolError) and not self.response:
            status = event.code.http_status_code()
            if status is not None:
                yield from self._refuse(status, event.message)
                return
        yield from super().send(event)

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.ConnectionClosed) and bytes(self.buf).strip():
            yield from self._refuse(400, "the connection ended in the middle of a request")
            return
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData) and command.connection is self.conn:
                # The only thing sent from here is mitmproxy's page about a head that cannot be parsed.
                _odd.warning("%s sent what is not valid HTTP/1.1 to the proxy's port", live.peer(self.context.client))
                yield from self._refuse(400, "the request is not valid HTTP/1.1")
            else:
                yield command
        if self.state == self.read_headers and len(self.buf) > MAX_HEAD:
            yield from self._refuse(431, f"the request's head has more than {MAX_HEAD} bytes")
            self.state = self.done
        if self.state != self.read_headers or not self.buf:
            self._alarm = None
        elif not self._alarm:
            self._alarm = commands.RequestWakeup(self._patience)
            yield self._alarm

    def wait(self, event: events.Event) -> Commands:
        if len(self.buf) > MAX_HEAD:
            yield commands.CloseConnection(self.conn)
        yield from super().wait(event)

    def _refuse(self, status: int, message: str) -> Commands:
        code = "UNAVAILABLE" if status >= 500 else "UNSUPPORTED"
        body = OciError(status, code, message).body()
        headers = http.Headers(content_type="application/json", connection="close")
        yield commands.SendData(self.conn, assemble_response(http.Response.make(status, body, headers)))
        yield commands.CloseConnection(self.conn)
