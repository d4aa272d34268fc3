"""What is the origin's own business goes there as the client wrote it, and comes back as the origin said it."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from multidict import CIMultiDict
from support.access import Policy
from support.auth import BearerAuth
from support.config import QUICK
from support.faults import Close, Gzip, Hang, Status

from engine.harness import NAME, REGISTRY, RawServer, blob, closed_port, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.certificates import Authority
    from support.faults import Fault
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import RawExchange

UPLOADS = f"/v2/{NAME}/blobs/uploads/"
SESSION = f"{UPLOADS}0af3?_state=a%2Fb%2Bc&x=1+2&empty="
OTHERS = [
    ("POST", UPLOADS),
    ("POST", f"{UPLOADS}?mount=sha256%3Aabc&from=library/base"),
    ("PATCH", SESSION),
    ("PUT", f"{SESSION}&digest=sha256:{'a' * 64}"),
    ("PUT", manifest("1.0")),
    ("DELETE", SESSION),
    ("DELETE", manifest(f"sha256:{'a' * 64}")),
    ("DELETE", blob(f"sha256:{'a' * 64}")),
    ("GET", SESSION),
    ("GET", f"/v2/{NAME}/tags/list?n=10&last=a%20b"),
    ("GET", f"/v2/{NAME}/referrers/sha256:{'a' * 64}?artifactType=application%2Fx"),
    ("GET", "/v2/_catalog"),
    ("GET", blob("blake3:abcDEF123")),
    ("HEAD", blob("blake3:abcDEF123")),
    ("GET", manifest("blake3:abcDEF123")),
    ("GET", "/v2/token?service=x"),
    ("GET", "/"),
    ("GET", "/v2/"),
    ("GET", "/v2"),
    ("HEAD", "/v2/"),
    ("OPTIONS", "/v2/"),
]


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


@pytest.mark.parametrize(("method", "target"), OTHERS, ids=[f"{m} {t.partition('?')[0]}" for m, t in OTHERS])
async def test_it_arrives_and_comes_back_unchanged(
    method: str, target: str, setup: Setup, authority: Authority, mirror: FakeRegistry
) -> None:
    sends_body = method in ("PATCH", "PUT")
    bodies = []
    said = b"" if method == "HEAD" else b"\x00what the origin says\xff"
    answered = [
        ("Content-Type", "application/x-odd"),
        ("Content-Length", "22"),
        ("X-Twice", "one"),
        ("X-Twice", "two"),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
        ("Link", '</v2/x/tags/list?last=z>; rel="next"'),
        ("Docker-Upload-UUID", "0af3"),
        ("ETag", '"odd"'),
    ]

    async def answer(exchange: RawExchange) -> None:
        bodies.append(await exchange.body() if sends_body else b"")
        await exchange.answer("418 Odd", [*answered, ("Keep-Alive", "timeout=5")], said)

    async with RawServer(authority, answer) as origin:
        proxy = setup.proxy(origin.endpoint, mirror)
        got = await proxy.fetch(
            method,
            target,
            [
                ("Host", "registry.test"),
                ("Authorization", "Bearer the-clients-own"),
                ("X-Many", "1"),
                ("X-Many", "2"),
                ("Accept-Encoding", "gzip"),
                ("User-Agent", "a client"),
                ("Connection", "keep-alive, X-Hop"),
                ("X-Hop", "for the proxy alone"),
                ("Proxy-Authorization", "Basic cHJveHk6b25seQ=="),
                *([("Content-Length", "10"), ("Content-Type", "application/y")] if sends_body else []),
            ],
            body=pieces(b"12345", b"67890") if sends_body else None,
        )
        (head,) = origin.heads
    line, _, rest = head.decode().partition("\r\n")
    assert line == f"{method} {target} HTTP/1.1"
    sent = CIMultiDict[str]()
    for header in rest.strip().split("\r\n"):
        sent.add(*header.split(": ", 1))
    assert sent.getall("Host") == [origin.endpoint]
    assert sent.getall("Authorization") == ["Bearer the-clients-own"]
    assert sent.getall("X-Many") == ["1", "2"]
    assert sent.getall("Accept-Encoding") == ["gzip"]
    assert sent.getall("User-Agent") == ["a client"]
    assert {"X-Hop", "Proxy-Authorization", "Accept"}.isdisjoint(sent)
    assert sent.getall("Content-Type", []) == (["application/y"] if sends_body else [])
    if sends_body:
        assert sent.getall("Content-Length") == ["10"]
        assert "Transfer-Encoding" not in sent
    assert bodies == [b"1234567890" if sends_body else b""]
    assert (got.status, got.data, got.cut) == (418, said, None)
    assert [(name.lower(), value) for name, value in got.headers.items()] == [(n.lower(), v) for n, v in answered]
    assert mirror.requests == []
    assert proxy.cached() == set()


async def test_every_status_is_the_origins(setup: Setup, origin: FakeRegistry, mirror: FakeRegistry) -> None:
    proxy = setup.proxy(origin, mirror)
    headers = {"Retry-After": "9", "WWW-Authenticate": 'Bearer realm="https://auth.test/token"', "Location": "/x"}
    statuses = 200, 202, 204, 301, 307, 400, 401, 403, 404, 405, 409, 413, 416, 429, 500, 503
    for status in statuses:
        said = b"" if status == 204 else b'{"errors":[{"code":"ITS_OWN"}]}'
        origin.inject(Status(status, headers, said), times=1)
        got = await proxy.get(f"/v2/{NAME}/tags/list")
        assert (got.status, got.data) == (status, said)
        assert {name: got.headers[name] for name in headers} == headers
    assert len(origin.requests) == len(statuses), "passed on once: no token of ours, no redirect followed"
    assert mirror.requests == []


async def test_a_compressed_answer_stays_compressed(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    origin.inject(Gzip())
    got = await setup.proxy(origin).get(f"/v2/{NAME}/tags/list", Accept_Encoding="gzip")
    assert got.headers["Content-Encoding"] == "gzip"
    assert b'"1.0"' in gzip.decompress(got.data)


async def test_referrers_and_tags_are_never_remembered(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(origin)
    for tag in "1.0", "2.0":
        origin.add(image, NAME, tag)
        assert f'"{tag}"'.encode() in (await proxy.get(f"/v2/{NAME}/tags/list")).data


@pytest.mark.parametrize("word", ["blobs", "manifests"])
async def test_a_repository_may_be_called_like_a_part_of_a_path(
    word: str, setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    name = f"team/{word}"
    origin.add(image, name)
    proxy = setup.proxy(origin)
    assert (await proxy.get(manifest("1.0", name))).data == image.manifest.data
    assert (await proxy.get(blob(image.config.digest, name))).data == image.config.data
    for target in f"/v2/{name}/tags/list", f"/v2/{name}/referrers/{image.manifest.digest}":
        got = await proxy.get(target)
        assert (got.status, [seen.path for seen in origin.requests][-1]) == (200, target)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param(
            "https://{origin}/v2/x/blobs/uploads/1?_state=a%2Fb", "/v2/x/blobs/uploads/1?_state=a%2Fb", id="own"
        ),
        pytest.param("/v2/x/blobs/uploads/1?_state=a%2Fb", "/v2/x/blobs/uploads/1?_state=a%2Fb", id="relative"),
        pytest.param("https://cdn.test/put?sig=a%2Fb", "https://cdn.test/put?sig=a%2Fb", id="elsewhere"),
        pytest.param("https://{origin}.evil.test/x", "https://{origin}.evil.test/x", id="looks alike"),
    ],
)
async def test_a_location_behind_server_leads_back_through_the_proxy(
    said: str, expected: str, setup: Setup, origin: FakeRegistry
) -> None:
    """The client knows the registry by its name, not by where `server` says it is."""
    origin.inject(Status(202, {"Location": said.format(origin=origin.endpoint)}))
    got = await setup.proxy(origin).fetch("POST", UPLOADS)
    assert (got.status, got.headers["Location"]) == (202, expected.format(origin=origin.endpoint))


async def test_an_origin_that_cannot_be_reached_is_an_oci_error(setup: Setup) -> None:
    gone = closed_port()
    got = await setup.proxy(gone).fetch("POST", UPLOADS)
    assert (got.status, got.error["code"]) == (502, "UNAVAILABLE")
    assert gone in got.error["message"]
    assert got.headers["OCI-Namespace"] == REGISTRY


@pytest.mark.parametrize("fault", [Close(), Hang()], ids=["closes", "hangs"])
async def test_an_origin_that_does_not_answer_is_an_oci_error(fault: Fault, setup: Setup, origin: FakeRegistry) -> None:
    origin.inject(fault)
    got = await setup.proxy(origin, settings=dict(QUICK)).get(f"/v2/{NAME}/tags/list")
    assert (got.status, got.error["code"]) == (502, "UNAVAILABLE")


async def test_the_way_to_log_in_is_the_origins(setup: Setup, mirror: FakeRegistry) -> None:
    """dockerd, skopeo and podman learn it from /v2/ alone."""
    auth = BearerAuth(Policy())
    origin = await setup.registry(auth=auth)
    auth.tokens["good"] = {}
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get("/v2/")
    assert (got.status, got.headers["WWW-Authenticate"]) == (401, f'Bearer realm="{origin.url}/token",service="fake"')
    assert (await proxy.head("/v2/")).status == 401
    assert (await proxy.get("/v2/", Authorization="Bearer good")).status == 200
    assert mirror.requests == []


@pytest.mark.parametrize("status", [200, 301, 401, 404])
async def test_any_word_of_the_origin_on_v2_is_passed_on(status: int, setup: Setup, origin: FakeRegistry) -> None:
    """A 200 in its place would tell clients that no login is needed."""
    origin.inject(Status(status, {"Location": "/elsewhere", "Retry-After": "5"}, b"said"))
    got = await setup.proxy(origin).get("/v2/")
    assert (got.status, got.data) == (status, b"said")


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(502), Status(503), Status(429), Close(), Hang()],
    ids=["500", "502", "503", "429", "closes", "hangs"],
)
async def test_without_a_word_of_the_origin_v2_is_answered_here(
    fault: Fault, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    origin.inject(fault)
    proxy = setup.proxy(origin, mirror, settings=dict(QUICK))
    got = await proxy.get("/v2/")
    assert (got.status, got.data) == (200, b"{}")
    assert got.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert got.headers["OCI-Namespace"] == REGISTRY
    assert mirror.requests == []


async def test_v2_is_answered_here_when_nobody_listens_or_the_origin_is_not_to_be_asked(
    setup: Setup, mirror: FakeRegistry
) -> None:
    for proxy in setup.proxy(closed_port(), mirror), setup.proxy(None, mirror):
        for got in await proxy.get("/v2/"), await proxy.head("/v2/"):
            assert (got.status, got.headers["Content-Length"]) == (200, "2")


async def test_where_the_origin_is_never_asked_nothing_is_passed_on(setup: Setup, mirror: FakeRegistry) -> None:
    proxy = setup.proxy(None, mirror)
    for method, target in OTHERS:
        if method in ("GET", "HEAD") and target.rstrip("/") == "/v2":
            continue
        got = await proxy.fetch(method, target, {"Authorization": "Bearer the-clients-own"}, body=pieces(b"data"))
        assert (method, target, got.status) == (method, target, 403)
        if method != "HEAD":
            assert got.error["code"] == "DENIED"
            assert "fallback" in got.error["message"]
    assert mirror.requests == []
