"""What doors/tunnels.py, socks.py and ways.py take for granted of mitmproxy, and what their layers do by themselves."""

from __future__ import annotations

import hashlib
import inspect
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from mitmproxy import platform
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyauth import ProxyAuth
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import ConnectionState
from mitmproxy.platform import linux
from mitmproxy.proxy import commands, events, layer, mode_servers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import HttpLayer, TCPLayer, modes, tls
from mitmproxy.test import taddons
from mitmproxy.tls import ClientHello

from addon.doors.listening import tell_where_to
from addon.doors.socks import GRANTED, NOT_ALLOWED, MirrortapWishHook, SocksLayer, Wish
from addon.doors.tunnels import MAX_HEAD, HangUp, MirrortapBegunHook, Tunnel, Undecided, begin
from doors.driver import Driver, make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sni = vars(ClientHello)["sni"].fget

# As in test_streaming_contract.py.
READ_AND_UNDERSTOOD: dict[Callable[..., object], str] = {
    # What takes the place of these must do as they do, but for connecting.
    mode_servers.TransparentInstance.make_top_layer: "8b279c33ff38d4d4",
    mode_servers.Socks5Instance.make_top_layer: "00040b90ca408a27",
    mode_servers.ServerInstance.make: "b6e5953237092bbb",
    modes.DestinationKnown.finish_start: "91f47432073a2bf6",
    modes.TransparentProxy._handle_event: "613cabc6639df9e8",
    modes.Socks5Proxy.state_greet: "16c9cc458dcd00ae",
    modes.Socks5Proxy.state_auth: "4e45f4a6f1acf885",
    modes.Socks5Proxy.state_connect: "1f22acee40d5061e",
    modes.HttpProxy._handle_event: "8147a0c98455987c",
    # What goes on with a connection.
    layer.NextLayer._handle_event: "fe74a435f2970e59",
    layer.NextLayer._ask: "4d8ace76d8488336",
    NextLayer._setup_explicit_http_proxy: "23f1e8e079b47834",
    tls.ClientTLSLayer.__init__: "6cae807276e6400e",
    TCPLayer.start: "b1418418362ceaa7",
    TCPLayer.relay_messages: "3b3d49a9f63b7d40",
    # What is asked for a host, for where a connection was going, and for a login.
    tls.parse_client_hello: "537b0089913d85d9",
    tls.get_client_hello: "7fda12c4e3ef01b9",
    tls.handshake_record_contents: "d0d1ff82ae62de31",
    sni: "e553913247944518",
    linux.original_addr: "e1470b3334f470c3",
    ProxyAuth.socks5_auth: "c6685da51eedf4a2",
}


@pytest.mark.parametrize("function", READ_AND_UNDERSTOOD, ids=lambda function: function.__qualname__)
def test_the_code_that_is_built_upon_is_the_code_that_was_read(function: Callable[..., object]) -> None:
    source = inspect.getsource(function)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    assert digest == READ_AND_UNDERSTOOD[function], source


@pytest.fixture
def context() -> Iterator[Context]:
    with taddons.context(Proxyserver()) as tested:
        # mitmproxy's default, which would connect before anybody is asked.
        assert tested.options.connection_strategy == "eager"
        yield Context(make_client(), tested.options)


def driven(first: layer.Layer) -> Driver:
    driver = Driver(first, first.context.client)
    driver.feed(events.Start())
    return driver


def hook[T: commands.StartHook](driver: Driver, kind: type[T]) -> T:
    (found,) = driver.hooks
    assert isinstance(found, kind)
    return found


def test_a_new_connection_gets_another_first_layer(context: Context) -> None:
    class Handler:
        layer: layer.Layer = modes.TransparentProxy(context)

    handler = Handler()
    begin(handler, Undecided)  # type: ignore[arg-type]
    assert isinstance(handler.layer, Undecided)
    assert context.layers == [handler.layer]


def test_a_tunnel_tries_its_addresses_and_says_nothing(context: Context) -> None:
    driver = driven(Tunnel(context, ["192.0.2.7", "2001:db8::7"], 443))
    driver.send(b"said before")
    driver.feed(events.OpenConnectionCompleted(driver.opened[0], "refused"))
    assert [each.connection.address for each in driver.opened] == [("192.0.2.7", 443), ("2001:db8::7", 443)]
    assert not driver.closed
    driver.feed(events.OpenConnectionCompleted(driver.opened[1], "refused"))
    assert driver.closed
    assert driver.sent == b""


def test_whoever_is_hung_up_on_hears_why_and_is_not_heard(context: Context) -> None:
    driver = driven(HangUp(context, b"why"))
    driver.send(b"but")
    assert driver.sent == b"why"
    assert driver.closed


# --- undecided ---

GET = b"GET / HTTP/1.1\r\nHost: registry.example\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_nothing_is_decided_before_all_is_said(context: Context, cut: int) -> None:
    driver = driven(Undecided(context))
    driver.send(GET[:cut])
    assert driver.hooks == []
    driver.send(GET[cut:])
    assert hook(driver, MirrortapBegunHook).begun.opening.host == "registry.example"


def test_what_was_said_meanwhile_is_heard_in_order(context: Context) -> None:
    driver = driven(Undecided(context))
    driver.send(b"\x00one")
    driver.send(b"two")
    heard: list[bytes] = []

    class Listener(layer.Layer):
        def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
            if isinstance(event, events.DataReceived):
                heard.append(event.data)
            yield from ()

    hook(driver, MirrortapBegunHook).begun.layer = Listener(context)
    driver.done()
    driver.send(b"three")
    assert heard == [b"\x00one", b"two", b"three"]


