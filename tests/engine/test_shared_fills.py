"""Several workers on one cache: one download per digest, which the others follow, or go on with when it stops."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.faults import Corrupt, Slow, Status
from support.images import sha256

from addon.body import BodyCut
from addon.cache.partial import Claim, Facts
from addon.cache.store import Store
from addon.oci import Digest
from engine.harness import NAME, REGISTRY, blob, manifest, read
from engine.test_coalescing import unread

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

SIZE = 3_000_000
DATA = bytes(number % 251 for number in range(SIZE))
DIGEST = sha256(DATA)


@pytest.fixture
async def workers(setup: Setup, mirror: FakeRegistry) -> list[Proxy]:
    mirror.content.put_blob(NAME, DATA)
    one = setup.proxy(None, mirror)
    return [one, setup.beside(one)]


def holders(file: Path) -> int:
    """Descriptors of this process on a file."""
    links = Path("/proc/self/fd").iterdir()
    return sum(link.exists() and link.resolve() == file for link in links)


async def started(proxy: Proxy, count: int) -> tuple[asyncio.Task[bytes], asyncio.Event]:
    """A reader that has had `count` bytes when the event is set."""
    reply = await proxy.ask("GET", blob(DIGEST))
    body, there = unread(reply.body), asyncio.Event()

    async def reading() -> bytes:
        data = b""
        while piece := await body.read():
            data += piece
            if len(data) >= count:
                there.set()
        await body.close()
        return data

    return asyncio.create_task(reading()), there


async def test_many_clients_of_both_are_one_download(workers: list[Proxy], mirror: FakeRegistry) -> None:
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=1000), kind="blob")
    replies = await asyncio.gather(*(workers[number % 2].ask("GET", blob(DIGEST)) for number in range(16)))
    gate.set()
    reading = asyncio.gather(*map(read, replies))
    assert {(got.status, got.digest, got.cut) for got in await reading} == {(200, DIGEST, None)}
    assert len(mirror.requests) == 1
    assert mirror.traffic.sent[DIGEST] == SIZE


async def test_the_other_worker_shows_what_comes_as_it_comes(workers: list[Proxy], mirror: FakeRegistry) -> None:
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=SIZE // 2), kind="blob")
    readers = [await started(worker, SIZE // 2 - 1) for worker in workers]
    await asyncio.gather(*(there.wait() for _, there in readers))
    assert not gate.is_set()
    assert [worker.tally.tallied().counters.joined for worker in workers] == [{}, {REGISTRY: 1}]
    gate.set()
    for reader, _ in readers:
        assert sha256(await reader) == DIGEST
    assert len(mirror.requests) == 1


async def test_a_manifest_keeps_its_type(workers: list[Proxy], mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    got = await asyncio.gather(*(worker.get(manifest(image.manifest.digest)) for worker in workers))
    assert [(each.data, each.headers["Content-Type"]) for each in got] == [
        (image.manifest.data, image.manifest.media_type)
    ] * 2


async def test_when_one_stops_the_other_goes_on_from_there(workers: list[Proxy], mirror: FakeRegistry) -> None:
    mirror.inject(Slow(asyncio.Event(), after=SIZE // 2), kind="blob", times=1)
    first, begun = await started(workers[0], SIZE // 2 - 1)
    second, following = await started(workers[1], SIZE // 2 - 1)
    await asyncio.gather(begun.wait(), following.wait())
    await workers[0].engine.close()
    assert sha256(await second) == DIGEST
    (again,) = mirror.seen("blob", method="GET")[1:]
    assert again.headers["Range"] == f"bytes={SIZE // 2 - 1}-"
    first.cancel()


async def test_wrong_bytes_are_cut_for_the_clients_of_both(workers: list[Proxy], mirror: FakeRegistry) -> None:
    gate = asyncio.Event()
    for fault in Slow(gate, after=SIZE // 2 + 10), Corrupt():
        mirror.inject(fault, kind="blob")
    asked = [await worker.ask("GET", blob(DIGEST)) for worker in workers]
    reading = [asyncio.create_task(read(reply)) for reply in asked]
    gate.set()
    for got in await asyncio.gather(*reading):
        assert got.cut
        assert len(got.data) < SIZE
    assert workers[0].cached() == set()
    mirror.traffic.injections.clear()
    assert (await workers[1].get(blob(DIGEST))).digest == DIGEST


async def test_a_repository_that_does_not_hold_it_gets_nothing_from_another_workers_download(
    workers: list[Proxy], mirror: FakeRegistry
) -> None:
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=SIZE // 2), kind="blob", method="GET")
    first, begun = await started(workers[0], 1000)
    await begun.wait()
    refused = await workers[1].get(blob(DIGEST, "library/other"))
    assert (refused.status, DIGEST in str(refused.error)) == (404, True)
    gate.set()
    assert sha256(await first) == DIGEST


async def test_what_another_worker_has_just_completed_is_not_proof(workers: list[Proxy], mirror: FakeRegistry) -> None:
    """Its file is there, its facts are gone: whose it was is not known any more."""
    owner = Store(workers[0].cache).begin(Digest.parse(DIGEST))
    assert owner.claim() is Claim.OURS
    asking = asyncio.create_task(workers[0].get(blob(DIGEST, "library/other")))
    while holders(workers[0].cache / "partial" / DIGEST.replace(":", "-")) < 2:  # noqa: ASYNC110 (no event tells)
        await asyncio.sleep(0.01)
    owner.write(DATA)
    owner.commit()
    owner.close()
    assert (await asking).status == 404
    assert (await workers[0].get(blob(DIGEST, "library/other"))).status == 404
    assert (await workers[0].get(blob(DIGEST))).digest == DIGEST
    assert mirror.seen("blob", method="GET") == []


async def test_each_worker_hears_itself_what_cannot_be_had(workers: list[Proxy], mirror: FakeRegistry) -> None:
    mirror.inject(Status(503), kind="blob")
    for got in await asyncio.gather(*(worker.get(blob(DIGEST)) for worker in workers for _ in range(4))):
        assert got.status == 502
    assert workers[0].unfinished() == []


@pytest.mark.parametrize("begun", [0, SIZE // 2], ids=["nothing", "half"])
async def test_a_worker_that_hangs_takes_nobody_with_it(begun: int, setup: Setup, mirror: FakeRegistry) -> None:
    """It holds the lock and does not get on: whoever follows gets the rest straight from upstream."""
    mirror.content.put_blob(NAME, DATA)
    proxy = setup.proxy(None, mirror, settings={"stall-timeout": "800ms"})
    hanging = Store(proxy.cache).begin(Digest.parse(DIGEST))
    assert hanging.claim() is Claim.OURS
    if begun:
        hanging.announce(Facts("a mirror", SIZE, None))
        hanging.write(DATA[:begun])
    got = await proxy.get(blob(DIGEST))
    assert (got.status, got.cut, got.digest) == (200, None, DIGEST)
    # The last byte that is there is never shown before the digest is right.
    assert mirror.traffic.sent[DIGEST] == SIZE - max(0, begun - 1)
    hanging.close()


async def test_what_one_worker_left_another_goes_on_with(
    workers: list[Proxy], mirror: FakeRegistry, setup: Setup
) -> None:
    mirror.inject(Slow(asyncio.Event(), after=SIZE // 3), kind="blob", times=1)
    first, begun = await started(workers[0], SIZE // 3 - 1)
    await begun.wait()
    restarted = await setup.restart(workers[0])
    assert (await restarted.get(blob(DIGEST))).digest == DIGEST
    assert mirror.traffic.sent[DIGEST] <= SIZE + 1
    first.cancel()


@pytest.mark.parametrize("leftover", [DATA + b"more", DATA[:1000] + b"wrong", b"\0" * SIZE, DATA], ids=len)
async def test_whatever_was_left_only_the_right_bytes_are_cached(
    leftover: bytes, setup: Setup, mirror: FakeRegistry
) -> None:
    second = await setup.registry()
    for registry in mirror, second:
        registry.content.put_blob(NAME, DATA)
    proxy = setup.proxy(None, mirror, second)
    (proxy.cache / "partial" / DIGEST.replace(":", "-")).write_bytes(leftover)
    got = await proxy.get(blob(DIGEST))
    if got.cut:
        # Its beginning was wrong; it is being fetched anew.
        assert len(got.data) < SIZE
        got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    assert proxy.cached() == {DIGEST}
    assert proxy.unfinished() == []
    # No registry is blamed for what was wrong here: the first one is asked first again.
    assert mirror.requests[-1].status in (200, 206)
    assert [seen.status for seen in second.requests if seen.status != 416] == []


async def test_who_was_shown_wrong_bytes_by_a_killed_worker_is_cut(workers: list[Proxy], mirror: FakeRegistry) -> None:
    """The right bytes from there on would not make them right."""
    digest = Digest.parse(DIGEST)
    killed = Store(workers[0].cache).begin(digest)
    assert killed.claim() is Claim.OURS
    killed.announce(Facts("a mirror", SIZE, None))
    killed.write(b"wrong" * SIZE)
    reader, there = await started(workers[0], SIZE // 2)
    await there.wait()
    killed.close()
    with pytest.raises(BodyCut):
        await reader
    assert (await workers[0].get(blob(DIGEST))).digest == DIGEST
