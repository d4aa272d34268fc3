"""Behind a parent proxy: what clients reach through us beside registries goes through it, too.

The names here end in .test, which nobody but the parent knows: what arrives, came through it.
"""

from __future__ import annotations

import http.client
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from engine.harness import closed_port
from support.config import toml
from support.images import sha256
from support.parent import LOGIN, SECRETS, ParentProxy
from support.proxy import serve
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.certificates import Authority
    from support.proxy import Proxy
    from support.threads import LoopThread

HOST = "registry.test"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def asked(proxy: Proxy, request: str) -> tuple[http.client.HTTPResponse, socket.socket]:
    sock = socket.create_connection((proxy.host, proxy.port), timeout=20)
    sock.sendall(request.replace("\n", "\r\n").encode())
    answer = http.client.HTTPResponse(sock, method=request.partition(" ")[0])
    answer.begin()
    return answer, sock


def port_of(server: FakeRegistry) -> int:
    return int(server.endpoint.rpartition(":")[2])


def test_tunnels_and_plain_requests_go_through_it(
    authority: Authority, loop_thread: LoopThread, stack: ExitStack, tmp_path: Path
) -> None:
    parent = loop_thread.enter(ParentProxy())
    secured = loop_thread.enter(FakeRegistry(tls=authority, names=("other.test", HOST)))
    plain = loop_thread.enter(FakeRegistry())
    early = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    blob = f"/v2/app/blobs/{secured.content.put_blob('app', b'content')}"
    plain.content.put_blob("app", b"content")
    ports = [port_of(secured), port_of(plain), early.getsockname()[1]]
    tables = {HOST: {"server": f"https://{HOST}:{ports[0]}", "ca": [authority.file]}}
    settings = {"tunnel-ports": [443, 80, *ports]}
    proxy = stack.enter_context(serve(tmp_path, toml(tables, settings), **parent.environment))
    proxy.program.out.wait_for(rf"goes through {parent.endpoint} \(\$HTTPS_PROXY\)")

    # A registry, by the engine.
    assert proxy.client(HOST).get(blob).body == b"content"
    # Another host, untouched: its certificate is its own.
    other = proxy.client(f"other.test:{ports[0]}", ca=authority.file)
    assert sha256(other.get(blob).body) == blob.rpartition("/")[2]
    # One who speaks first, at once with the parent's answer or after it.
    answer, sock = asked(proxy, f"CONNECT early.test:{ports[2]} HTTP/1.1\n\n")
    with sock:
        assert answer.status == 200
        accepted, _ = early.accept()
        with accepted:
            accepted.sendall(b"hello\n")
            assert sock.recv(100) == b"hello\n"
            sock.sendall(b"\x00\xff")
            assert accepted.recv(100) == b"\x00\xff"
            sock.shutdown(socket.SHUT_WR)
            assert accepted.recv(100) == b""
    parent.answers["first.test"] = b"HTTP/1.1 200 OK\r\n\r\n220 first\r\n"
    answer, sock = asked(proxy, "CONNECT first.test:443 HTTP/1.1\n\n")
    with sock:
        assert answer.fp.read(11) == b"220 first\r\n"
    # Plain requests, several on one connection.
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        for _ in range(2):
            connection.request("GET", f"http://plain.test:{ports[1]}{blob}", headers={"Proxy-Authorization": "Basic x"})
            assert connection.getresponse().read() == b"content"

    # What comes back to us, through whatever stands between, goes no second time.
    (via,) = {each.headers["via"] for each in parent.asked}
    for request in (
        f"CONNECT a.test:443 HTTP/1.1\nVia: 1.1 other, {via}\n\n",
        f"CONNECT {HOST}:443 HTTP/1.1\nVia: {via}\n\n",
        f"GET http://a.test/ HTTP/1.1\nHost: a.test\nVia: {via}\n\n",
    ):
        answer, sock = asked(proxy, request)
        with sock:
            assert (answer.status, "leads back to it" in answer.reason) == (508, True)

    seen = [each.target for each in parent.asked]
    assert seen == [
        f"{HOST}:{ports[0]}",
        *(f"other.test:{ports[0]}", f"early.test:{ports[2]}", "first.test:443"),
        *(f"http://plain.test:{ports[1]}{blob}",) * 2,
    ]
    for each in parent.asked:
        assert each.headers["proxy-authorization"] == LOGIN
        assert each.headers["via"].startswith("1.1 mirrortap-")
        assert each.headers["host"].removesuffix(":443") in each.target
    for reached in (*secured.requests, *plain.requests):
        assert "Proxy-Authorization" not in reached.headers
    for secret in SECRETS:
        assert secret not in proxy.program.output()


def test_what_it_refuses_is_said_to_be_its_refusal(loop_thread: LoopThread, stack: ExitStack, tmp_path: Path) -> None:
    parent = loop_thread.enter(ParentProxy("Basic another"))
    parent.answers["denied.test"] = b"HTTP/1.1 403 Not For You\r\nContent-Length: 0\r\n\r\n"
    parent.answers["nonsense.test"] = b"SSH-2.0-x\r\n\r\n"
    proxy = stack.enter_context(serve(tmp_path, toml({}), NO_PROXY="direct.test", **parent.environment))
    named = f"the parent proxy {parent.endpoint} ($HTTPS_PROXY)"
    wrong = "answered 407 Who Are You: it does not take this user and password"
    for target, why in (
        ("a.test:443", f"{named} {wrong}"),
        ("denied.test:443", f"{named} answered 403 Not For You"),
        ("nonsense.test:443", f"{named} does not speak HTTP"),
        # Past it, and known to nobody.
        ("direct.test:443", "direct.test:443"),
    ):
        answer, sock = asked(proxy, f"CONNECT {target} HTTP/1.1\n\n")
        with sock:
            assert answer.status == 502
            assert f"mirrortap cannot connect to {target}" in answer.reason
            assert why in answer.reason
            assert answer.headers["Proxy-Authenticate"] is None
    for method in "GET", "HEAD", "GET":
        with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
            connection.request(method, "http://plain.test/")
            answer = connection.getresponse()
            assert answer.status == 502
            assert answer.headers["Proxy-Authenticate"] is None
            told = answer.read().decode()
            assert method == "HEAD" or f"the parent proxy {parent.endpoint} ($HTTP_PROXY) {wrong}" in told
    # Addresses are refused before it hears of them.
    count = len(parent.asked)
    for target in "169.254.169.254:80", "2852039166:80", "127.0.0.1:80":
        answer, sock = asked(proxy, f"CONNECT {target} HTTP/1.1\n\n")
        with sock:
            assert answer.status == 403
    assert len(parent.asked) == count


def test_one_that_hangs_and_one_that_is_not_there(stack: ExitStack, tmp_path: Path) -> None:
    nobody = closed_port()
    silent = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    named = f"127.0.0.1:{silent.getsockname()[1]}"
    text = toml({}, {"first-byte-timeout": "500ms"})
    proxy = stack.enter_context(serve(tmp_path, text, HTTPS_PROXY=named, HTTP_PROXY=nobody))
    answer, sock = asked(proxy, "CONNECT a.test:443 HTTP/1.1\n\n")
    with sock:
        assert answer.status == 502
        assert f"the parent proxy {named} ($HTTPS_PROXY) has not answered within 0.5 s" in answer.reason
    answer, sock = asked(proxy, "GET http://a.test/ HTTP/1.1\nHost: a.test\n\n")
    with sock:
        assert answer.status == 502
        assert f"the parent proxy {nobody} ($HTTP_PROXY) cannot be reached" in answer.read().decode()
