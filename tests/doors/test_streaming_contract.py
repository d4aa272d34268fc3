"""What doors/streaming.py takes for granted of mitmproxy's inner layers. A new mitmproxy that moves it fails here."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import TYPE_CHECKING

import pytest
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode, HttpStream
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Connection, Http1Server
from mitmproxy.proxy.layers.tls import ClientTLSLayer
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionHandler, TimeoutWatchdog
from mitmproxy.test import taddons

from addon.doors.streaming import (
    CHECKED,
    ITSELF,
    Ahead,
    MirrortapParentHook,
    RegistryHttpLayer,
    RequestBody,
    StreamedResponse,
)
from addon.parent import Parent, Parents
from doors.driver import Driver, make_client

if TYPE_CHECKING:
    from collections.abc import Callable

# The code that ours overrides, calls in the middle of, or writes into. Read the difference between the two versions
# of mitmproxy, bring doors/streaming.py in line where it must be, and only then put the new value here.
READ_AND_UNDERSTOOD: dict[Callable[..., object], str] = {
    HttpLayer._handle_event: "6ba31883cc7a06b3",
    HttpLayer.event_to_child: "1095f6e1581d1780",
    HttpLayer.make_stream: "654959c6e74548e1",
    HttpStream._handle_event: "e3cbfef7310ae81f",
    HttpStream.state_wait_for_request_headers: "3706d5d5ce01dcd4",
    HttpStream.state_consume_request_body: "45459c1bbd8bdb1a",
    HttpStream.make_server_connection: "ddc7bc72f4d2fbc7",
    HttpStream.start_request_stream: "46f03368a2a54362",
    HttpStream.send_response: "d581bc106152e369",
    HttpStream.flow_done: "ad9969744785c572",
    HttpStream.check_killed: "368cad352d1e82b6",
    HttpStream.handle_protocol_error: "59fc3b2eeeabf63a",
    HttpStream.handle_connect_regular: "ae920a52067801dc",
    HttpStream.handle_connect_finish: "eb3a0054cb5b716e",
    # What a parent proxy sends behind its answer is given to a tunnel; requests are shown our login on their way out.
    HttpStream.passthrough: "a6df32aba1ae251a",
    Http1Client.send: "35d961e20d481204",
    Http1Server.send: "cc218a1337c0f5cf",
    Http1Server.read_headers: "3fe0945216bcf7bc",
    Http1Server.mark_done: "94fd7ea388c88671",
    Http1Connection._handle_event: "2ac8db3e43ae743f",
    Http1Connection.wait: "c99d0494a840a2b6",
    ClientTLSLayer.receive_handshake_data: "a0ee021f92f6d0ff",
    HttpLayer.get_connection: "1aa1c63e3175766c",
    # client_connected turns people away, and server_connect stops what has not been looked at.
    ConnectionHandler.handle_client: "01f1b7cc991c4711",
    ConnectionHandler.open_connection: "5e0b3cbaf7a4030a",
    # Idle connections end, those with a hook under way do not.
    TimeoutWatchdog.watch: "eee8e7085dba9250",
    TimeoutWatchdog.disarm: "99af75f94eed883a",
    ProxyConnectionHandler.handle_hook: "9f8b52fd798203c9",
    layer.Layer.handle_event: "fd88b0fb09ceddbb",
}


@pytest.mark.parametrize("function", READ_AND_UNDERSTOOD, ids=lambda function: function.__qualname__)
def test_the_code_that_is_built_upon_is_the_code_that_was_read(function: Callable[..., object]) -> None:
    source = inspect.getsource(function)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    assert digest == READ_AND_UNDERSTOOD[function], source


class Transport:
    """Knows whether reading from the client is held back."""

    def __init__(self) -> None:
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Source:
    async def read(self) -> bytes:
        raise AssertionError("the door reads, not the layer")

    async def close(self) -> None:
        pass


@pytest.fixture
def driver() -> Driver:
    return make_driver(HTTPMode.regular)


def make_driver(mode: HTTPMode, ahead: Ahead | None = None) -> Driver:
    client = make_client()
    with taddons.context(Proxyserver()) as context:
        driver = Driver(
            RegistryHttpLayer(
                Context(client, context.options), mode, lambda host, port: host == "registry.example", PATIENCE, ahead
            ),
            client,
        )
    driver.feed(events.Start())
    return driver


def streamed(**headers: str) -> StreamedResponse:
    response = StreamedResponse(
        b"HTTP/1.1", 200, b"OK", http.Headers([(k.encode(), v.encode()) for k, v in headers.items()]), None, None, 0, 0
    )
    response.source = Source()
    return response


# Seconds that the head of a request may take.
PATIENCE = 30.0

GET = b"GET http://registry.example/v2/a/blobs/x HTTP/1.1\r\nHost: registry.example\r\n\r\n"


def begin(driver: Driver, **headers: str) -> None:
    """As far as the first turn of a streamed response with these headers."""
    driver.send(GET)
    driver.past("requestheaders")
    driver.asked("request").response = streamed(**headers)
    driver.done()
    driver.past("responseheaders")


def test_a_streamed_response_goes_out_piece_by_piece(driver: Driver) -> None:
    begin(driver, **{"Content-Length": "6"})
    driver.turn(b"one")
    assert driver.sent.endswith(b"\r\n\r\none")
    # The layers wait for the next turn: nothing is read ahead.
    assert [hook.name for hook in driver.hooks] == ["mirrortap_turn"]
    driver.turn(b"two")
    driver.turn(b"")
    assert driver.sent.endswith(b"onetwo")
    driver.past("response")
    # The connection serves another request.
    driver.send(GET)
    driver.past("requestheaders")
    assert driver.asked("request").request.path == "/v2/a/blobs/x"
    assert not driver.closed


def test_a_body_of_unknown_length_is_chunked_to_its_end(driver: Driver) -> None:
    begin(driver, **{"Transfer-Encoding": "chunked"})
    driver.turn(b"abc")
    driver.turn(b"")
    driver.past("response")
    assert driver.sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def test_a_cut_body_ends_the_connection_unfinished(driver: Driver) -> None:
    begin(driver, **{"Transfer-Encoding": "chunked"})
    driver.turn(b"abc")
    driver.turn(b"", failure="wrong digest")
    assert driver.asked("error").error is not None
    driver.done()
    assert driver.closed
    assert driver.sent.endswith(b"3\r\nabc\r\n")


def test_a_turn_that_nobody_took_is_a_cut(driver: Driver) -> None:
    # mitmproxy swallows what an addon raises; the transfer must not look complete then.
    begin(driver, **{"Content-Length": "6"})
    driver.done()
    driver.past("error")
    assert driver.closed


def test_a_client_that_leaves_in_the_middle_ends_the_stream(driver: Driver) -> None:
    begin(driver, **{"Content-Length": "6"})
    driver.leave()
    driver.turn(b"one")
    driver.past("error")
    assert not driver.hooks
    assert b"one" not in driver.sent


POST = (
    b"POST http://registry.example/v2/a/blobs/uploads/ HTTP/1.1\r\nHost: registry.example\r\nContent-Length: 6\r\n\r\n"
)


def answer_upload(driver: Driver, transport: Transport, early: bytes = b"") -> RequestBody:
    body = RequestBody(transport)
    driver.send(POST + early)
    driver.asked("requestheaders").request.stream = body
    driver.done()
    return body


async def test_a_request_body_arrives_while_the_request_is_answered(driver: Driver) -> None:
    # The first piece comes with the head, before anybody has said what to do with it.
    body = answer_upload(driver, Transport(), early=b"ab")
    flow = driver.asked("request")
    assert await anext(body) == b"ab"
    driver.send(b"cdef")
    assert [piece async for piece in body] == [b"cdef"]
    flow.response = http.Response.make(201)
    driver.done()
    driver.past("responseheaders", "response")
    assert driver.sent.startswith(b"HTTP/1.1 201")
    driver.send(GET)
    driver.past("requestheaders")
    driver.asked("request")


async def test_an_answer_may_come_before_the_request_has_ended(driver: Driver) -> None:
    transport = Transport()
    body = answer_upload(driver, transport, early=b"ab")
    driver.asked("request").response = http.Response.make(401)
    driver.done()
    driver.past("responseheaders", "response")
    assert driver.sent.startswith(b"HTTP/1.1 401")
    driver.send(b"cdef")
    assert not transport.paused
    assert body._waiting == 2  # dropped, not kept
    driver.send(GET)
    driver.past("requestheaders")
    driver.asked("request")


async def test_a_client_that_leaves_in_its_upload_breaks_it_off(driver: Driver) -> None:
    body = answer_upload(driver, Transport(), early=b"ab")
    driver.leave()
    with pytest.raises(OSError, match="without sending complete message body"):
        async for _ in body:
            pass


async def test_an_upload_that_is_not_taken_holds_the_client_back() -> None:
    transport = Transport()
    body = RequestBody(transport)
    for _ in range(17):
        assert not transport.paused
        body(bytes(65536))
    assert transport.paused
    while transport.paused:
        await anext(body)
    assert body._waiting <= 1 << 19


def test_what_no_hook_answers_does_not_go_out_by_itself(driver: Driver) -> None:
    driver.send(GET)
    driver.past("requestheaders", "request")
    driver.past("error")
    assert driver.sent.startswith(b"HTTP/1.1 502")
    assert driver.closed


def test_a_request_to_the_proxy_itself_is_told_apart(driver: Driver) -> None:
    driver.send(b"GET /ca.crt HTTP/1.1\r\nHost: registry.example\r\n\r\n")
    assert driver.asked("requestheaders").request.host == ITSELF


def test_no_request_in_a_tunnel_is_to_the_proxy_itself() -> None:
    driver = make_driver(HTTPMode.transparent)
    driver.layer.context.server.address = ("registry.example", 443)
    for name in "streams", "connections":
        assert hasattr(driver.layer, name)
    driver.send(b"GET /ca.crt HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
    assert driver.asked("requestheaders").request.host == "registry.example"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01 \r\n\r\n", 400),
        (b"GET http://r.example/v2/ HTTP/1.1\r\nno colon here\r\n\r\n", 400),
        (b"GET http://r.example/v2/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET http://r.example/v2/ HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ],
)
def test_a_head_that_cannot_be_parsed_gets_an_oci_error(driver: Driver, said: bytes, status: int) -> None:
    driver.send(said)
    assert_refused(driver, status)


def test_half_a_request_gets_an_oci_error(driver: Driver) -> None:
    driver.send(b"GET http://r.example/v2/ HTTP/1.1\r\nHost")
    driver.leave()
    assert_refused(driver, 400)


def test_a_response_that_is_no_stream_goes_mitmproxys_way(driver: Driver) -> None:
    driver.send(GET)
    driver.past("requestheaders")
    driver.asked("request").response = http.Response.make(404, b"none")
    driver.done()
    driver.past("responseheaders", "response")
    assert driver.sent.endswith(b"none")


def test_a_head_that_takes_too_long_is_refused(driver: Driver) -> None:
    driver.send(b"GET http://r.exam")
    driver.send(b"ple/v2/ HTTP/1.1\r\nHost")
    (alarm,) = driver.alarms
    assert alarm.delay == PATIENCE
    driver.feed(events.Wakeup(alarm))
    assert_refused(driver, 408)


def test_the_time_for_a_head_begins_with_its_first_byte(driver: Driver) -> None:
    answered(driver, GET[:9])
    driver.send(GET[9:])
    driver.past("requestheaders")
    driver.asked("request").response = http.Response.make(204)
    driver.done()
    driver.past("responseheaders", "response")
    driver.send(GET[:1])
    # That of the head that is through means nothing to the one that has begun.
    through, begun = driver.alarms
    driver.feed(events.Wakeup(through))
    assert not driver.closed
    driver.feed(events.Wakeup(begun))
    assert driver.closed


def answered(driver: Driver, more: bytes) -> None:
    """One request, answered, with `more` sent behind it."""
    driver.send(GET)
    driver.past("requestheaders")
    driver.send(more)
    driver.asked("request").response = http.Response.make(204)
    driver.done()
    driver.past("responseheaders", "response")


def test_not_much_may_be_sent_ahead_of_an_answer(driver: Driver) -> None:
    driver.send(GET)
    driver.past("requestheaders")
    driver.send(bytes(65_000))
    assert not driver.closed
    driver.send(bytes(65_000))
    assert driver.closed


def test_a_tunnel_leads_to_the_addresses_that_were_looked_at(driver: Driver) -> None:
    driver.send(b"CONNECT r.example:443 HTTP/1.1\r\n\r\n")
    driver.asked("http_connect").metadata[CHECKED] = ["192.0.2.7", "2001:db8::7"]
    driver.done()
    for i, (address, outcome) in enumerate((("192.0.2.7", "refused"), ("2001:db8::7", None))):
        assert driver.opened[i].connection.address == (address, 443)
        driver.feed(events.OpenConnectionCompleted(driver.opened[i], outcome))
    driver.past("http_connected")
    assert driver.sent.startswith(b"HTTP/1.1 200 ")


def test_a_forwarded_request_leads_to_the_addresses_that_were_looked_at(driver: Driver) -> None:
    driver.send(b"GET http://r.example/ HTTP/1.1\r\nHost: r.example\r\n\r\n")
    driver.asked("requestheaders").metadata[CHECKED] = ["192.0.2.7", "192.0.2.8"]
    driver.done()
    driver.past("request")
    for opened, address in zip(range(2), ("192.0.2.7", "192.0.2.8"), strict=True):
        assert driver.opened[opened].connection.address == (address, 80)
        driver.feed(events.OpenConnectionCompleted(driver.opened[opened], "refused"))
    driver.past("error")
    assert driver.sent.startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("host", ["registry.example", "r.example"])
def test_a_tunnel_that_no_hook_has_looked_at_is_none(driver: Driver, host: str) -> None:
    driver.send(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
    driver.past("http_connect", "http_connect_error")
    assert driver.sent.startswith(b"HTTP/1.1 502 ")
    assert driver.opened == []


def test_a_request_that_no_hook_has_looked_at_goes_nowhere(driver: Driver) -> None:
    driver.send(b"GET http://r.example/ HTTP/1.1\r\nHost: r.example\r\n\r\n")
    driver.past("requestheaders", "request", "error")
    assert driver.sent.startswith(b"HTTP/1.1 502 ")
    assert driver.opened == []


PARENT = Parent("X_PROXY", "192.0.2.9", 3128, "Basic eA==")
AHEAD = Ahead(Parents({"http": PARENT, "https": PARENT}), ("Via", "us"))
CONNECT = b"CONNECT r.example:443 HTTP/1.1\r\n\r\n"


def through(driver: Driver) -> commands.OpenConnection:
    """The way to the parent, open: its connection."""
    driver.asked("http_connect").metadata[CHECKED] = ["192.0.2.9"]
    driver.done()
    (opened,) = driver.opened
    assert opened.connection.address == ("192.0.2.9", 3128)
    opened.connection.state = ConnectionState.OPEN
    opened.connection.timestamp_start = 1.0
    driver.feed(events.OpenConnectionCompleted(opened, None))
    return opened


def said(driver: Driver, opened: commands.OpenConnection, data: bytes) -> None:
    driver.feed(events.DataReceived(opened.connection, data))


def waited_for(driver: Driver) -> None:
    """The door has waited for the parent."""
    assert isinstance(driver.hooks[0], MirrortapParentHook)
    driver.done()


def test_a_tunnel_through_a_parent_asks_it_for_the_way() -> None:
    driver = make_driver(HTTPMode.regular, AHEAD)
    driver.send(CONNECT)
    opened = through(driver)
    assert bytes(driver.onward) == (
        b"CONNECT r.example:443 HTTP/1.1\r\nHost: r.example:443\r\nProxy-Authorization: Basic eA==\r\nVia: us\r\n\r\n"
    )
    said(driver, opened, b"HTTP/1.1 200 OK\r\nX: y\r")
    said(driver, opened, b"\n\r\nfirst")
    # Before the hook has ended, and after.
    said(driver, opened, b"second")
    assert driver.sent == b""
    waited_for(driver)
    driver.past("http_connected")
    said(driver, opened, b"third")
    assert driver.sent.startswith(b"HTTP/1.1 200 ")
    assert driver.sent.endswith(b"\r\n\r\nfirstsecondthird")
    driver.onward.clear()
    driver.send(b"\x00raw")
    assert driver.onward == b"\x00raw"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 407 Who\r\n\r\n", b"answered 407 Who"),
        (b"HTTP/1.1 200\x00 nonsense\r\n\r\n", b"does not speak HTTP"),
        (b"x" * 70_000, b"does not speak HTTP"),
        (b"HTTP/1.1 200 OK", b"closed the connection without an answer"),
        (None, b"closed the connection without an answer"),
    ],
)
def test_a_parent_that_gives_no_way_is_named(answer: bytes | None, why: bytes) -> None:
    driver = make_driver(HTTPMode.regular, AHEAD)
    driver.send(CONNECT)
    opened = through(driver)
    if answer is None:
        driver.feed(events.ConnectionClosed(opened.connection))
    else:
        said(driver, opened, answer)
        # As most do after a refusal, and before we have gone on.
        driver.feed(events.ConnectionClosed(opened.connection))
    waited_for(driver)
    driver.past("http_connect_error")
    assert driver.sent.startswith(
        b"HTTP/1.1 502 mirrortap cannot connect to r.example:443: the parent proxy 192.0.2.9:"
    )
    assert why in driver.sent
    assert driver.hung_up


def test_a_forwarded_request_shows_the_parent_our_login_and_the_flow_does_not() -> None:
    driver = make_driver(HTTPMode.regular, AHEAD)
    driver.send(b"GET http://r.example:8080/x?y HTTP/1.1\r\nHost: other.example\r\n\r\n")
    flow = driver.asked("requestheaders")
    flow.metadata[CHECKED] = ["192.0.2.9"]
    driver.done()
    driver.past("request")
    (opened,) = driver.opened
    assert opened.connection.address == ("192.0.2.9", 3128)
    opened.connection.state = ConnectionState.OPEN
    driver.feed(events.OpenConnectionCompleted(opened, None))
    assert bytes(driver.onward) == (
        b"GET http://r.example:8080/x?y HTTP/1.1\r\nHost: other.example\r\n"
        b"Proxy-Authorization: Basic eA==\r\nVia: us\r\n\r\n"
    )
    assert "eA==" not in str(flow.get_state())


async def test_an_upload_that_stands_still_has_failed() -> None:
    body = RequestBody(Transport(), idle=0.01)
    body(b"ab")
    assert await anext(body) == b"ab"
    with pytest.raises(OSError, match="stopped sending"):
        await anext(body)


def assert_refused(driver: Driver, status: int) -> None:
    head, _, body = bytes(driver.sent).partition(b"\r\n\r\n")
    assert head.split()[1] == b"%d" % status
    assert b"application/json" in head
    (error,) = json.loads(body)["errors"]
    assert error["message"]
    assert driver.closed
