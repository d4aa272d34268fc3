"""The proxy door's own rules over real sockets: logins, forwarding, and how long and how often a client may stay."""

from __future__ import annotations

import asyncio
import base64
import http.client
import socket
import ssl
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.faults import Held, Slow
from support.images import sha256
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.certificates import Authority
    from support.proxy import Proxy
    from support.threads import LoopThread

    from doors.conftest import Serve

HOST = "registry.example"
# As `htpasswd -nbBC 4 ann s3cret` writes it.
ANN = "ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L."
LOGIN = "Basic " + base64.b64encode(b"ann:s3cret").decode()
WRONG = "Basic " + base64.b64encode(b"ann:wr0ng").decode()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def elsewhere(loop_thread: LoopThread) -> FakeRegistry:
    """Some host that is not intercepted."""
    return loop_thread.enter(FakeRegistry())


def connect(proxy: Proxy, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=20, source_address=(source, 0))


def said(sock: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    received = b""
    try:
        while piece := sock.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def answer_to(sock: socket.socket, request: bytes) -> http.client.HTTPResponse:
    sock.sendall(request)
    answer = http.client.HTTPResponse(sock, method="CONNECT" if request.startswith(b"CONNECT") else "GET")
    answer.begin()
    return answer


def connecting(target: str, **headers: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
    return "\r\n".join((*lines, "", "")).encode()


# --- logins ---


def test_whoever_has_no_login_gets_the_ca_and_nothing_else(
    elsewhere: FakeRegistry, authority: Authority, loop_thread: LoopThread, start_proxy: Serve, tmp_path: Path
) -> None:
    origin = loop_thread.enter(FakeRegistry(tls=authority))
    blob = f"/v2/app/blobs/{origin.content.put_blob('app', b'content')}"
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "users").write_text(ANN)
    tables = {HOST: {"server": origin.url, "ca": [authority.file]}}
    proxy = start_proxy(toml(tables, {"proxy-users": "users", "tunnel": [elsewhere.endpoint]}))

    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        connection.request("GET", "/ca.crt")
        assert connection.getresponse().status == 200

    asked = f"HTTPS_PROXY=http://USER:PASSWORD@{proxy.host}:{proxy.port}"
    for target in f"{HOST}:443", elsewhere.endpoint, "169.254.169.254:80":
        for headers in {}, {"Proxy_Authorization": WRONG}, {"Proxy_Authorization": "nonsense"}:
            with connect(proxy) as sock:
                answer = answer_to(sock, connecting(target, **headers))
                assert answer.status == 407
                assert answer.headers["Proxy-Authenticate"] == 'Basic realm="mirrortap", charset="UTF-8"'
                assert asked in answer.reason
    for url in f"http://{HOST}{blob}", f"{elsewhere.url}/v2/":
        with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
            # The connection goes on, as clients that first ask without a login expect.
            for method, body in ("GET", None), ("HEAD", None), ("POST", bytes(200_000)):
                connection.request(method, url, body=body)
                refusal = connection.getresponse()
                told = refusal.read().decode()
                assert refusal.status == 407
                assert method == "HEAD" or asked in told
            connection.request("GET", url, headers={"Proxy-Authorization": LOGIN})
            assert connection.getresponse().status == 200

    # Once let in, what is in the tunnel needs no login, and gives none away.
    context = ssl.create_default_context(cafile=str(proxy.ca))
    with closing(http.client.HTTPSConnection(proxy.host, proxy.port, context=context, timeout=20)) as connection:
        connection.set_tunnel(HOST, 443, {"Proxy-Authorization": LOGIN})
        for headers in {}, {"Proxy-Authorization": LOGIN}:
            connection.request("GET", "/v2/app/tags/list", headers=headers)
            connection.getresponse().read()
            connection.request("GET", blob, headers=headers)
            assert sha256(connection.getresponse().read()) == blob.rpartition("/")[2]
    with connect(proxy) as sock:
        assert answer_to(sock, connecting(elsewhere.endpoint, Proxy_Authorization=LOGIN)).status == 200

    # Guessing is slow, and costs others nothing.
    statuses = []
    for i in range(12):
        with connect(proxy, "127.0.0.2") as sock:
            guess = base64.b64encode(f"ann:{i}".encode()).decode()
            answer = answer_to(sock, connecting(f"{HOST}:443", Proxy_Authorization=f"Basic {guess}"))
            statuses.append(answer.status)
    assert statuses == [407] * 10 + [429] * 2
    assert int(answer.headers["Retry-After"]) <= 61

    requests = [*origin.requests, *elsewhere.requests]
    assert {"GET"} == {request.method for request in requests} - {"HEAD"}
    assert not any("Proxy-Authorization" in request.headers for request in requests)
    written = "\n".join((*proxy.log.all(), *proxy.program.out.all()))
    assert written.count("127.0.0.1 tried to log in with a wrong user or password") == 6
    for secret in "s3cret", "wr0ng", LOGIN.split()[1], WRONG.split()[1], ANN.split(":")[1]:
        assert secret not in written


# --- forwarding ---


def test_what_is_forwarded_is_held_to_the_same_rules(
    elsewhere: FakeRegistry, start_proxy: Serve, stack: ExitStack
) -> None:
    _, _, port = elsewhere.endpoint.partition(":")
    configured = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    hidden = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    hidden.setblocking(False)
    named, intercepted = (f"localhost:{server.getsockname()[1]}" for server in (configured, hidden))
    settings = {"tunnel": ["all", named], "tunnel-ports": [int(port), 80]}
    proxy = start_proxy(toml({intercepted: {"mirrors": ["192.0.2.1"]}}, settings))
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        for method, body in ("GET", None), ("POST", bytes(300_000)), ("GET", None):
            for url, why in (
                (elsewhere.url, "it is this machine itself"),
                (f"http://127.1:{port}/", "it is 127.0.0.1, this machine itself"),
                ("http://169.254.169.254/latest/meta-data", "it is a link-local address"),
                ("http://192.0.2.1:25/", "it is at a port that is not one of tunnel-ports"),
            ):
                connection.request(method, url, body=body)
                answer = connection.getresponse()
                told = answer.read().decode()
                assert answer.status == 403
                assert why in answer.reason
                assert 'tunnel = ["all", "' in told
        connection.request("GET", "https://192.0.2.1/")
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.reason) == (400, "mirrortap speaks TLS for registries alone: use CONNECT")
    assert elsewhere.requests == []
    proxy.log.wait_for("was refused a connection", count=12)
    assert len(proxy.log.matching("was refused a connection")) == 12

    # A host that may be reached is reached through one connection.
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        connection.request("GET", f"http://{named}/0")
        accepted, _ = configured.accept()
        with accepted:
            for i in range(1, 4):
                request = accepted.recv(65536)
                assert request.startswith(f"GET /{i - 1} HTTP/1.1\r\nHost: {named}\r\n".encode())
                accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert connection.getresponse().read() == b"ok"
                connection.request("GET", f"http://{named}/{i}")

    # A ClientHello that says it has 16 MB is not waited for.
    with connect(proxy) as sock:
        assert answer_to(sock, connecting(intercepted)).status == 200
        hello = b"\x01\xff\xff\xff\x03\x03" + bytes(16384 - 6)
        try:
            for _ in range(5):
                sock.sendall(b"\x16\x03\x01\x40\x00" + hello)
                hello = bytes(16384)
        except ConnectionError:
            pass
        assert said(sock) in (b"", b"\x15\x03\x03\x00\x02\x02\x2f")  # a fatal alert: illegal_parameter

    # Nothing goes past the engine to an intercepted host.
    with connect(proxy) as sock:
        assert answer_to(sock, connecting(intercepted)).status == 200
        sock.sendall(b"\x00\x01 not TLS, not HTTP\n")
        assert said(sock).startswith(b"HTTP/1.0 400 ")
    with pytest.raises(BlockingIOError):
        hidden.accept()


