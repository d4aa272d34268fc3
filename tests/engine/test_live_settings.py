"""Another configuration while the engine runs: what has begun ends as it began, what comes next is done as it says."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support.config import QUICK
from support.faults import Answer, Hang, Headers, Held, Seen, Slow, Status
from support.images import sha256

from addon.config.load import load
from engine.harness import NAME, TAG, blob, configuration, read

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority
    from support.config import Table
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

DATA = bytes(number % 251 for number in range(3_000_000))
DIGEST = sha256(DATA)


class Change:
    """change(proxy, origin, *mirrors, ...) as `setup.proxy` takes them."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def __call__(
        self,
        proxy: Proxy,
        origin: FakeRegistry | None,
        *mirrors: FakeRegistry,
        settings: Table | None = None,
        **own: Any,
    ) -> None:
        file = proxy.cache.parent / "mirrortap.toml"
        file.write_text(configuration(self._authority, origin, mirrors, settings=settings, **own))
        proxy.current.replace(load([file]))


@pytest.fixture
def change(authority: Authority) -> Change:
    return Change(authority)


async def holding(setup: Setup, *data: bytes) -> FakeRegistry:
    registry = await setup.registry()
    for each in data or (DATA,):
        registry.content.put_blob(NAME, each)
    return registry


class Breaks:
    """Where it would have gone on after a pause."""

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.cut_after = 2_000_000


async def test_what_has_begun_goes_on_with_the_endpoints_there_were(setup: Setup, change: Change) -> None:
    first, second, third = [await holding(setup, DATA, b"new") for _ in range(3)]
    gate = asyncio.Event()
    for fault in Slow(gate, after=1_000_000), Breaks():
        first.inject(fault, kind="blob", path=f"*{DIGEST}", method="GET")
    proxy = setup.proxy(None, first, second)
    begun = await proxy.ask("GET", blob(DIGEST))
    change(proxy, None, third)
    assert (await proxy.get(blob(sha256(b"new")))).served.endpoint == third.endpoint
    gate.set()
    got = await read(begun)
    assert (got.status, got.cut, got.digest) == (200, None, DIGEST)
    (rest,) = second.seen("blob", method="GET")
    assert rest.headers["Range"] == "bytes=2000000-"
    assert third.seen(path=DIGEST) == []


async def test_how_endpoints_fared_is_remembered(setup: Setup, change: Change) -> None:
    first, second = [await holding(setup, b"a", b"b") for _ in range(2)]
    first.inject(Status(500), times=1)
    proxy = setup.proxy(None, first, second)
    assert (await proxy.get(blob(sha256(b"a")))).served.endpoint == second.endpoint
    change(proxy, None, first, second, settings={"tag-ttl": "5m"})
    assert (await proxy.get(blob(sha256(b"b")))).served.endpoint == second.endpoint
    assert len(first.requests) == 1


@pytest.mark.parametrize(
    ("setting", "before", "after", "fault"),
    [
        ("first-byte-timeout", "1h", "800ms", Hang()),
        ("stall-timeout", "1h", "800ms", Slow(asyncio.Event(), after=1_000_000)),
        ("hedge-delay", "0s", "100ms", Held(asyncio.Event())),
    ],
)
async def test_how_long_endpoints_are_waited_for(
    setup: Setup, change: Change, setting: str, before: str, after: str, fault: Any
) -> None:
    first, second = await holding(setup), await holding(setup)
    first.inject(fault, kind="blob", method="GET")
    proxy = setup.proxy(None, first, second, settings={setting: before})
    change(proxy, None, first, second, settings={setting: after})
    async with asyncio.timeout(20):
        got = await proxy.get(blob(DIGEST))
    assert (got.status, got.cut, got.digest) == (200, None, DIGEST)


async def test_stale_answers(setup: Setup, change: Change, image: Image, origin: FakeRegistry) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, settings={"stale-after": "1h"})
    assert (await proxy.get(TAG)).digest == image.manifest.digest
    origin.inject(Hang())
    change(proxy, origin, settings={"stale-after": "100ms"})
    async with asyncio.timeout(20):
        got = await proxy.get(TAG)
    assert (got.digest, got.served.how) == (image.manifest.digest, "stale")


async def test_what_is_believed(setup: Setup, change: Change, image: Image, origin: FakeRegistry) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)

    async def asked() -> list[str]:
        """What another pull asks the origin."""
        seen = len(origin.requests)
        assert (await proxy.get(TAG)).digest == image.manifest.digest
        assert (await proxy.get(blob(image.layers[0].digest))).status == 200
        return [request.kind for request in origin.requests[seen:]]

    assert await asked() == ["manifest", "manifest", "blob"]
    assert await asked() == ["manifest"]
    change(proxy, origin, settings={"tag-ttl": "1h"})
    assert await asked() == []
    change(proxy, origin, tag_ttl="1h") if False else change(
        proxy, origin, settings={"public-ttl": "0s", "tag-ttl": "1h"}
    )
    assert await asked() == ["manifest", "blob"]
    change(proxy, origin, settings={"public-ttl": "0s", "tag-ttl": "1h"}, access="open")
    assert await asked() == []


