"""Images warmed by an engine of its own: what is in the cache then, what endpoints were asked, and what is said."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.faults import Corrupt, NoDigest, Slow, Status
from support.images import INDEX, make_image, sha256

from addon.cache.cache import Cache
from addon.cache.partial import Claim, Partial
from addon.cache.reference import Reference
from addon.cache.store import Store
from addon.oci import Digest
from addon.parent import Parents
from addon.running import LOCK, Running, tell
from addon.warming.opening import opened
from addon.warming.platforms import Platform
from addon.warming.wanted import Wanted
from addon.warming.warmer import CacheUnwritable
from engine.harness import NAME, REGISTRY, blob, closed_port, manifest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from support.images import Image, MultiArch
    from support.registry import FakeRegistry

    from addon.warming.outcome import Outcome
    from addon.warming.warmer import Warmer
    from engine.conftest import Setup
    from engine.harness import Proxy

AMD64, ARM64, S390X = Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "s390x")


class Shown:
    """What a display is told."""

    def __init__(self) -> None:
        self.expected = 0
        self.bars: list[ShownBar] = []
        self.most = 0  # bars at a time
        self.moved = asyncio.Event()
        self.hushed = False
        self.outcomes: list[Outcome] = []

    def expect(self, size: int) -> None:
        self.expected += size

    def begin(self, digest: Digest, size: int) -> ShownBar:
        self.bars.append(ShownBar(str(digest), size, self.moved))
        self.most = max(self.most, sum(not bar.ended for bar in self.bars))
        return self.bars[-1]

    def tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def hush(self) -> None:
        self.hushed = True

    async def until(self, digest: str, came: int) -> None:
        """So many bytes of it are here."""
        while not any(bar.digest == digest and bar.came >= came for bar in self.bars):
            self.moved.clear()
            await self.moved.wait()


class ShownBar:
    def __init__(self, digest: str, size: int, moved: asyncio.Event) -> None:
        self.digest = digest
        self._moved = moved
        self.size = size
        self.came = 0
        self.ended = False

    def move(self, came: int) -> None:
        assert came >= self.came
        self.came = came
        self._moved.set()

    def end(self) -> None:
        self.ended = True


class Warming:
    """Warms into the data folder of `proxy`, which goes on."""

    def __init__(self, proxy: Proxy, jobs: int = 4) -> None:
        self.shown = Shown()
        self._proxy = proxy
        self._jobs = jobs

    def opened(self) -> AbstractAsyncContextManager[Warmer]:
        return opened(
            self._proxy.config, self._proxy.cache.parent, Parents.from_environment({}), self._jobs, self.shown
        )

    async def warm(self, *wanted: Wanted) -> list[Outcome]:
        async with self.opened() as warmer:
            return await warmer.warm(wanted)

    async def refused(self, wanted: Wanted) -> str:
        (outcome,) = await self.warm(wanted)
        assert outcome.problems
        return outcome.failure


def image_of(target: str = "1.0", *platforms: Platform, name: str = NAME, registry: str = REGISTRY) -> Wanted:
    reference = Digest.parse(target) if ":" in target else target
    return Wanted(Reference(registry, name, reference), platforms or (AMD64,))


def everything(wanted: Wanted) -> Wanted:
    return replace(wanted, platforms=None)


def gets(registry: FakeRegistry, kind: str = "*") -> list[str]:
    return [seen.path.rpartition("/")[2] for seen in registry.seen(kind, method="GET")]


async def offline(setup: Setup, proxy: Proxy) -> Proxy:
    """Another process on the same data, that asks nobody."""
    return setup.beside(proxy, tuned=lambda config: config.taken_offline())


# --- what is in the cache ---


async def test_a_warmed_image_is_served_offline(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    warming = Warming(proxy)
    (outcome,) = await warming.warm(image_of())
    size = sum(part.size for part in image.blobs)
    assert (outcome.blobs, outcome.size, outcome.cached, outcome.problems) == (3, size, 0, ())
    assert proxy.cached() == {image.manifest.digest, *(part.digest for part in image.blobs)}
    assert sorted(gets(origin, "blob")) == sorted(part.digest for part in image.blobs)
    asked = len(origin.requests)
    alone = await offline(setup, proxy)
    assert (await alone.get(manifest("1.0"))).data == image.manifest.data
    for part in image.blobs:
        assert (await alone.get(blob(part.digest))).data == part.data
    assert len(origin.requests) == asked


async def test_progress_is_told_in_bytes(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    warming = Warming(setup.proxy(origin), jobs=1)
    await warming.warm(image_of())
    sizes = {part.digest: part.size for part in image.blobs}
    assert warming.shown.expected == sum(sizes.values())
    assert {bar.digest: bar.came for bar in warming.shown.bars} == sizes
    assert {bar.digest: bar.size for bar in warming.shown.bars} == sizes
    assert all(bar.ended for bar in warming.shown.bars)
    assert warming.shown.most == 1


async def test_so_many_blobs_at_a_time(setup: Setup, origin: FakeRegistry, tmp_path: Path) -> None:
    layered = make_image(tmp_path, layer_sizes=(20_000,) * 6)
    origin.add(layered, NAME)
    gate = asyncio.Event()
    origin.inject(Slow(gate, after=1000), kind="blob")
    # Which counts for clients.
    warming = Warming(setup.proxy(origin, prefetch=True), jobs=3)
    async with warming.opened() as warmer:
        task = asyncio.create_task(warmer.warm([image_of()]))
        await origin.wait_for(lambda: len(gets(origin, "blob")) == 3)
        gate.set()
        (outcome,) = await task
    assert outcome.blobs == 7
    assert warming.shown.most == 3


async def test_what_is_cached_is_not_downloaded_again(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    layer = image.layers[0]
    assert (await proxy.get(blob(layer.digest))).data == layer.data
    first = Warming(proxy)
    (outcome,) = await first.warm(image_of())
    assert (outcome.blobs, outcome.cached) == (3, 1)
    assert first.shown.expected == sum(part.size for part in image.blobs) - layer.size
    again = Warming(proxy)
    async with again.opened() as warmer:
        (outcome,) = await warmer.warm([image_of()])
        assert warmer.downloaded == 0
    assert (outcome.blobs, outcome.cached) == (3, 3)
    assert again.shown.bars == []
    assert all(origin.traffic.sent[part.digest] == part.size for part in image.blobs)


async def test_a_tag_is_asked_for_anew_whatever_is_believed_of_it(
    setup: Setup, origin: FakeRegistry, image: Image, other: Image
) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, settings={"tag-ttl": "1h"})
    await Warming(proxy).warm(image_of())
    origin.add(other, NAME)
    await Warming(proxy).warm(image_of())
    alone = await offline(setup, proxy)
    assert (await alone.get(manifest("1.0"))).digest == other.manifest.digest


async def test_who_answers_slowly_is_waited_for(setup: Setup, origin: FakeRegistry, image: Image, other: Image) -> None:
    """However soon clients are given what is cached."""
    origin.add(image, NAME)
    proxy = setup.proxy(origin, settings={"stale-after": "0s"})
    await Warming(proxy).warm(image_of())
    origin.add(other, NAME)
    (outcome,) = await Warming(proxy).warm(image_of())
    assert outcome.problems == ()
    assert other.manifest.digest in proxy.cached()


async def test_a_registry_that_says_no_digests(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    origin.inject(NoDigest())
    proxy = setup.proxy(origin)
    (outcome,) = await Warming(proxy).warm(image_of())
    assert outcome.problems == ()
    assert image.manifest.digest in proxy.cached()


async def test_by_digest(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    (outcome,) = await Warming(proxy).warm(image_of(image.manifest.digest))
    assert outcome.blobs == 3
    assert (await (await offline(setup, proxy)).get(manifest(image.manifest.digest))).status == 200


async def test_blobs_that_images_share_come_once(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """And are then known to be of both repositories."""
    for name in NAME, "library/same":
        origin.add(image, name)
    proxy = setup.proxy(origin)
    warming = Warming(proxy)
    async with warming.opened() as warmer:
        outcomes = await warmer.warm([image_of(), image_of(name="library/same"), image_of(image.manifest.digest)])
        assert warmer.downloaded == warming.shown.expected == sum(part.size for part in image.blobs)
    assert [outcome.problems for outcome in outcomes] == [()] * 3
    assert len(warming.shown.bars) == 3
    assert sorted(gets(origin, "blob")) == sorted(part.digest for part in image.blobs)
    alone = await offline(setup, proxy)
    for name in NAME, "library/same":
        assert (await alone.get(blob(image.layers[0].digest, name))).status == 200


# --- platforms ---


async def test_only_the_platforms_that_are_asked_for(setup: Setup, origin: FakeRegistry, multi: MultiArch) -> None:
    origin.add(multi, NAME)
    amd64, arm64 = multi.images
    proxy = setup.proxy(origin)
    (outcome,) = await Warming(proxy).warm(image_of("1.0", ARM64))
    assert outcome.line.startswith(f"{REGISTRY}/{NAME}:1.0 linux/arm64: 3 blobs, ")
    ours = {multi.index.digest, arm64.manifest.digest, *(part.digest for part in arm64.blobs)}
    assert proxy.cached() == ours
    await Warming(proxy).warm(image_of("1.0", ARM64, AMD64))
    assert proxy.cached() == ours | {amd64.manifest.digest, *(part.digest for part in amd64.blobs)}


async def test_all_platforms_with_attestations(setup: Setup, origin: FakeRegistry, multi: MultiArch) -> None:
    """BuildKit lists these as manifests of an unknown platform."""
    statement = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
    attestation = as_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(b"{}"),
            "layers": [{**described(statement), "mediaType": "application/vnd.in-toto+json"}],
        }
    )
    entries = [
        *json.loads(multi.index.data)["manifests"],
        {**described(attestation), "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    index = as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    origin.add(multi, NAME)
    for part in statement, b"{}":
        origin.content.put_blob(NAME, part)
    origin.content.put_manifest(NAME, sha256(attestation), attestation, "application/vnd.oci.image.manifest.v1+json")
    origin.content.put_manifest(NAME, "1.0", index, INDEX)
    proxy = setup.proxy(origin)
    await Warming(proxy).warm(image_of("1.0", AMD64, ARM64))
    assert sha256(attestation) not in proxy.cached()
    (outcome,) = await Warming(proxy).warm(everything(image_of()))
    assert outcome.problems == ()
    images = {part for image in multi.images for part in (image.manifest.digest, *(b.digest for b in image.blobs))}
    assert proxy.cached() == images | {sha256(index), sha256(attestation), sha256(statement), sha256(b"{}")}


async def test_a_platform_that_an_image_does_not_have(setup: Setup, origin: FakeRegistry, multi: MultiArch) -> None:
    origin.add(multi, NAME)
    told = await Warming(setup.proxy(origin)).refused(image_of("1.0", AMD64, S390X))
    assert told.endswith("there is no linux/s390x of it, but linux/amd64, linux/arm64")


async def test_an_index_within_an_index(setup: Setup, origin: FakeRegistry, multi: MultiArch) -> None:
    origin.add(multi, NAME)
    nest(origin, multi.index.data, 3)
    proxy = setup.proxy(origin)
    (outcome,) = await Warming(proxy).warm(image_of("nested", ARM64))
    assert (outcome.blobs, outcome.problems) == (3, ())
    told = await Warming(proxy).refused(image_of("nested", S390X))
    assert "there is no linux/s390x of it, but linux/amd64, linux/arm64" in told


async def test_indexes_within_each_other_without_an_end(setup: Setup, origin: FakeRegistry, multi: MultiArch) -> None:
    origin.add(multi, NAME)
    nest(origin, multi.index.data, 30)
    told = await Warming(setup.proxy(origin)).refused(image_of("nested"))
    assert told.endswith("its indexes are within each other more than 4 times")
    assert len(gets(origin, "manifest")) < 8


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"mediaType": "x/y", "layers": 1}', b'{"manifests": [{}]}'])
async def test_what_is_no_manifest(setup: Setup, origin: FakeRegistry, content: bytes) -> None:
    digest = origin.content.put_manifest(NAME, sha256(content), content, INDEX)
    told = await Warming(setup.proxy(origin)).refused(image_of(digest))
    assert "manifest" in told


# --- failures ---


async def test_one_failure_does_not_stop_the_others(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    missing, there = await Warming(proxy, jobs=1).warm(image_of("none"), image_of())
    assert there.problems == ()
    assert f"{REGISTRY}/{NAME}:none is at no endpoint: {origin.endpoint}: HTTP 404" in missing.failure


async def test_each_endpoints_answer_is_told(setup: Setup, origin: FakeRegistry, mirror: FakeRegistry) -> None:
    mirror.inject(Status(500), kind="manifest")
    told = await Warming(setup.proxy(origin, mirror)).refused(image_of())
    assert "is at no endpoint: " in told
    assert f"{mirror.endpoint}: HTTP 500" in told
    assert f"{origin.endpoint}: HTTP 404" in told


async def test_a_login_is_wanted(setup: Setup, image: Image) -> None:
    private = await setup.registry(auth=BearerAuth(Policy({"alice": "secret"}, {NAME: {"alice"}})))
    private.add(image, NAME)
    told = await Warming(setup.proxy(private)).refused(image_of())
    assert f"{REGISTRY}/{NAME} was refused ({private.endpoint}: HTTP 401" in told
    assert f'[registry."{REGISTRY}".auth], see docs/credentials.md' in told


async def test_a_private_image_with_a_credential_of_the_proxys(setup: Setup, image: Image, tmp_path: Path) -> None:
    private = await setup.registry(auth=BearerAuth(Policy({"alice": "secret"}, {NAME: {"alice"}})))
    private.add(image, NAME)
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    login = {"username": "alice", "password-file": password}
    proxy = setup.proxy(private, auth=login)
    (outcome,) = await Warming(proxy).warm(image_of())
    assert outcome.problems == ()
    password.write_text("wrong")
    told = await Warming(setup.proxy(private, auth=login)).refused(image_of())
    assert f"the credential for {REGISTRY} (from {password}) is not let in, or there is no such repository" in told
    assert "wrong" not in told


async def test_nobody_answers(setup: Setup) -> None:
    port = closed_port()
    told = await Warming(setup.proxy(port)).refused(image_of())
    assert f"no endpoint could serve manifest {REGISTRY}/{NAME}:1.0: {port}: " in told


async def test_nobody_answers_for_what_is_cached(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    await Warming(proxy).warm(image_of())
    origin.inject(Status(503))
    told = await Warming(proxy).refused(image_of())
    assert told.endswith("no endpoint says whether it is still the newest: what was cached before stays")


@pytest.mark.parametrize(
    ("table", "told"),
    [("blocked = true", "is blocked (blocked = true in "), ('mode = "offline"', 'is offline (mode = "offline" in ')],
)
async def test_what_the_configuration_forbids(setup: Setup, table: str, told: str) -> None:
    proxy = setup.start(f'[registry."{REGISTRY}"]\n{table}\n')
    assert f"{REGISTRY} {told}" in await Warming(proxy).refused(image_of())


async def test_a_digest_that_cannot_be_verified(setup: Setup, origin: FakeRegistry) -> None:
    told = await Warming(setup.proxy(origin)).refused(image_of("blake3:abcd"))
    assert told.endswith("blake3 is no digest that can be verified here: sha256 and sha512 are")
    assert origin.requests == []


async def test_a_registry_that_is_not_served(setup: Setup, origin: FakeRegistry) -> None:
    told = await Warming(setup.proxy(origin)).refused(image_of(registry="other.test:5000"))
    assert 'Write [registry."other.test:5000"] into the configuration' in told


async def test_a_bad_blob_is_asked_for_once_more(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    layer = image.layers[1]
    bad = origin.inject(Corrupt(), kind="blob", path=f"*{layer.digest}", times=1)
    proxy = setup.proxy(origin)
    (outcome,) = await Warming(proxy).warm(image_of())
    assert (outcome.problems, bad.hits) == ((), 1)
    assert {part.digest for part in image.blobs} < proxy.cached()


async def test_a_blob_that_stays_bad(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    layer = image.layers[1]
    origin.inject(Corrupt(), kind="blob", path=f"*{layer.digest}")
    proxy = setup.proxy(origin)
    told = await Warming(proxy).refused(image_of())
    assert f"{origin.endpoint} sent a bad {layer.digest}" in told
    assert layer.digest not in proxy.cached()
    assert len(gets(origin, "blob")) <= 2 + 4


async def test_the_other_blobs_of_a_failing_image_are_kept(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    origin.inject(Status(404), kind="blob", path=f"*{image.layers[1].digest}")
    proxy = setup.proxy(origin)
    told = await Warming(proxy).refused(image_of())
    assert f"{image.layers[1].digest} is at no endpoint" in told
    assert proxy.cached() == {image.manifest.digest, image.config.digest, image.layers[0].digest}


async def test_a_full_disk_ends_it(
    setup: Setup, origin: FakeRegistry, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be stored is not downloaded."""
    origin.add(image, NAME)
    proxy = setup.proxy(origin)

    def full(self: Partial, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Partial, "write", full)
    warming = Warming(proxy)
    with pytest.raises(CacheUnwritable) as caught:
        await warming.warm(image_of())
    assert warming.shown.hushed
    assert str(caught.value) == f"{proxy.cache}: cannot be written: No space left on device"
    assert gets(origin, "blob") == []