def test_too_much_is_decided_as_it_is(context: Context) -> None:
    driver = driven(Undecided(context))
    driver.send(GET[:20] + b"x" * (MAX_HEAD - 20))
    assert driver.hooks == []
    driver.send(b"x")
    assert not hook(driver, MirrortapBegunHook).begun.opening.complete


def test_what_no_hook_decides_ends(context: Context) -> None:
    driver = driven(Undecided(context))
    driver.send(b"\x00")
    driver.done()
    assert driver.closed
    assert driver.opened == []


def test_whoever_leaves_before_that_is_forgotten(context: Context) -> None:
    driver = driven(Undecided(context))
    driver.send(GET[:5])
    driver.leave()
    assert driver.closed
    assert driver.hooks == []


# --- SOCKS5 ---

NAME = b"\x05\x01\x00\x03\x10registry.example\x01\xbb"
OK = b"\x05\x00\x00\x01" + bytes(6)


def wish(driver: Driver) -> Wish:
    return hook(driver, MirrortapWishHook).wish


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_request_in_pieces(context: Context, size: int) -> None:
    driver = driven(SocksLayer(context, login=True))
    said = b"\x05\x02\x00\x02" + b"\x01\x03ann\x06s3cret"
    for i in range(0, len(said), size):
        driver.send(said[i : i + size])
    (asked,) = driver.hooks
    assert isinstance(asked, modes.Socks5AuthHook)
    assert (asked.data.username, asked.data.password) == ("ann", "s3cret")
    asked.data.valid = True
    driver.done()
    for i in range(0, len(NAME), size):
        driver.send(NAME[i : i + size])
    assert (wish(driver).host, wish(driver).port) == ("registry.example", 443)
    assert driver.sent == b"\x05\x02\x01\x00"


def test_a_login_that_no_hook_allows_is_wrong(context: Context) -> None:
    driver = driven(SocksLayer(context, login=True))
    driver.send(b"\x05\x01\x02\x01\x03ann\x06s3cret" + NAME)
    driver.done()
    assert driver.sent == b"\x05\x02\x01\x01"
    assert driver.closed
    assert driver.hooks == []


def test_where_no_hook_lets_anybody_is_not_gone_to(context: Context) -> None:
    driver = driven(SocksLayer(context, login=False))
    driver.send(b"\x05\x01\x00" + NAME + b"more")
    driver.done()
    assert driver.sent == b"\x05\x00\x05\x01" + OK[2:]
    assert driver.closed
    assert driver.hooks == []
    assert driver.opened == []


@pytest.mark.parametrize("undecided", [True, False])
def test_a_granted_wish_that_nothing_is_connected_to_for(context: Context, undecided: bool) -> None:
    driver = driven(SocksLayer(context, login=False))
    driver.send(b"\x05\x01\x00" + NAME + GET)
    wish(driver).reply, wish(driver).undecided = GRANTED, undecided
    driver.done()
    assert driver.sent == b"\x05\x00" + OK
    assert driver.layer.context.server.address == ("registry.example", 443)
    if undecided:
        assert hook(driver, MirrortapBegunHook).begun.opening.protocol == "http"
    else:
        assert hook(driver, layer.NextLayerHook).data.data_client() == GET
    assert driver.opened == []


def test_a_granted_wish_is_told_when_there_is_a_connection(context: Context) -> None:
    for outcome, reply in ("refused", b"\x05\x04"), (None, OK):
        context = Context(make_client(), context.options)
        driver = driven(SocksLayer(context, login=False))
        driver.send(b"\x05\x01\x00" + NAME)
        wish(driver).reply, wish(driver).addresses = GRANTED, ["192.0.2.7"]
        driver.done()
        (opened,) = driver.opened
        assert driver.sent == b"\x05\x00"
        opened.connection.timestamp_start = 1.0
        opened.connection.state = ConnectionState.CLOSED if outcome else ConnectionState.OPEN
        driver.feed(events.OpenConnectionCompleted(opened, outcome))
        assert driver.sent.startswith(b"\x05\x00" + reply)
        assert driver.closed == bool(outcome)
        assert len(driver.opened) == 1


def test_what_is_not_allowed_is_told_as_that(context: Context) -> None:
    driver = driven(SocksLayer(context, login=False))
    driver.send(b"\x05\x01\x00" + NAME)
    wish(driver).reply = NOT_ALLOWED
    driver.done()
    assert driver.sent == b"\x05\x00\x05\x02" + OK[2:]
    assert driver.closed


def test_what_is_not_socks_is_http_to_mitmproxy(context: Context) -> None:
    driver = driven(SocksLayer(context, login=True))
    driver.send(GET)
    nextlayer = hook(driver, layer.NextLayerHook).data
    with taddons.context(Proxyserver()) as tested:
        tested.master.addons.add(chooser := NextLayer())
        chooser.next_layer(nextlayer)
    assert isinstance(nextlayer.layer, HttpLayer)
    assert nextlayer.layer.mode.name == "regular"


# --- where to ---


def test_a_connection_that_was_not_redirected_was_meant_for_where_it_arrived() -> None:
    tell_where_to()
    assert platform.original_addr
    with socket.create_server(("127.0.0.1", 0)) as server, closing(socket.create_connection(server.getsockname())):
        accepted, _ = server.accept()
        with accepted:
            assert platform.original_addr(accepted) == server.getsockname()
