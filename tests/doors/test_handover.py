"""Tunnels to registries that are taken out of mitmproxy's hands: what is in them, and who has what of it."""

from __future__ import annotations

import hashlib
import http.client
import inspect
import os
import socket
import ssl
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from mitmproxy.proxy.server import ConnectionHandler
from support.config import toml
from support.images import sha256
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.certificates import Authority
    from support.proxy import Proxy
    from support.threads import LoopThread

    from doors.conftest import Serve

HOST = "registry.example"
CONTENT = os.urandom(3 << 20)

# What the taking over relies on, by mitmproxy's source: that it does nothing to a connection whose reader is at its end
# which the other end would see. Read it anew when this fails.
READ_AND_UNDERSTOOD: dict[Callable[..., object], str] = {
    ConnectionHandler.handle_client: "01f1b7cc991c4711",
    ConnectionHandler.handle_connection: "95c3f93e9824e527",
}


@pytest.mark.parametrize("function", READ_AND_UNDERSTOOD, ids=lambda function: function.__qualname__)
def test_the_code_that_is_built_upon_is_the_code_that_was_read(function: Callable[..., object]) -> None:
    source = inspect.getsource(function)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    assert digest == READ_AND_UNDERSTOOD[function], source


@pytest.fixture
def origin(loop_thread: LoopThread, authority: Authority) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry(tls=authority))


@pytest.fixture
def proxy(origin: FakeRegistry, authority: Authority, start_proxy: Serve) -> Proxy:
    tables = {HOST: {"server": origin.url, "ca": [authority.file]}}
    return start_proxy(toml(tables, {"connections-per-client": 2}))


@pytest.fixture
def path(origin: FakeRegistry) -> str:
    return f"/v2/app/blobs/{origin.content.put_blob('app', CONTENT)}"


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=20)


def answer(sock: socket.socket, method: str = "GET") -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    return response


def let_in(proxy: Proxy) -> socket.socket:
    """In a tunnel, as soon as there is room."""
    while True:
        sock = connect(proxy)
        try:
            sock.sendall(CONNECT)
            assert answer(sock, "CONNECT").status == 200
        except ConnectionError:
            sock.close()
        else:
            return sock


CONNECT = f"CONNECT {HOST}:443 HTTP/1.1\r\n\r\n".encode()


def test_a_client_that_does_not_wait_to_be_let_in(proxy: Proxy, path: str) -> None:
    """What it says of TLS comes with its CONNECT: mitmproxy has read it, and goes on with it."""
    context = ssl.create_default_context(cafile=str(proxy.ca))
    received, wanted = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, wanted, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with connect(proxy) as sock:
        sock.sendall(CONNECT + wanted.read())
        said = b""
        while b"\r\n\r\n" not in said:
            said += sock.recv(1)
        assert said.startswith(b"HTTP/1.1 200 ")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                received.write(sock.recv(65536))
        tls.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        sock.sendall(wanted.read())
        got = b""
        while True:
            try:
                piece = tls.read(1 << 16)
                if not piece:
                    break
                got += piece
            except ssl.SSLWantReadError:
                data = sock.recv(65536)
                if data:
                    received.write(data)
                else:
                    received.write_eof()
            except ssl.SSLError:
                break
    assert got.partition(b"\r\n\r\n")[2] == CONTENT


def test_a_tunnel_without_tls(proxy: Proxy, path: str) -> None:
    with connect(proxy) as sock:
        sock.sendall(CONNECT)
        assert answer(sock, "CONNECT").status == 200
        for _ in range(2):
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert answer(sock).read() == CONTENT


def test_whoever_leaves_makes_room_whenever_that_is(proxy: Proxy, path: str) -> None:
    """With connections-per-client = 2, one that stays counted is one too many."""
    context = ssl.create_default_context(cafile=str(proxy.ca))

    def before_tls() -> None:
        let_in(proxy).close()

    def in_the_handshake() -> None:
        with let_in(proxy) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")

    def not_trusting() -> None:
        with let_in(proxy) as sock, pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(sock, server_hostname=HOST)

    def in_a_body() -> None:
        with let_in(proxy) as sock, context.wrap_socket(sock, server_hostname=HOST) as inside:
            inside.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert inside.recv(10) == b"HTTP/1.1 2"

    for leave in (before_tls, in_the_handshake, not_trusting, in_a_body) * 2:
        leave()
        # Both get in, as soon as the proxy has seen the other one leave.
        with let_in(proxy), let_in(proxy):
            pass
    proxy.log.wait_for(rf"127\.0\.0\.1 broke off TLS for {HOST} .* install .*ca\.crt there")


def test_what_a_client_sends_is_asked_for_when_it_waits_for_that(proxy: Proxy) -> None:
    client = proxy.client(HOST)
    data = os.urandom(100_000)
    connection = client.connect()
    with ExitStack() as stack:
        stack.callback(connection.close)
        connection.request("POST", "/v2/app/blobs/uploads/")
        begun = connection.getresponse()
        begun.read()
        assert begun.status == 202
        place = begun.headers["Location"].partition(HOST)[2] or begun.headers["Location"]
        join = "&" if "?" in place else "?"
        connection.putrequest("PUT", f"{place}{join}digest={sha256(data)}")
        connection.putheader("Content-Length", str(len(data)))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(data)
        assert connection.getresponse().status == 201
    assert client.get(f"/v2/app/blobs/{sha256(data)}").body == data


def test_a_cached_file_that_becomes_shorter_while_it_is_sent(proxy: Proxy, origin: FakeRegistry) -> None:
    """It is mapped, and what is beyond its end must not be looked at: the rest is downloaded anew."""
    content = os.urandom(24 << 20)  # more than fits into all buffers on the way
    path = f"/v2/app/blobs/{origin.content.put_blob('app', content)}"
    client = proxy.client(HOST)
    assert client.get(path).body == content
    file = proxy.cache / "blobs" / path.rpartition("/")[2].replace(":", "/")
    while not file.exists():  # clients have it a moment before
        time.sleep(0.01)
    connection = client.connect()
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["Cache-Status"] == "mirrortap; hit"
        begin = answer.read(1 << 16)
        os.truncate(file, 1 << 16)
        assert sha256(begin + answer.read()) == sha256(content)
    proxy.log.wait_for("it cannot be read")
