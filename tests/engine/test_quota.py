"""What is left of a registry's rate limit is not spent while others have the content."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.config import QUICK
from support.faults import Headers, Held, NoDigest, Status

from addon.config.current import Current
from addon.counts.tally import Tally
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.oci import Blob, Digest, Manifest
from addon.upstream import routing
from addon.upstream.client import Upstream
from addon.upstream.reader import ANYBODY
from addon.upstream.sources import NotFound, Sources
from engine.harness import NAME, REGISTRY, TAG, blob, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.images import Image
    from support.registry import FakeRegistry

    from addon.config.model import Config, Rule
    from addon.upstream.sources import Search
    from engine.conftest import Setup

FEW = Headers({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "3;w=21600"})
MANY = Headers({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"})


@pytest.fixture
async def both(setup: Setup, image: Image) -> list[FakeRegistry]:
    """Two mirrors that have the image."""
    registries = [await setup.registry() for _ in range(2)]
    for registry in registries:
        registry.add(image, NAME)
    return registries


@asynccontextmanager
async def asking(
    setup: Setup, origin: FakeRegistry | None, *mirrors: FakeRegistry, floor: int = 10
) -> AsyncIterator[tuple[Sources, Rule]]:
    proxy = setup.proxy(origin, *mirrors)
    config = proxy.config
    config = replace(config, downloads=replace(config.downloads, quota_floor=floor))
    current = Current(config)
    rule = config.rule(REGISTRY, 443)
    assert rule
    upstream = Upstream(current, Via(Fingerprints(b"tests")))
    yield Sources(upstream, current, proxy.access, Tally()), rule
    await upstream.close()


async def found(search: Search) -> str:
    async with await search.next() as response:
        return response.endpoint.name


async def test_manifests_come_from_those_with_more_left(setup: Setup, both: list[FakeRegistry], image: Image) -> None:
    both[0].inject(FEW)
    both[1].inject(MANY)
    proxy = setup.proxy(None, *both)
    # HEADs and blobs are not counted.
    for _ in range(2):
        assert (await proxy.head(TAG)).served.endpoint == both[0].endpoint
    assert (await proxy.get(blob(image.config.digest))).served.endpoint == both[0].endpoint
    assert (await proxy.get(manifest(image.manifest.digest))).served.endpoint == both[1].endpoint
    assert both[0].seen("manifest", method="GET") == []


async def test_who_has_few_left_is_asked_when_nobody_else_has_it(
    setup: Setup, both: list[FakeRegistry], other: Image
) -> None:
    both[0].inject(FEW)
    both[0].add(other, NAME)
    proxy = setup.proxy(None, *both)
    await proxy.head(TAG)
    assert (await proxy.get(manifest(other.manifest.digest))).served.endpoint == both[0].endpoint


async def test_impatience_does_not_spend_what_is_left(
    setup: Setup, both: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    """A mirror that is slow gets no rival that has few requests left: it may fail first, and the log says that."""
    both[0].inject(Held(asyncio.Event()), kind="manifest", method="GET")
    both[1].inject(FEW)

    def tuned(config: Config) -> Config:
        return replace(config, timeouts=replace(config.timeouts, hedge=0.02))

    proxy = setup.proxy(None, *both, settings=dict(QUICK), tuned=tuned)
    both[0].inject(Status(404), method="HEAD", times=1)
    assert (await proxy.head(TAG)).served.endpoint == both[1].endpoint
    assert (await proxy.get(manifest(image.manifest.digest))).served.endpoint == both[1].endpoint
    assert f"{both[0].endpoint}: no answer within 1 s" in caplog.text


@pytest.mark.parametrize("says", [FEW, Status(429, {"Retry-After": "60"})], ids=["few left", "429"])
async def test_the_origin_is_spared_in_favour_of_something_older(
    says: Headers | Status, setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    origin.add(image, NAME)
    mirror = await setup.registry()
    fault = origin.inject(says)
    async with asking(setup, origin, mirror) as (sources, rule):
        wanted = Manifest(NAME, Digest.parse(image.manifest.digest))
        try:
            await found(sources.of(rule, "GET", wanted, ANYBODY))
        except NotFound:
            assert fault.fault is not FEW
        asked = len(origin.requests)
        with pytest.raises(NotFound) as missing:
            await sources.of(rule, "GET", wanted, ANYBODY, spare=True).next()
        assert len(origin.requests) == asked
        # So that something older may be shown, and an error would not say that it is nowhere.
        assert not routing.settled(missing.value.attempts)
        assert "rate limit" in str(routing.most_telling(wanted, REGISTRY, missing.value.attempts))
        # What is not counted is asked for all the same.
        origin.traffic.injections.clear()
        origin.inject(FEW)
        for method, asks in ("HEAD", wanted), ("GET", Blob(NAME, Digest.parse(image.config.digest))):
            assert await found(sources.of(rule, method, asks, ANYBODY, spare=True)) == rule.origins[0].name
        # A mirror's answer costs the origin nothing.
        mirror.add(image, NAME)
        assert await found(sources.of(rule, "GET", wanted, ANYBODY, spare=True)) == mirror.endpoint
        # And when there is nothing older, the origin it is.
        mirror.inject(Status(404))
        assert await found(sources.of(rule, "GET", wanted, ANYBODY)) == rule.origins[0].name


async def test_with_many_left_or_no_floor_nothing_is_spared(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    wanted = Manifest(NAME, "1.0")
    for says, floor in (MANY, 10), (FEW, 0), (FEW, 3):
        origin.traffic.injections.clear()
        origin.inject(says)
        async with asking(setup, origin, floor=floor) as (sources, rule):
            await found(sources.of(rule, "HEAD", wanted, ANYBODY))
            assert await found(sources.of(rule, "GET", wanted, ANYBODY, spare=True)) == rule.origins[0].name


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
async def test_an_older_manifest_is_shown_rather_than_a_counted_pull_spent(
    announced: bool, setup: Setup, origin: FakeRegistry, image: Image, other: Image
) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    assert (await proxy.get(TAG)).data == image.manifest.data
    origin.add(other, NAME)
    origin.inject(FEW)
    if not announced:
        origin.inject(NoDigest())
    await proxy.head(TAG)
    pulls = len(origin.seen("manifest", method="GET"))
    for _ in range(2):
        got = await proxy.get(TAG)
        assert (got.data, got.served.how) == (image.manifest.data, "stale")
    assert len(origin.seen("manifest", method="GET")) == pulls
    # Who asks for just that, and has nothing older, gets it.
    stale, new = await asyncio.gather(proxy.get(TAG), proxy.get(manifest(other.manifest.digest)))
    assert stale.data in (image.manifest.data, other.manifest.data)
    assert new.data == other.manifest.data
    assert (await proxy.get(TAG)).data == other.manifest.data or not announced
