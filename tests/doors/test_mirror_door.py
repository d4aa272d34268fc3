"""The mirror door over real sockets: what a client sees of it that is not the engine's doing."""

from __future__ import annotations

import asyncio
import base64
import email
import http.client
import json
import logging
import os
import re
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from support.access import Policy, basic
from support.auth import BearerAuth
from support.config import Table, toml
from support.faults import Chunked, Corrupt, Headers, Slow, Status, Truncate
from support.images import sha256
from support.mirror import Mirror
from support.registry import FakeRegistry
from support.waiting import until

from addon.oci import Digest

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from support.certificates import Authority
    from support.proxy import Response
    from support.threads import LoopThread

QUAY, OWN = "quay.io", "registry.test:5000"
LARGE = os.urandom(1 << 20) * 6
PAGE = b"GET / HTTP/1.1\r\nHost: mirror\r\n\r\n"
# As `htpasswd -nbBC 4 ann s3cret` writes it.
ANN = "ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L."

Start = Callable[..., Mirror]


@pytest.fixture
def origin(loop_thread: LoopThread, authority: Authority) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry(tls=authority))


@pytest.fixture
def start(loop_thread: LoopThread, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Start:
    """start({registry: origin}, settings, names=..., **keys of each table)"""
    caplog.set_level(logging.INFO)

    def started(
        origins: dict[str, FakeRegistry], settings: Table | None = None, names: tuple[str, ...] = (), **own: Any
    ) -> Mirror:
        tables = {name: {"server": at.url, "ca": [authority.file], **own} for name, at in origins.items()}
        return loop_thread.enter(Mirror(tmp_path / "mirror", toml(tables, settings), names))

    return started


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What os.sendfile has sent, each time."""
    counts: list[int] = []
    real = os.sendfile

    def watched(*args: int) -> int:
        counts.append(real(*args))
        return counts[-1]

    monkeypatch.setattr(os, "sendfile", watched)
    return counts


def put(registry: FakeRegistry, data: bytes, repository: str = "team/app") -> str:
    """Where a client asks quay.io for it."""
    return f"/v2/{QUAY}/{repository}/blobs/{registry.content.put_blob(repository, data)}"


def warm(mirror: Mirror, path: str) -> None:
    """Until it is in the cache, on the disk."""
    stored = mirror.cache / "blobs" / path.rpartition("/")[2].replace(":", "/")
    mirror.get(path)
    until(stored.exists)
    assert mirror.get(path).headers["Cache-Status"] == "mirrortap; hit"
    # What was sent has been counted when the door is through with it.
    until(lambda: not mirror.door._reception._answering)


def until_sent(by_kernel: list[int], count: int) -> None:
    until(lambda: sum(by_kernel) == count)


def error(answer: Response) -> tuple[int, str, str]:
    assert answer.headers["Content-Type"] == "application/json"
    (problem,) = json.loads(answer.body)["errors"]
    return answer.status, problem["code"], problem["message"]


def said(sock: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    received = b""
    try:
        while piece := sock.recv(1 << 16):
            received += piece
    except ConnectionResetError:
        pass
    return received


def raw(mirror: Mirror, request: bytes) -> tuple[int, str]:
    """Status, and the code of the OCI error, of what the connection then ends with."""
    with mirror.connect() as sock:
        sock.sendall(request)
        head, _, body = said(sock).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["errors"][0]["code"]


# --- which registry ---


def test_two_registries_at_one_port(
    origin: FakeRegistry, loop_thread: LoopThread, authority: Authority, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    other = loop_thread.enter(FakeRegistry(tls=authority))
    mirror = start({QUAY: origin, OWN: other})
    blob = f"team/app/blobs/{origin.content.put_blob('team/app', b'of quay')}"
    other_blob = f"team/app/blobs/{other.content.put_blob('team/app', b'of the other')}"
    for path, content in (
        (f"/v2/{QUAY}/{blob}", b"of quay"),
        (f"/v2/{blob}?ns={QUAY}", b"of quay"),
        (f"/v2/{QUAY}/{blob}?ns={QUAY}", b"of quay"),
        (f"/v2/{OWN}/{other_blob}", b"of the other"),
        (f"/v2/{other_blob}?ns=registry.test%3A5000", b"of the other"),
    ):
        # The login is the mirror's, whoever the client thinks it talks to.
        answer = mirror.get(path, {"Authorization": basic("ann", "s3cret"), "Cookie": "session=s3cret"})
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["OCI-Namespace"] == (QUAY if content == b"of quay" else OWN)
        assert answer.headers.get_all("Server") == ["mirrortap"]
        assert [len(answer.headers.get_all(name, [])) for name in ("Date", "Content-Length")] == [1, 1]
        assert "Connection" not in answer.headers
    # What counts against a rate limit may go on a client's own credential, when it is one for the registry.
    manifest = origin.content.put_manifest("team/app", "1.0", b'{"schemaVersion":2,"manifests":[]}', "application/json")
    answer = mirror.get(f"/v2/{QUAY}/team/app/manifests/{manifest}", {"Authorization": basic("ann", "s3cret")})
    assert sha256(answer.body) == manifest
    # A digest is no key.
    assert mirror.get(f"/v2/{OWN}/{blob}").status == 404
    for registry in origin, other:
        assert not any({"Authorization", "Cookie"} & set(seen.headers) or seen.query for seen in registry.requests)
        assert len(registry.seen("blob", method="GET")) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert any(re.fullmatch(r"GET quay.io/team/app blob sha256:\w{12} 200 hit 7 B \d+ ms", line) for line in lines)
    assert "s3cret" not in "".join(lines)


def test_what_is_no_registry_here(origin: FakeRegistry, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    mirror = start({QUAY: origin})
    for path in "/v2/app/manifests/1?ns=private.example", "/v2/169.254.169.254/app/manifests/1", "/v2/127.0.0.1:1/a/":
        status, code, message = error(mirror.get(path))
        assert (status, code) == (404, "NAME_UNKNOWN")
        assert 'write [registry."' in message
    assert error(mirror.get("/v2/app/manifests/1?ns=a/b"))[:2] == (400, "NAME_INVALID")
    assert error(mirror.get("/latest/meta-data"))[:2] == (404, "UNSUPPORTED")
    assert error(mirror.get(f"/v2/{QUAY}/_catalog"))[:2] == (404, "UNSUPPORTED")
    assert origin.requests == []
    assert "private.example is not one of the registries here" in caplog.text


def test_what_every_mirror_says(origin: FakeRegistry, start: Start) -> None:
    mirror = start({QUAY: origin})
    for path in "/v2/", "/v2", f"/v2/?ns={QUAY}", f"/v2/{QUAY}/":
        answer = mirror.get(path)
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
        assert mirror.request("HEAD", path).status == 200
    assert mirror.get("/ca.crt").body == mirror.ca.read_bytes()
    assert b"/ca.crt" in mirror.get("/").body
    assert origin.requests == []


def test_what_no_mirror_does(origin: FakeRegistry, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    mirror = start({QUAY: origin})
    with closing(mirror.client()) as connection:
        for method in "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
            for body in None, bytes(300_000):
                connection.request(method, f"/v2/{QUAY}/app/blobs/uploads/", body=body)
                answer = connection.getresponse()
                assert "push to the registry itself" in answer.read().decode()
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    for request in (
        b"CONNECT quay.io:443 HTTP/1.1\r\nHost: quay.io:443\r\nConnection: close\r\n\r\n",
        b"GET http://quay.io/v2/ HTTP/1.1\r\nHost: quay.io\r\nConnection: close\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ):
        assert raw(mirror, request) == (400, "UNSUPPORTED"), request
    with mirror.connect() as sock, pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        ssl.create_default_context().wrap_socket(sock, server_hostname="mirror.test")
    assert "127.0.0.1 speaks TLS at the mirror door, where http is spoken: write http:// there" in caplog.text
    assert "127.0.0.1 sent what is not valid HTTP/1.1 at the mirror door" in caplog.text
    assert origin.requests == []


def test_a_request_that_has_come_back(origin: FakeRegistry, start: Start) -> None:
    mirror = start({QUAY: origin})
    path = put(origin, b"content")
    mirror.get(path)
    via = origin.requests[-1].headers["Via"]
    assert error(mirror.get(path, {"Via": f"1.1 another, {via}"}))[:2] == (508, "UNSUPPORTED")
    assert mirror.get(path, {"Via": "1.1 another"}).status == 200


def test_offline(origin: FakeRegistry, start: Start) -> None:
    mirror = start({QUAY: origin}, {"offline": True})
    with closing(mirror.client()) as connection:
        for path in put(origin, b"content"), f"/v2/{QUAY}/team/app/tags/list":
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, answer.reason) == (504, "mirrortap is offline")
            assert "it must be online for that" in answer.read().decode()
    assert origin.requests == []


# --- bodies ---


def test_a_warm_blob_leaves_by_sendfile(origin: FakeRegistry, start: Start, by_kernel: list[int]) -> None:
    mirror = start({QUAY: origin})
    path = put(origin, LARGE)
    warm(mirror, path)
    by_kernel.clear()
    assert mirror.get(path).body == LARGE
    until_sent(by_kernel, len(LARGE))
    by_kernel.clear()
    assert mirror.request("HEAD", path).headers["Content-Length"] == str(len(LARGE))
    assert by_kernel == []

    def read_by_a_thread() -> bool:
        by_kernel.clear()
        with (mirror.cache / "blobs" / path.rpartition("/")[2].replace(":", "/")).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert mirror.get(path).body == LARGE
        return sum(by_kernel) < len(LARGE)

    # What the disk has and the memory has not would keep everybody waiting. (The memory need not give it up at once.)
    until(read_by_a_thread)


def test_ranges(origin: FakeRegistry, start: Start, by_kernel: list[int]) -> None:
    mirror = start({QUAY: origin})
    path, size = put(origin, LARGE), len(LARGE)
    warm(mirror, path)
    by_kernel.clear()
    for asked, start_, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=65535-131072", 65535, 131073),
        (f"bytes={size - 70_000}-", size - 70_000, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=5-{size * 2}", 5, size),
    ):
        answer = mirror.get(path, {"Range": asked})
        assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {start_}-{end - 1}/{size}")
        assert answer.body == LARGE[start_:end]
        # What is small goes with the head of the answer.
        until_sent(by_kernel, end - start_ if end - start_ > 1 << 15 else 0)
        by_kernel.clear()
    answer = mirror.get(path, {"Range": f"bytes={size}-"})
    assert (answer.status, answer.headers["Content-Range"], answer.body) == (416, f"bytes */{size}", b"")
    answer = mirror.get(path, {"Range": "bytes=0-9,100-199999"})
    assert answer.status == 206
    document = email.message_from_bytes(
        f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode() + answer.body
    )
    parts = [part.get_payload(decode=True) for part in document.walk() if not part.is_multipart()]
    assert parts == [LARGE[:10], LARGE[100:200_000]]
    assert mirror.get(path, {"Range": "bytes=0-9", "If-Range": '"other"'}).body == LARGE


def test_a_cache_that_fails_in_the_middle(origin: FakeRegistry, start: Start) -> None:
    """The rest is downloaded, and the client sees nothing of it."""
    mirror = start({QUAY: origin})
    data = os.urandom(1 << 20) * 48
    path = put(origin, data)
    warm(mirror, path)
    with closing(mirror.client()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        begun = answer.read(100_000)
        os.truncate(mirror.cache / "blobs" / path.rpartition("/")[2].replace(":", "/"), 40 << 20)
        assert sha256(begun + answer.read()) == sha256(data)
    assert any("Range" in seen.headers for seen in origin.seen("blob", method="GET"))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("kind", "fault"), [("referrers", Truncate(1 << 20)), ("blob", Corrupt())])
def test_what_is_cut_is_never_taken_for_whole(
    chunked: bool,
    kind: str,
    fault: Truncate | Corrupt,
    origin: FakeRegistry,
    start: Start,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = start({QUAY: origin})
    path = put(origin, LARGE)
    if kind == "referrers":
        path = path.replace("/blobs/", "/referrers/")
        origin.inject(Status(200, body=LARGE), kind=kind)
    origin.inject(fault, kind=kind, method="GET")
    if chunked:
        origin.inject(Chunked(), kind=kind, method="GET")
    with closing(mirror.client()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        assert ("Content-Length" in answer.headers) is not chunked
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()
    # HTTP/1.0 has no chunks: there the end of the connection is that of the body, unless it is a reset.
    with mirror.connect() as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        got = b""
        try:
            while piece := sock.recv(1 << 20):
                got += piece
            assert not chunked
        except ConnectionResetError:
            pass
    assert f"Content-Length: {len(LARGE)}".encode() in got or chunked
    until(lambda: caplog.text.count(" CUT: ") == 2)
    assert not list(mirror.cache.glob("blobs/*/*"))


def test_a_slow_client_slows_the_reading(origin: FakeRegistry, start: Start) -> None:
    mirror = start({QUAY: origin})
    origin.inject(Status(200, body=bytes(64 << 20)), kind="referrers")
    with closing(mirror.client()) as connection:
        connection.request("GET", f"/v2/{QUAY}/team/app/referrers/{sha256(b'')}")
        answer = connection.getresponse()
        before = -1
        # That nothing moves can be seen in no other way.
        while before != (before := origin.traffic.sent.total()):
            time.sleep(0.2)
        assert before < 24 << 20
        assert answer.read() == bytes(64 << 20)


def test_a_client_that_leaves_takes_its_download_along(
    origin: FakeRegistry, start: Start, loop_thread: LoopThread
) -> None:
    mirror = start({QUAY: origin}, {"keep-filling-from": "100%"})
    path, gate = put(origin, LARGE), asyncio.Event()
    origin.inject(Slow(gate, 1 << 20), kind="blob", method="GET", times=1)
    with closing(mirror.client()) as connection:
        connection.request("GET", path)
        connection.getresponse().read(1 << 19)
    fill = mirror.service.engine._fills.running(Digest.parse(path.rpartition("/")[2]))
    assert fill
    until(lambda: fill.readers == 0)
    loop_thread.call(gate.set)
    assert mirror.get(path).body == LARGE


# --- who may read ---


def test_private_content_and_the_way_out(
    loop_thread: LoopThread, authority: Authority, start: Start, tmp_path: Path
) -> None:
    policy = Policy({"robot": "s3cret", "ann": "s3cret"}, {"team/app": {"robot"}})
    origin = loop_thread.enter(FakeRegistry(tls=authority, auth=BearerAuth(policy)))
    mirror = start({QUAY: origin})
    public = put(origin, b"public", "team/public")
    manifest = origin.content.put_manifest("team/app", "1.0", b'{"schemaVersion":2}', "application/json")
    assert mirror.get(public).body == b"public"
    for path in (
        put(origin, b"private"),
        f"/v2/{QUAY}/team/app/manifests/1.0",
        f"/v2/{QUAY}/team/app/manifests/{manifest}",
        f"/v2/{QUAY}/team/app/tags/list",
        f"/v2/{QUAY}/team/app/referrers/{manifest}",
    ):
        for method in "GET", "HEAD":
            for login in {}, {"Authorization": basic("robot", "s3cret")}:
                answer = mirror.request(method, path, login)
                assert answer.status == 403
                assert "WWW-Authenticate" not in answer.headers
                if method == "GET":
                    _, code, message = error(answer)
                    assert code == "DENIED"
                    assert f'[registry."{QUAY}".auth]' in message
                    assert 'access = "open"' in message
    # What is not there is not there, whatever a mirror says.
    assert error(mirror.get(f"/v2/{QUAY}/team/public/manifests/2.0"))[:2] == (404, "MANIFEST_UNKNOWN")
    assert not any(
        "robot" in str(seen.headers) or basic("robot", "s3cret") in str(seen.headers) for seen in origin.requests
    )


def test_private_content_with_the_proxys_own_credential(
    loop_thread: LoopThread, authority: Authority, start: Start, tmp_path: Path
) -> None:
    policy = Policy({"robot": "s3cret"}, {"team/app": {"robot"}})
    origin = loop_thread.enter(FakeRegistry(tls=authority, auth=BearerAuth(policy)))
    (tmp_path / "mirror").mkdir()
    password = tmp_path / "mirror" / "password"
    password.write_text("s3cret")
    password.chmod(0o600)
    mirror = start({QUAY: origin}, auth={"username": "robot", "password-file": "password"})
    path = put(origin, b"private")
    for _ in range(2):
        assert mirror.get(path).body == b"private"
    assert json.loads(mirror.get(f"/v2/{QUAY}/team/app/tags/list").body) == {"name": "team/app", "tags": []}


def test_open_content_that_is_cached(loop_thread: LoopThread, authority: Authority, start: Start) -> None:
    """It came through another door, with a client's own credential."""
    policy = Policy({"ann": "s3cret"}, {"team/app": {"ann"}})
    origin = loop_thread.enter(FakeRegistry(tls=authority, auth=BearerAuth(policy)))
    mirror = start({QUAY: origin}, access="open")
    path = put(origin, b"private")
    assert mirror.get(path).status == 403
    policy.private.clear()
    warm(mirror, path)
    policy.private["team/app"] = {"ann"}
    assert mirror.get(path).body == b"private"


def test_lists_are_asked_for_as_anybody(loop_thread: LoopThread, authority: Authority, start: Start) -> None:
    origin = loop_thread.enter(FakeRegistry(tls=authority, auth=BearerAuth(Policy())))
    mirror = start({QUAY: origin})
    origin.content.put_manifest("team/app", "1.0", b"{}", "application/json")
    more = {"Link": '</v2/team/app/tags/list?n=1&last=1.0>; rel="next"', "Set-Cookie": "session=1"}
    origin.inject(Headers(more), kind="tags")
    for path, link in (
        (f"/v2/{QUAY}/team/app/tags/list?n=1", f"</v2/{QUAY}/team/app/tags/list?n=1&last=1.0>"),
        (f"/v2/team/app/tags/list?n=1&ns={QUAY}", f"</v2/team/app/tags/list?n=1&last=1.0&ns={QUAY}>"),
    ):
        answer = mirror.get(path)
        assert json.loads(answer.body) == {"name": "team/app", "tags": ["1.0"]}
        assert answer.headers["Link"] == f'{link}; rel="next"'
        assert "Set-Cookie" not in answer.headers
    assert {str(seen.query) for seen in origin.seen("tags")} == {"{'n': '1'}"}
    assert json.loads(mirror.get(f"/v2/{QUAY}/team/app/referrers/{sha256(b'{}')}").body)["manifests"] == []


def test_logins(origin: FakeRegistry, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "users").write_text(ANN)
    mirror = start({QUAY: origin}, {"proxy-users": "users"})
    path = put(origin, b"content")
    assert mirror.get("/ca.crt").status == 200
    right, wrong = {"Authorization": basic("ann", "s3cret")}, {"Authorization": basic("ann", "wr0ng")}
    for asked in "/v2/", path:
        for headers in {}, wrong, {"Authorization": "Bearer token"}:
            for method in "GET", "PUT":
                answer = mirror.request(method, asked, headers)
                assert error(answer)[:2] == (401, "UNAUTHORIZED")
                assert answer.headers["WWW-Authenticate"] == 'Basic realm="mirrortap", charset="UTF-8"'
        assert mirror.get(asked, right).status == 200
    statuses = [mirror.get(path, {"Authorization": basic("ann", str(i))}).status for i in range(11)]
    assert statuses[-1] == 429
    assert mirror.get(path, right).body == b"content"
    assert not any("Authorization" in seen.headers for seen in origin.requests)
    for secret in "s3cret", "wr0ng", base64.b64encode(b"ann:s3cret").decode():
        assert secret not in caplog.text


# --- how long, and how many ---


def test_whoever_keeps_the_mirror_waiting_is_hung_up_on(
    origin: FakeRegistry, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = start({QUAY: origin}, {"header-timeout": "2s", "connections-per-client": 3})
    with ExitStack() as stack:
        silent, slow, again = (stack.enter_context(mirror.connect()) for _ in range(3))
        with mirror.connect() as fourth:
            assert said(fourth) == b""
        with mirror.connect("127.0.0.2") as other:
            other.sendall(b"GET /ca.crt HTTP/1.0\r\n\r\n")
            assert said(other).startswith(b"HTTP/1.0 200 ")
        slow.sendall(b"GET / HTTP/1.1\r\nHos")
        again.sendall(b"GET /ca.crt HTTP/1.1\r\nHost: a\r\n\r\n")
        assert again.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        again.sendall(b"GET / HT")
        assert said(silent) == b""
        assert said(slow).startswith(b"HTTP/1.1 408 ")
        assert b"HTTP/1.1 408 " in said(again)
    assert "127.0.0.1 was turned away: it has 3 connections already (connections-per-client)" in caplog.text
    assert caplog.text.count("127.0.0.1 was hung up on: ") == 3
    # They have left, so there is room.
    assert mirror.get("/").status == 200


def test_heads_that_are_too_long(origin: FakeRegistry, start: Start) -> None:
    mirror = start({QUAY: origin})
    for head in (
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\na: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: %s\r\n" % (i, b"a" * 8000) for i in range(100)),
    ):
        assert raw(mirror, head[:69_999]) == (431, "UNSUPPORTED")
    head = b"GET / HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n" + b"".join(
        b"a%d: %s\r\n" % (i, b"a" * 8000) for i in range(9)
    )
    assert raw(mirror, head + b"\r\n") == (431, "UNSUPPORTED")
    assert mirror.get("/v2/", {f"a{i}": "a" * 8000 for i in range(7)}).status == 200


def test_strangers(origin: FakeRegistry, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    mirror = start({QUAY: origin}, {"allow-clients": ["127.0.0.2/32"]})
    with mirror.connect() as stranger:
        assert said(stranger) == b""
    with mirror.connect("127.0.0.2") as known:
        known.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert said(known).startswith(b"HTTP/1.0 200 ")
    assert "127.0.0.1 was turned away: it is not in allow-clients" in caplog.text


def test_idle_connections_end_and_those_at_work_do_not(
    origin: FakeRegistry, start: Start, loop_thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = start({QUAY: origin}, {"idle-timeout": "1s"})
    path, gate = put(origin, b"content" * 1000), asyncio.Event()
    large, larger = put(origin, bytes(32 << 20)), put(origin, os.urandom(1 << 20) * 32)
    warm(mirror, large)
    origin.inject(Slow(gate), kind="blob", method="GET", path=f"*{path.rpartition('/')[2]}", times=1)
    with ExitStack() as stack:
        at_work = stack.enter_context(closing(mirror.client()))
        at_work.request("GET", path)
        kept = stack.enter_context(mirror.connect())
        kept.sendall(PAGE)
        by_kernel, by_us = (stack.enter_context(closing(mirror.client())) for _ in range(2))
        by_kernel.request("GET", large)
        by_us.request("GET", larger)
        assert b" 200 " in said(kept)
        until(lambda: caplog.text.count("CUT: the client has stopped reading (idle-timeout)") == 2)
        # It has been there for longer than those.
        loop_thread.call(gate.set)
        assert sha256(at_work.getresponse().read()) == path.rpartition("/")[2]
        for stalled in by_kernel, by_us:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                stalled.getresponse().read()


def test_stopping(origin: FakeRegistry, start: Start, loop_thread: LoopThread) -> None:
    mirror = start({QUAY: origin})
    path = put(origin, os.urandom(1 << 20) * 32)
    warm(mirror, path)
    with ExitStack() as stack:
        kept = stack.enter_context(mirror.connect())
        kept.sendall(PAGE)
        assert kept.recv(1 << 16)
        running = stack.enter_context(closing(mirror.client()))
        running.request("GET", path)
        answer = running.getresponse()
        begun = answer.read(1000)
        stopping = asyncio.run_coroutine_threadsafe(mirror.door.close(), mirror.loop)
        assert said(kept) == b""
        with pytest.raises(ConnectionRefusedError):
            mirror.connect()
        assert not stopping.done()
        assert sha256(begun + answer.read()) == path.rpartition("/")[2]
        stopping.result(20)


def test_who_does_not_take_the_rest_is_waited_for_no_longer_than_was_said(
    origin: FakeRegistry, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def takes_longer(server: web.Server, timeout: float | None = None) -> None:
        await asyncio.Event().wait()

    # As aiohttp does: it waits for so long, and then once more.
    monkeypatch.setattr(web.Server, "shutdown", takes_longer)
    mirror = start({QUAY: origin}, {"drain-timeout": "100ms"})
    path = put(origin, os.urandom(1 << 20) * 32)
    warm(mirror, path)
    with closing(mirror.client()) as stalled:
        stalled.request("GET", path)
        answer = stalled.getresponse()
        asyncio.run_coroutine_threadsafe(mirror.door.close(), mirror.loop).result(20)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    until(lambda: "CUT: stopped" in caplog.text)
    assert "1 transfers were cut" in caplog.text


# --- TLS ---


def test_leaves_for_its_names(origin: FakeRegistry, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    mirror = start({QUAY: origin}, names=("mirror.test", "registry.local"))
    path = put(origin, LARGE)
    for name in "mirror.test", "registry.local", "MIRROR.test":
        with mirror.tls(name) as sock:
            certificate = sock.getpeercert()
            assert certificate
            assert certificate["subjectAltName"] == (("DNS", name.lower()),)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            head, _, body = said(sock).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == LARGE
    with mirror.tls(None) as sock:
        certificate = sock.getpeercert()
        assert certificate
        assert certificate["subjectAltName"] == (("DNS", "mirror.test"),)
    with pytest.raises(ssl.SSLError):
        mirror.tls("quay.io")
    assert "for 'quay.io', which is not one of --mirror-tls" in caplog.text
    with pytest.raises(ssl.SSLCertVerificationError):
        mirror.tls("127.0.0.1")


def test_who_does_not_speak_tls(origin: FakeRegistry, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    mirror = start({QUAY: origin}, {"header-timeout": "1s", "connections-per-client": 2}, names=("mirror.test",))
    for _ in range(3):
        with mirror.connect() as plain:
            plain.sendall(PAGE)
            assert not said(plain).startswith(b"HTTP")
    with mirror.connect() as silent, mirror.connect() as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        # A handshake counts as a connection.
        with mirror.connect() as third:
            assert said(third) == b""
        assert said(silent) == said(half) == b""
    assert "127.0.0.1 broke off TLS at the mirror door (HTTP_REQUEST); if it does not trust the CA" in caplog.text
    until(lambda: caplog.text.count("no complete request, or no TLS, within 1 s (header-timeout)") == 2)
    with mirror.tls("mirror.test"):
        pass