# --- how long, and how many ---


def test_whoever_keeps_the_proxy_waiting_is_hung_up_on(authority: Authority, start_proxy: Serve) -> None:
    proxy = start_proxy(toml({HOST: {}}, {"header-timeout": "2s", "connections-per-client": 6}))
    context = ssl.create_default_context(cafile=str(proxy.ca))
    with ExitStack() as stack:
        # A spare connection keeps nobody waiting: clients have some.
        spare = stack.enter_context(connect(proxy))
        assert answer_to(spare, connecting(f"{HOST}:443")).status == 200
        spare = stack.enter_context(context.wrap_socket(spare, server_hostname=HOST))
        silent, slow, again, no_tls, half_tls = (stack.enter_context(connect(proxy)) for _ in range(5))
        # That is all that one client gets, but another has connections of its own.
        with connect(proxy) as seventh:
            assert said(seventh) == b""
        with connect(proxy, "127.0.0.2") as other:
            assert answer_to(other, b"GET /ca.crt HTTP/1.1\r\n\r\n").status == 200
        proxy.log.wait_for(r"127\.0\.0\.1 was turned away: it has 6 connections already \(connections-per-client\)")
        slow.sendall(b"GET / HTTP/1.1\r\nHos")
        answer_to(again, b"GET /ca.crt HTTP/1.1\r\n\r\n").read()
        again.sendall(b"GET / HT")
        for sock in no_tls, half_tls:
            assert answer_to(sock, connecting(f"{HOST}:443")).status == 200
        half_tls.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        assert said(silent) == said(no_tls) == said(half_tls) == b""
        assert said(slow)[:13] in (b"HTTP/1.1 408 ", b"")
        assert said(again).startswith(b"HTTP/1.1 408 ")
        with connect(proxy) as sock:
            assert answer_to(sock, b"GET /ca.crt HTTP/1.1\r\n\r\n").status == 200
        assert answer_to(spare, b"GET /nothing HTTP/1.1\r\n\r\n").status in (400, 404, 502)
    proxy.log.wait_for(r"127\.0\.0\.1 was hung up on: .* within 2 s \(header-timeout\)", count=3)


