"""Whatever is wrong with a mirror before the first byte, the next endpoint answers, and no client notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BasicAuth, BearerAuth
from support.config import QUICK
from support.faults import Answer, Close, Fault, Gzip, Hang, Seen, Status

from engine.harness import NAME, TAG, RawServer, blob, closed_port, manifest

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy, RawExchange


async def check_pull(proxy: Proxy, image: Image, endpoint: str) -> None:
    """A client pulls the image as if nothing were wrong, HEADs included, and it comes from `endpoint`."""
    came_from = f'mirrortap; fwd=miss; detail="{endpoint}"'
    for target in TAG, manifest(image.manifest.digest), blob(image.config.digest), blob(image.layers[1].digest):
        head = await proxy.head(target)
        assert (head.status, head.headers["Cache-Status"]) == (200, came_from)
    got = await proxy.get(TAG)
    assert (got.status, got.data, got.headers["Cache-Status"]) == (200, image.manifest.data, came_from)
    for part in image.blobs:
        got = await proxy.get(blob(part.digest))
        assert (got.status, got.data, got.cut) == (200, part.data, None)
        assert got.headers["Cache-Status"] == came_from
    assert proxy.cached() == {image.manifest.digest, *(part.digest for part in image.blobs)}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 429, 500, 502, 503, 204, 206])
async def test_a_status_that_is_not_the_content(
    status: int, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    for registry in origin, mirror:
        registry.add(image, NAME)
    fault = mirror.inject(Status(status, body=b"" if status in (204, 304) else b"broken"))
    await check_pull(setup.proxy(origin, mirror), image, origin.endpoint)
    assert fault.hits


@pytest.mark.parametrize("fault", [Close(), Gzip(always=True)], ids=["closes before headers", "gzip, unasked"])
async def test_an_answer_that_cannot_be_used(
    fault: Fault, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    for registry in origin, mirror:
        registry.add(image, NAME)
    injected = mirror.inject(fault)
    await check_pull(setup.proxy(origin, mirror), image, origin.endpoint)
    assert injected.hits


async def test_a_port_where_nobody_listens(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    await check_pull(setup.proxy(origin, closed_port()), image, origin.endpoint)


async def test_a_certificate_that_is_not_trusted(
    setup: Setup, origin: FakeRegistry, stranger: Authority, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = await setup.registry(tls=stranger)
    for registry in origin, mirror:
        registry.add(image, NAME)
    await check_pull(setup.proxy(origin, mirror), image, origin.endpoint)
    assert mirror.requests == []
    assert f"{mirror.endpoint}: TLS" in caplog.text


async def test_leniency_for_a_mirror_is_not_for_where_it_redirects_to(
    setup: Setup, origin: FakeRegistry, stranger: Authority, image: Image
) -> None:
    mirror = await setup.registry(tls=stranger, cdn=True)
    for registry in origin, mirror:
        registry.add(image, NAME)
    proxy = setup.proxy(origin, mirror, insecure=True)
    assert (await proxy.get(TAG)).served.endpoint == mirror.endpoint
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert mirror.seen("cdn") == []


async def test_plain_http_where_tls_is_expected(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    mirror = await setup.registry(tls=None)
    for registry in origin, mirror:
        registry.add(image, NAME)
    await check_pull(setup.proxy(origin, mirror), image, origin.endpoint)


async def test_a_mirror_that_hangs(setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image) -> None:
    for registry in origin, mirror:
        registry.add(image, NAME)
    mirror.inject(Hang())
    proxy = setup.proxy(origin, mirror, settings=dict(QUICK))
    got = await proxy.get(blob(image.layers[1].digest))
    assert (got.data, got.served.endpoint) == (image.layers[1].data, origin.endpoint)
    assert len(mirror.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.9\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="a length that is no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * (1 << 20), id="an endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a header"),
    ],
)
async def test_something_that_is_not_http(
    said: bytes, setup: Setup, authority: Authority, origin: FakeRegistry, image: Image
) -> None:
    async def speak(exchange: RawExchange) -> None:
        await exchange.send(said)

    origin.add(image, NAME)
    async with RawServer(authority, speak) as mirror:
        await check_pull(setup.proxy(origin, mirror.endpoint), image, origin.endpoint)
        assert mirror.heads


async def test_a_mirror_that_resets_the_connection(
    setup: Setup, authority: Authority, origin: FakeRegistry, image: Image
) -> None:
    async def reset(exchange: RawExchange) -> None:
        exchange.writer.transport.abort()

    origin.add(image, NAME)
    async with RawServer(authority, reset) as mirror:
        await check_pull(setup.proxy(origin, mirror.endpoint), image, origin.endpoint)
        assert mirror.heads


class RedirectToItself:
    def apply(self, answer: Answer, request: Seen) -> None:
        Status(307, {"Location": request.path}).apply(answer, request)


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("https://{nowhere}/blob", id="a closed port"),
        pytest.param("https://no-such-host.invalid/blob", id="an unknown host"),
        pytest.param("", id="empty"),
        pytest.param("http://", id="no host"),
        pytest.param("https:///blob", id="no host but a path"),
        pytest.param("https://[::1/blob", id="a broken address"),
        pytest.param("https://127.0.0.1:99999/blob", id="a port out of range"),
        pytest.param("https://127.0.0.1:port/blob", id="a port that is no number"),
        pytest.param("file:///etc/passwd", id="a file"),
        pytest.param("ftp://127.0.0.1/blob", id="another scheme"),
    ],
)
async def test_a_redirect_to_nowhere(
    location: str, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    for registry in origin, mirror:
        registry.add(image, NAME)
    nowhere = closed_port()
    mirror.inject(Status(307, {"Location": location.format(nowhere=nowhere)}))
    await check_pull(setup.proxy(origin, mirror, leads_to=[nowhere]), image, origin.endpoint)


async def test_a_redirect_loop(setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image) -> None:
    for registry in origin, mirror:
        registry.add(image, NAME)
    mirror.inject(RedirectToItself())
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert 2 <= len(mirror.requests) <= 20


async def test_a_redirect_without_location(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    for registry in origin, mirror:
        registry.add(image, NAME)
    mirror.inject(Status(307))
    await check_pull(setup.proxy(origin, mirror), image, origin.endpoint)


async def test_a_cdn_that_fails(
    setup: Setup, origin: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = await setup.registry(cdn=True)
    for registry in origin, mirror:
        registry.add(image, NAME)
    mirror.inject(Status(503), kind="cdn")
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert f"{mirror.endpoint}: HTTP 503" in caplog.text
    assert "signature" not in caplog.text, "a signed URL is a secret"


async def test_a_mirror_that_wants_a_login(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    private = Policy(private={NAME: set()})
    for auth in BearerAuth(private), BasicAuth(private):
        mirror = await setup.registry(auth=auth)
        origin.add(image, NAME)
        mirror.add(image, NAME)
        await check_pull(setup.proxy(origin, mirror), image, origin.endpoint)
        assert all(not seen.authorization or seen.authorization.startswith("Bearer") for seen in mirror.requests)


async def test_a_portal_that_answers_everything_with_a_page(
    setup: Setup, authority: Authority, origin: FakeRegistry, image: Image
) -> None:
    """Proxies and portals of a company say 200 and show their own page: that is no manifest."""

    async def page(exchange: RawExchange) -> None:
        body = b"" if exchange.head.startswith(b"HEAD") else b"<html>Please accept the terms of use.</html>"
        await exchange.answer("200 OK", [("Content-Type", "text/html"), ("Content-Length", "44")], body)

    origin.add(image, NAME)
    async with RawServer(authority, page) as mirror:
        got = await setup.proxy(origin, mirror.endpoint).get(TAG)
        assert (got.status, got.data) == (200, image.manifest.data)


async def test_mirrors_are_tried_in_order_and_the_origin_last(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    mirrors = [await setup.registry() for _ in range(3)]
    for registry in (*mirrors[1:], origin):
        registry.add(image, NAME)
    proxy = setup.proxy(origin, closed_port(), *mirrors)
    await check_pull(proxy, image, mirrors[1].endpoint)
    assert mirrors[0].requests
    assert (mirrors[2].requests, origin.requests) == ([], [])


async def test_each_request_begins_at_the_first_mirror_again(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    assert (await proxy.get(blob(image.config.digest))).served.endpoint == origin.endpoint
    mirror.add(image, NAME)
    assert (await proxy.get(blob(image.layers[0].digest))).served.endpoint == mirror.endpoint


async def test_mirrors_alone_do_without_the_origin(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    broken = await setup.registry()
    broken.inject(Status(503))
    await check_pull(setup.proxy(None, broken, mirror), image, mirror.endpoint)
    assert origin.requests == []