# --- beside others, and after them ---


async def test_an_unfinished_download_is_gone_on_with(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    layer = image.layers[1]
    gate = asyncio.Event()
    slow = origin.inject(Slow(gate, after=150_000), kind="blob", path=f"*{layer.digest}")
    proxy = setup.proxy(origin)
    warming = Warming(proxy)
    async with warming.opened() as warmer:
        task = asyncio.create_task(warmer.warm([image_of()]))
        await warming.shown.until(layer.digest, 149_999)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert all(bar.ended for bar in warming.shown.bars)
    kept = (proxy.cache / "partial" / layer.digest.replace(":", "-")).stat().st_size
    assert kept >= 149_999
    slow.times = 0
    before = origin.traffic.sent[layer.digest]
    await Warming(proxy).warm(image_of())
    assert layer.digest in proxy.cached()
    assert origin.traffic.sent[layer.digest] - before <= layer.size - kept + 1


async def test_beside_a_proxy_that_is_downloading_the_same(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """Neither downloads what the other does."""
    origin.add(image, NAME)
    layer = image.layers[1]
    gate = asyncio.Event()
    origin.inject(Slow(gate, after=1000), kind="blob", path=f"*{layer.digest}")
    proxy = setup.proxy(origin)
    client = asyncio.create_task(proxy.get(blob(layer.digest)))
    await origin.wait_for(lambda: origin.traffic.sent[layer.digest] > 0)
    warming = Warming(proxy)
    async with warming.opened() as warmer:
        task = asyncio.create_task(warmer.warm([image_of()]))
        await warming.shown.until(layer.digest, 1)
        gate.set()
        (outcome,) = await task
    assert outcome.problems == ()
    assert (await client).data == layer.data
    assert origin.traffic.sent[layer.digest] == layer.size


async def test_whose_a_blob_is_was_forgotten_meanwhile(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """A proxy that starts forgets the links of what is not here yet."""
    origin.add(image, NAME)
    layer = image.layers[1]
    gate = asyncio.Event()
    origin.inject(Slow(gate, after=1000), kind="blob", path=f"*{layer.digest}")
    proxy = setup.proxy(origin)
    warming = Warming(proxy)
    async with warming.opened() as warmer:
        task = asyncio.create_task(warmer.warm([image_of()]))
        await warming.shown.until(layer.digest, 1)
        setup.beside(proxy)
        gate.set()
        (outcome,) = await task
    assert outcome.problems == ()
    alone = await offline(setup, proxy)
    assert (await alone.get(blob(layer.digest))).status == 200


async def test_a_download_of_anothers_that_stands_still(
    setup: Setup, origin: FakeRegistry, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails alone: what is asked for next waits until the cache is written to again."""
    monkeypatch.setattr("addon.pulls.fills._REST", 0.3)
    origin.add(image, NAME)
    layer = image.layers[0]
    proxy = setup.proxy(origin, settings={"stall-timeout": "800ms"})
    hanging = Store(proxy.cache).begin(Digest.parse(layer.digest))
    assert hanging.claim() is Claim.OURS
    told = await Warming(proxy, jobs=1).refused(image_of())
    assert f"blob {Digest.parse(layer.digest).short} came, but is not in the cache: another process" in told
    assert {part.digest for part in image.blobs} - proxy.cached() == {layer.digest}
    hanging.close()


@pytest.mark.parametrize("runs", [True, False])
async def test_what_is_known_of_the_cache_is_left_to_a_proxy_that_runs(
    runs: bool, setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    """Else what index.json says is taken in before there is anything new."""
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    await Warming(proxy).warm(image_of())
    await proxy.close()
    for file in proxy.cache.glob("mirrortap.sqlite*"):
        file.unlink()
    data = proxy.cache.parent
    tell(data, Running(os.getpid(), "", "regular", ("127.0.0.1", 3128), None, (), 1, 0.0))
    lock = os.open(data / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX if runs else fcntl.LOCK_UN)
    async with Warming(proxy).opened():
        pass
    os.close(lock)
    with closing(Cache(proxy.cache, lambda: proxy.config.beliefs)) as cache:
        assert any(cache.tags.all()) is not runs


async def test_what_a_proxy_would_evict_is_told(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, settings={"cache-size": "1%", "min-free": "99%"})
    async with Warming(proxy).opened() as warmer:
        assert warmer.surplus() == 0
        await warmer.warm([image_of()])
        assert warmer.surplus() > 200_000


def nest(registry: FakeRegistry, index: bytes, times: int) -> None:
    """That index in others, the outermost of which has the tag "nested"."""
    for _ in range(times):
        registry.content.put_manifest(NAME, sha256(index), index, INDEX)
        index = as_json(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**described(index), "mediaType": INDEX}]}
        )
    registry.content.put_manifest(NAME, "nested", index, INDEX)


def as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def described(content: bytes) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sha256(content),
        "size": len(content),
    }