def test_idle_connections_end_and_those_at_work_do_not(
    elsewhere: FakeRegistry, authority: Authority, loop_thread: LoopThread, start_proxy: Serve
) -> None:
    origin = loop_thread.enter(FakeRegistry(tls=authority))
    blob = f"/v2/app/blobs/{origin.content.put_blob('app', b'content' * 1000)}"
    large = f"/v2/app/blobs/{origin.content.put_blob('app', bytes(32 << 20))}"
    gate, upload_gate = asyncio.Event(), asyncio.Event()
    origin.inject(Slow(gate), kind="blob", method="GET", times=1)
    origin.inject(Held(upload_gate), kind="upload", method="POST")
    tables = {HOST: {"server": origin.url, "ca": [authority.file]}}
    proxy = start_proxy(toml(tables, {"idle-timeout": "1s", "tunnel": [elsewhere.endpoint]}))
    client = proxy.client(HOST)
    with ExitStack() as stack:
        pull, push = (stack.enter_context(closing(client.connect())) for _ in range(2))
        pull.request("GET", blob)
        push.request("POST", "/v2/app/blobs/uploads/")
        tunnel, kept = (stack.enter_context(connect(proxy)) for _ in range(2))
        assert answer_to(tunnel, connecting(elsewhere.endpoint)).status == 200
        answer_to(kept, b"GET / HTTP/1.1\r\n\r\n").read()
        # Both began after the two requests, and end before those are answered.
        assert said(tunnel) == said(kept) == b""
        loop_thread.call(gate.set)
        loop_thread.call(upload_gate.set)
        assert sha256(pull.getresponse().read()) == blob.rpartition("/")[2]
        assert push.getresponse().status == 202

        # A transfer that the client itself lets stand is not at work.
        taken, given = (stack.enter_context(closing(client.connect())) for _ in range(2))
        taken.request("GET", large)
        given.putrequest("PUT", "/v2/app/blobs/uploads/1")
        given.putheader("Content-Length", "1000")
        given.endheaders()
        proxy.log.wait_for(rf"GET {HOST}/app blob .* CUT: the client has stopped reading \(idle-timeout\)")
        assert given.getresponse().status >= 400