async def test_rate_limits(setup: Setup, change: Change, image: Image) -> None:
    first, second = [await setup.registry() for _ in range(2)]
    for registry in first, second:
        registry.add(image, NAME)
    first.inject(Headers({"RateLimit-Remaining": "20;w=3600"}))
    proxy = setup.proxy(None, first, second)
    assert (await proxy.get(TAG)).served.endpoint == first.endpoint
    change(proxy, None, first, second, settings={"quota-floor": 30})
    for file in proxy.cache.glob("blobs/*/*"):
        file.unlink()
    assert (await proxy.get(f"/v2/{NAME}/manifests/{image.manifest.digest}")).served.endpoint == second.endpoint


@pytest.mark.parametrize("kept", [True, False])
async def test_downloads_nobody_wants(setup: Setup, change: Change, kept: bool) -> None:
    first = await holding(setup)
    gate = asyncio.Event()
    first.inject(Slow(gate, after=1_000_000), kind="blob", method="GET")
    shares = ["100%", "0%"] if kept else ["0%", "100%"]
    proxy = setup.proxy(None, first, settings={"keep-filling-from": shares[0]})
    reply = await proxy.ask("GET", blob(DIGEST))
    change(proxy, None, first, settings={"keep-filling-from": shares[1]})
    assert not isinstance(reply.body, bytes)
    await reply.body.read()
    await reply.body.close()
    (fill,) = [task for task in asyncio.all_tasks() if task.get_name() == f"fill {DIGEST}"]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait([fill])
    assert (DIGEST in proxy.cached()) is kept


async def test_the_caches_size(setup: Setup, change: Change) -> None:
    first = await holding(setup)
    proxy = setup.proxy(None, first, settings={"cache-size": "1GB", "min-free": "0%"})
    await proxy.get(blob(DIGEST))
    await proxy.janitor.make_room()
    assert proxy.cached() == {DIGEST}
    change(proxy, None, first, settings={"cache-size": "1MB", "min-free": "0%"})
    await proxy.janitor.make_room()
    assert proxy.cached() == set()


async def test_offline_and_blocked(setup: Setup, change: Change) -> None:
    first = await holding(setup)
    proxy = setup.proxy(None, first, settings=QUICK)
    change(proxy, None, first, settings={"offline": True})
    assert (await proxy.get(blob(DIGEST))).status == 504
    file = proxy.cache.parent / "mirrortap.toml"
    file.write_text('[registry."registry.test"]\nblocked = true\n')
    proxy.current.replace(load([file]))
    assert (await proxy.get(blob(DIGEST))).status == 403
    assert first.requests == []
    change(proxy, None, first)
    assert (await proxy.get(blob(DIGEST))).digest == DIGEST


async def test_where_upstream_may_lead(setup: Setup, change: Change) -> None:
    """The CDN is on this machine, where nothing may lead that is not named."""
    mirror = await setup.registry(cdn=True)
    for data in b"a", b"b", b"c":
        mirror.content.put_blob(NAME, data)
    elsewhere = mirror.cdn_endpoint
    assert elsewhere
    proxy = setup.proxy(None, mirror)
    assert (await proxy.get(blob(sha256(b"a")))).status == 200
    named = (proxy.cache.parent / "mirrortap.toml").read_text()
    unnamed = named.replace(f'"{elsewhere}"', "")
    for text, data, status in (unnamed, b"b", 502), (named, b"c", 200):
        assert (elsewhere in text) is (status == 200)
        (proxy.cache.parent / "mirrortap.toml").write_text(text)
        proxy.current.replace(load([proxy.cache.parent / "mirrortap.toml"]))
        assert (await proxy.get(blob(sha256(data)))).status == status


async def test_a_ca_that_is_replaced_in_its_place(
    setup: Setup, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    first = await setup.registry(tls=stranger)
    for data in b"a", b"b", b"c":
        first.content.put_blob(NAME, data)
    ca = shutil.copy(authority.file, tmp_path / "own.pem")
    text = configuration(authority, None, [first], settings=QUICK).replace(str(authority.file), str(ca))
    proxy = setup.start(text)
    got = await proxy.get(blob(sha256(b"a")))
    assert (got.status, "unable to get local issuer certificate" in got.error["message"]) == (502, True)
    shutil.copy(stranger.file, ca)
    proxy.current.replace(load(proxy.config.sources))
    assert (await proxy.get(blob(sha256(b"a")))).data == b"a"
    shutil.copy(authority.file, ca)
    proxy.current.replace(load(proxy.config.sources))
    assert (await proxy.get(blob(sha256(b"b")))).status == 502
    unverified = text.replace("insecure = false", "insecure = true")
    for text_now, status in (unverified, 200), (text, 502):
        proxy.config.sources[0].write_text(text_now)
        proxy.current.replace(load(proxy.config.sources))
        for file in proxy.cache.glob("blobs/*/*"):
            os.unlink(file)
        assert (await proxy.get(blob(sha256(b"c")))).status == status
