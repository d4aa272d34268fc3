"""The proxy door over real sockets: what a client sees of it that is not the engine's doing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engine.harness import closed_port
from support.config import toml
from support.faults import Corrupt, Slow, Status, Truncate
from support.images import sha256
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.proxy import Proxy
    from support.threads import LoopThread

    from doors.conftest import Serve

HOST = "registry.example"
LARGE = 64 << 20
# What the kernel and the layers may hold of a transfer that does not move; far less than LARGE.
UNDER_WAY = 24 << 20


def origin_of(registry: FakeRegistry, authority: Authority) -> str:
    return toml({HOST: {"server": registry.url, "ca": [authority.file]}})


def blob(registry: FakeRegistry, data: bytes) -> str:
    return f"/v2/app/blobs/{registry.content.put_blob('app', data)}"


def resident(proxy: Proxy) -> int:
    """Bytes of its memory."""
    pages = Path(f"/proc/{proxy.program.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def test_a_slow_client_slows_the_reading(loop_thread: LoopThread, authority: Authority, start_proxy: Serve) -> None:
    """What is passed on is not stored, so what the client does not take must stay at the origin."""
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    registry.inject(Status(200, body=bytes(LARGE)), kind="referrers")
    proxy = start_proxy(origin_of(registry, authority))
    with closing(proxy.client(HOST).connect()) as connection:
        connection.request("GET", f"/v2/app/referrers/{sha256(b'')}")
        answer = connection.getresponse()
        assert answer.status == 200
        wait_until_still(registry)
        assert registry.traffic.sent.total() < UNDER_WAY
        assert answer.read() == bytes(LARGE)


def wait_until_still(registry: FakeRegistry) -> None:
    """Until nothing has moved for a while: that nothing moves can be seen in no other way."""
    before = -1
    while before != (before := registry.traffic.sent.total()):
        time.sleep(0.3)


def test_a_large_blob_is_never_in_memory_whole(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    path = blob(registry, bytes(2 * LARGE))
    proxy = start_proxy(origin_of(registry, authority))
    client = proxy.client(HOST)
    client.get("/v2/")
    before = resident(proxy)
    with closing(client.connect()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read(1)
        # The fill goes on while the client pauses: all of it ends up on disk, not in memory.
        stored = proxy.cache / "blobs" / path.rpartition("/")[2].replace(":", "/")
        deadline = time.monotonic() + 100
        while not stored.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert resident(proxy) - before < LARGE
        answer.read()
    assert resident(proxy) - before < LARGE


def test_an_upload_that_the_origin_does_not_take_stays_with_the_client(
    loop_thread: LoopThread, start_proxy: Serve
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as origin:
        proxy = start_proxy(toml({HOST: {"server": f"http://127.0.0.1:{origin.getsockname()[1]}"}}))
        with closing(proxy.client(HOST).connect()) as connection:
            connection.putrequest("PUT", "/v2/app/blobs/uploads/1")
            connection.putheader("Content-Length", str(LARGE))
            connection.endheaders()
            accepted, _ = origin.accept()
            connection.sock.settimeout(1)
            sent = 0
            try:
                while sent < LARGE:
                    connection.send(bytes(65536))
                    sent += 65536
            except TimeoutError:
                pass
            assert sent < UNDER_WAY
            accepted.close()


def test_a_refused_upload_is_answered_before_its_end(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    """As Go's clients expect: they read the 401 while they are still sending."""
    with closing(socket.create_server(("127.0.0.1", 0))) as origin:
        proxy = start_proxy(toml({HOST: {"server": f"http://127.0.0.1:{origin.getsockname()[1]}"}}))
        with closing(proxy.client(HOST).connect()) as connection:
            connection.putrequest("PUT", "/v2/app/blobs/uploads/1")
            connection.putheader("Content-Length", "1000000")
            connection.endheaders()
            connection.send(bytes(1000))
            accepted, _ = origin.accept()
            accepted.recv(65536)
            accepted.sendall(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (401, b"no")
            assert answer.headers["WWW-Authenticate"] == "Basic"
            accepted.close()


def test_a_wrong_body_is_cut_and_not_completed(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    path = blob(registry, bytes(3_000_000))
    proxy = start_proxy(origin_of(registry, authority))
    registry.inject(Corrupt(), kind="blob", method="GET", times=1)
    with closing(proxy.client(HOST).connect()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as cut:
            answer.read()
        assert len(cut.value.partial) < 3_000_000
    proxy.log.wait_for(rf"GET {HOST}/app blob \S+ 200 .* CUT: 127\.0\.0\.1:\d+ sent a bad")
    # By then it has been asked for again: whatever is stored is right.
    stored = proxy.cache / "blobs" / "sha256" / path.rpartition(":")[2]
    assert not stored.exists() or sha256(stored.read_bytes()) == path.rpartition("/")[2]
    assert sha256(proxy.client(HOST).get(path).body) == path.rpartition("/")[2]


def test_a_body_that_breaks_off_is_made_whole(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    path = blob(registry, bytes(3_000_000))
    proxy = start_proxy(origin_of(registry, authority))
    registry.inject(Truncate(1_000_000), kind="blob", method="GET", times=2)
    assert sha256(proxy.client(HOST).get(path).body) == path.rpartition("/")[2]


def test_the_last_byte_waits_for_the_digest(loop_thread: LoopThread, authority: Authority, start_proxy: Serve) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    data = bytes(range(256)) * 1000
    path = blob(registry, data)
    gate = asyncio.Event()
    registry.inject(Slow(gate, after=len(data) - 1), kind="blob", method="GET")
    proxy = start_proxy(origin_of(registry, authority))
    with closing(proxy.client(HOST).connect()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        # Everything but what is held back flows while the origin still sends.
        begun = answer.read(len(data) - 2)
        loop_thread.call(gate.set)
        assert begun + answer.read() == data


def test_one_connection_serves_many_requests(loop_thread: LoopThread, authority: Authority, start_proxy: Serve) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    path = blob(registry, b"content" * 1000)
    proxy = start_proxy(origin_of(registry, authority))
    with closing(proxy.client(HOST).connect()) as connection:
        for method in "HEAD", "GET", "HEAD", "GET", "DELETE", "GET":
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            assert len(body) == (7000 if method == "GET" else len(body))
            sock = connection.sock
        assert sock is connection.sock


def raw(proxy: Proxy, said: bytes) -> tuple[int, bytes]:
    """What the proxy's own port answers to these bytes, after which nothing more is said."""
    with closing(socket.create_connection((proxy.host, proxy.port), timeout=20)) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while received := sock.recv(65536):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_half_a_request_and_nonsense_get_an_oci_error(start_proxy: Serve) -> None:
    proxy = start_proxy(toml({}))
    for said, expected in (
        (b"GET http://docker.io/v2/ HTTP/1.1\r\nHo", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://docker.io/v2/ HTTP/1.1\r\nHost: docker.io\r\nX: " + b"x" * 100_000, 431),
    ):
        status, body = raw(proxy, said)
        assert status == expected
        assert json.loads(body)["errors"][0]["message"]


def test_plain_http_to_other_hosts_is_forwarded(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    """With HTTP_PROXY set as well, as RUN apt-get in a build has it."""
    registry = loop_thread.enter(FakeRegistry())
    path = blob(registry, b"a package" * 100_000)
    proxy = start_proxy(toml({}, {"tunnel": [registry.endpoint]}))
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        connection.request("GET", registry.url + path)
        answer = connection.getresponse()
        assert answer.read() == b"a package" * 100_000
        assert answer.headers["Cache-Status"] is None


def test_plain_http_to_a_registry_is_answered_by_the_engine(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    path = blob(registry, b"content")
    proxy = start_proxy(origin_of(registry, authority))
    for expected in "fwd=miss", "hit":
        with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
            connection.request("GET", f"http://{HOST}{path}")
            answer = connection.getresponse()
            assert answer.read() == b"content"
            assert expected in answer.headers["Cache-Status"]


def test_a_tunnel_to_nowhere_is_refused_with_the_reason(start_proxy: Serve) -> None:
    nowhere = closed_port()
    proxy = start_proxy(toml({}, {"tunnel": [nowhere]}))
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        connection.request("CONNECT", nowhere)
        answer = connection.getresponse()
        assert answer.status == 502
        assert f"cannot connect to {nowhere}".encode() in answer.read()


def test_tls_to_the_proxys_own_port_is_explained(start_proxy: Serve) -> None:
    proxy = start_proxy(toml({}))
    context = ssl.create_default_context()
    sock = socket.create_connection((proxy.host, proxy.port), timeout=20)
    # As Go's clients say it: "first record does not look like a TLS handshake".
    with closing(sock), pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        context.wrap_socket(sock, server_hostname="proxy.example")
    with socket.create_connection((proxy.host, proxy.port), timeout=20) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
    proxy.log.wait_for("sent what is not valid HTTP/1.1 to the proxy's port")
    speaking, _ = proxy.log.all()
    assert speaking.endswith("127.0.0.1 speaks TLS to the proxy's port: write http://, not https://, in HTTPS_PROXY")


def test_the_log_has_no_query_and_no_credential(
    loop_thread: LoopThread, authority: Authority, start_proxy: Serve
) -> None:
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    proxy = start_proxy(origin_of(registry, authority))
    path = "/v2/app/tags/list?state=s3cret-state"
    proxy.client(HOST).get(path, {"Authorization": "Basic s3cret-credential"})
    line = proxy.log.wait_for(rf"GET {HOST}/v2/app/tags/list ").string
    assert "passed on to" in line
    assert "s3cret" not in "\n".join(proxy.log.all())
