"""A large blob over several connections: the same bytes in the same order, whoever sends which part of them."""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.faults import Answer, Close, Corrupt, Headers, Held, Seen, Slow, Status, Truncate
from support.images import sha256

from addon.cache.spool import Spool
from addon.config.current import Current
from addon.config.model import Pace, Splitting
from addon.counts.tally import Tally
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.oci import Blob, Digest, Manifest
from addon.pulls.segments import Segments
from addon.upstream.client import Upstream
from addon.upstream.reader import ANYBODY
from addon.upstream.sources import Sources
from engine.harness import NAME, REGISTRY, blob, closed_port
from engine.test_coalescing import unread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Buffer, Callable, Iterator
    from pathlib import Path

    from support.faults import Fault
    from support.registry import FakeRegistry

    from addon.config.model import Config
    from addon.upstream.sources import Search
    from engine.conftest import Setup
    from engine.harness import Got, Proxy

SEGMENT = 64 << 10
# What comes before the first connection falls silent.
BEGUN = 1000


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


DATA = content(9 * SEGMENT + 5)
DIGEST = sha256(DATA)


def small(connections: int = 4) -> dict[str, Any]:
    def tuned(config: Config) -> Config:
        downloads = replace(config.downloads, segment_size=SEGMENT, connections_per_fill=connections)
        return replace(config, downloads=downloads)

    return {"tuned": tuned}


@dataclass
class OfParts:
    """A fault of answers to requests for a slice with both ends; of the first `times` of them."""

    fault: Fault
    times: int = 1000

    def apply(self, answer: Answer, request: Seen) -> None:
        if span(request) and self.times:
            self.times -= 1
            self.fault.apply(answer, request)


def span(request: Seen) -> tuple[int, int] | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return (int(match[1]), int(match[2]) + 1) if match else None


def parts(*registries: FakeRegistry) -> list[tuple[int, int]]:
    return sorted(found for registry in registries for seen in registry.requests if (found := span(seen)))


def slow(registry: FakeRegistry, data: bytes = DATA) -> asyncio.Event:
    """The registry has `data`, and stops in the middle of the first answer about it until the event is set."""
    registry.content.put_blob(NAME, data)
    gate = asyncio.Event()
    registry.inject(Slow(gate, after=BEGUN), kind="blob", path=f"*{sha256(data)}", times=1)
    return gate


async def pull(proxy: Proxy, gate: asyncio.Event, *registries: FakeRegistry, data: bytes = DATA) -> Got:
    """The blob, of which the first connection goes on when a part has been asked for over another one."""
    getting = asyncio.create_task(proxy.get(blob(sha256(data))))
    before = len(parts(*registries))
    # Whichever is asked first.
    waiting = [
        asyncio.create_task(each.wait_for(lambda: len(parts(*registries)) > before or gate.is_set()))
        for each in registries
    ]
    await asyncio.wait([*waiting, getting], return_when=asyncio.FIRST_COMPLETED)
    gate.set()
    for each in waiting:
        each.cancel()
    return await getting


async def parts_ended() -> None:
    """Until no part is being asked for or sent."""
    while any(task.get_name().startswith("segment") for task in asyncio.all_tasks()):  # noqa: ASYNC110 (turns)
        await asyncio.sleep(0)


def check(got: Got, data: bytes = DATA) -> None:
    assert (got.status, got.cut, got.digest) == (200, None, sha256(data))


def check_covered(found: list[tuple[int, int]], size: int) -> None:
    """Every byte from the first part on was asked for once."""
    assert found[0][0] <= BEGUN + SEGMENT
    assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]
    assert found[-1][1] == size


@pytest.mark.parametrize("size", [2 * SEGMENT, 3 * SEGMENT + 1, 12 * SEGMENT - 1])
async def test_all_is_asked_for_once_and_put_together(size: int, setup: Setup, mirror: FakeRegistry) -> None:
    data = content(size)
    gate = slow(mirror, data)
    proxy = setup.proxy(None, mirror, **small())
    check(await pull(proxy, gate, mirror, data=data), data)
    check_covered(parts(mirror), size)
    assert len(mirror.requests) == 1 + len(parts(mirror))
    assert proxy.cached() == {sha256(data)}
    assert proxy.unfinished() == []


async def test_large_segments(setup: Setup, mirror: FakeRegistry) -> None:
    """Bodies that are read by threads of their own, in pieces larger than those that they are put aside in."""
    data = content(5 * SEGMENT * 40 + 1)

    def tuned(config: Config) -> Config:
        return replace(config, downloads=replace(config.downloads, segment_size=40 * SEGMENT))

    gate = slow(mirror, data)
    check(await pull(setup.proxy(None, mirror, tuned=tuned), gate, mirror, data=data), data)
    found = parts(mirror)
    assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]


async def test_no_more_connections_than_allowed_and_not_too_far_ahead(setup: Setup, mirror: FakeRegistry) -> None:
    """While the front is held back, all that may be put aside is what as many connections bring in one go."""
    data = content(40 * SEGMENT)
    gate = slow(mirror, data)
    proxy = setup.proxy(None, mirror, **small(connections=3))
    held = asyncio.Event()
    mirror.inject(OfParts(Held(held)), kind="blob")
    getting = asyncio.create_task(proxy.get(blob(sha256(data))))
    await mirror.wait_for(lambda: len(parts(mirror)) == 2)
    await asyncio.sleep(0.05)
    assert len(parts(mirror)) == 2
    held.set()
    await mirror.wait_for(lambda: sum(seen.sent for seen in mirror.requests) == BEGUN + 3 * SEGMENT)
    await asyncio.sleep(0.05)
    assert len(parts(mirror)) == 3
    gate.set()
    check(await getting, data)


async def test_one_connection_is_one_stream(setup: Setup, mirror: FakeRegistry) -> None:
    gate = slow(mirror)
    proxy = setup.proxy(None, mirror, **small(connections=1))
    getting = asyncio.create_task(proxy.get(blob(DIGEST)))
    await mirror.wait_for(lambda: mirror.requests[0].sent == BEGUN if mirror.requests else False)
    await asyncio.sleep(0.2)
    gate.set()
    check(await getting)
    assert len(mirror.requests) == 1


async def test_readers_get_the_front_while_the_rest_is_held_back(setup: Setup, mirror: FakeRegistry) -> None:
    gate, rest = slow(mirror), asyncio.Event()
    mirror.inject(OfParts(Held(rest)), kind="blob")
    proxy = setup.proxy(None, mirror, **small())
    body = unread((await proxy.ask("GET", blob(DIGEST))).body)
    await mirror.wait_for(lambda: len(parts(mirror)) == 3)
    gate.set()
    data = b""
    # The last byte is held back while nobody knows whether it is right.
    while len(data) < parts(mirror)[0][0] - 1:
        data += await body.read()
    assert DATA.startswith(data)
    rest.set()
    while piece := await body.read():
        data += piece
    await body.close()
    assert data == DATA


async def test_mirrors_share_it_and_the_origin_is_spared(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirrors = [mirror, await setup.registry(), await setup.registry()]
    gate = slow(mirror)
    for registry in (*mirrors[1:], origin):
        registry.content.put_blob(NAME, DATA)
    proxy = setup.proxy(origin, *mirrors, **small())
    check(await pull(proxy, gate, *mirrors))
    check_covered(parts(*mirrors), len(DATA))
    assert all(map(parts, mirrors))
    assert origin.requests == []


async def test_the_origin_alone_is_asked_for_what_it_alone_has(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    gate = slow(origin)
    proxy = setup.proxy(origin, mirror, **small())
    check(await pull(proxy, gate, origin))
    assert len(mirror.requests) == 1
    check_covered(parts(origin), len(DATA))


async def test_private_content_is_asked_for_as_its_reader_may(setup: Setup) -> None:
    auth = BearerAuth(Policy(private={NAME: {"alice"}}))
    origin = await setup.registry(auth=auth)
    auth.tokens["alices"] = {NAME: {"pull"}}
    origin.content.put_blob(NAME, DATA)
    gate = asyncio.Event()
    origin.inject(Slow(gate, after=BEGUN), kind="blob", times=3)
    proxy = setup.proxy(origin, **small())
    getting = asyncio.create_task(proxy.get(blob(DIGEST), Authorization="Bearer alices"))
    await origin.wait_for(lambda: any(seen.status == 206 for seen in origin.requests))
    gate.set()
    check(await getting)
    assert {seen.authorization for seen in origin.requests if span(seen)} == {"Bearer alices"}


@dataclass(frozen=True)
class Whole:
    """200, and all of it, to a Range."""

    data: bytes

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.status, answer.body = 200, self.data
        answer.headers.popall("Content-Range", None)


REFUSALS: list[object] = [
    pytest.param(Whole(DATA), id="200"),
    pytest.param(Status(429), id="429"),
    pytest.param(Status(503, {"Retry-After": "60"}), id="503"),
    pytest.param(Close(), id="closed"),
    pytest.param(Headers({"ETag": '"another"'}), id="another ETag"),
    pytest.param(Headers({"Content-Range": "bytes 0-1/7"}), id="another range"),
]


@pytest.mark.parametrize("fault", REFUSALS)
async def test_who_does_not_send_parts_is_asked_for_no_more_of_them(
    fault: Fault, setup: Setup, mirror: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    after = content(len(DATA), seed=1)
    gate, later = slow(mirror), slow(mirror, after)
    mirror.inject(Headers({"ETag": '"one"'}), kind="blob")
    mirror.inject(OfParts(fault), kind="blob")
    proxy = setup.proxy(None, mirror, **small())
    getting = asyncio.create_task(proxy.get(blob(DIGEST)))
    await mirror.wait_for(lambda: len(parts(mirror)) > 0)
    await parts_ended()
    gate.set()
    check(await getting)
    # The first connection has brought all.
    assert [seen.sent for seen in mirror.requests if not span(seen)] == [len(DATA)]
    assert "asked last" not in caplog.text, "it is well, and counts as failed"
    asked = len(parts(mirror))
    getting = asyncio.create_task(proxy.get(blob(sha256(after))))
    await mirror.wait_for(lambda: mirror.requests[-1].sent == BEGUN)
    await asyncio.sleep(0.2)
    later.set()
    check(await getting, after)
    assert len(parts(mirror)) == asked


async def test_a_mirror_that_cannot_be_reached_costs_the_parts_nothing(setup: Setup, mirror: FakeRegistry) -> None:
    gate = slow(mirror)
    proxy = setup.proxy(None, mirror, closed_port(), **small())
    check(await pull(proxy, gate, mirror))
    check_covered(parts(mirror), len(DATA))


async def test_a_part_that_breaks_off_goes_on_at_the_next_mirror(setup: Setup, mirror: FakeRegistry) -> None:
    second = await setup.registry()
    second.content.put_blob(NAME, DATA)
    second.inject(OfParts(Truncate(10_000), times=1), kind="blob")
    gate = slow(mirror)
    proxy = setup.proxy(None, mirror, second, **small())
    check(await pull(proxy, gate, mirror, second))
    (broken, *_) = parts(second)
    assert (broken[0] + 10_000, broken[1]) in parts(mirror)


async def test_a_part_that_nobody_sends_to_its_end_is_left_to_the_front(setup: Setup, mirror: FakeRegistry) -> None:
    """What had come of it is not asked for again."""
    gate = slow(mirror)
    mirror.inject(OfParts(Truncate(10_000), times=1), kind="blob")
    mirror.inject(OfParts(Later(Status(404))), kind="blob")
    proxy = setup.proxy(None, mirror, **small())
    getting = asyncio.create_task(proxy.get(blob(DIGEST)))
    await mirror.wait_for(lambda: len(parts(mirror)) > 0)
    await parts_ended()
    gate.set()
    check(await getting)
    assert mirror.requests[-1].headers["Range"] == f"bytes={parts(mirror)[0][0] + 10_000}-"


class Later:
    """A fault of all but the first."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._seen = 0

    def apply(self, answer: Answer, request: Seen) -> None:
        self._seen += 1
        if self._seen > 1:
            self._fault.apply(answer, request)


async def test_a_part_that_hangs_does_not_hold_up_what_others_send_quickly(setup: Setup, mirror: FakeRegistry) -> None:
    second = await setup.registry()
    second.content.put_blob(NAME, DATA)
    second.inject(OfParts(Slow(asyncio.Event(), after=BEGUN)), kind="blob")
    gate = slow(mirror)
    proxy = setup.proxy(None, mirror, second, **small())
    check(await pull(proxy, gate, mirror, second))


async def test_wrong_bytes_in_one_part_are_blamed_on_whoever_sent_any(
    setup: Setup, mirror: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    second = await setup.registry()
    second.content.put_blob(NAME, DATA)
    second.inject(OfParts(Corrupt()), kind="blob")
    mirror.content.put_blob(NAME, DATA)
    gates = [asyncio.Event(), asyncio.Event()]
    mirror.inject(Gates(gates.copy()), kind="blob", method="GET")
    proxy = setup.proxy(None, mirror, second, **small())

    def wholes() -> list[int]:
        return [number for number, seen in enumerate(mirror.requests) if "Range" not in seen.headers]

    async def again() -> int:
        """Lets the second try go on when it is split, too; how often the liar had been asked before."""
        await mirror.wait_for(lambda: len(wholes()) == 2)
        asked = len(second.requests)
        await mirror.wait_for(lambda: any(map(span, mirror.requests[wholes()[1] :])))
        gates[1].set()
        return asked

    trying = asyncio.create_task(again())
    got = await pull(proxy, gates[0], mirror, second)
    assert got.cut
    assert len(got.data) < len(DATA)
    for registry in mirror, second:
        assert f"{registry.endpoint}: sent something else" in caplog.text
    # One of them alone is asked the next time.
    assert len(second.requests) == await trying
    check(await proxy.get(blob(DIGEST)))
    assert proxy.cached() == {DIGEST}
    assert len(second.requests) == await trying


@dataclass
class Gates:
    """Each answer to a request for the whole stops at a gate of its own."""

    gates: list[asyncio.Event]

    def apply(self, answer: Answer, request: Seen) -> None:
        if "Range" not in request.headers:
            Slow(self.gates.pop(0), after=BEGUN).apply(answer, request)


async def test_what_a_killed_process_left_is_gone_on_with(setup: Setup, mirror: FakeRegistry) -> None:
    gate = slow(mirror)
    proxy = setup.proxy(None, mirror, **small())
    left = SEGMENT + 77
    (proxy.cache / "partial" / DIGEST.replace(":", "-")).write_bytes(DATA[:left])
    check(await pull(proxy, gate, mirror))
    assert mirror.requests[0].headers["Range"] == f"bytes={left - 1}-"
    found = parts(mirror)
    assert found[0][0] > left
    check_covered([(start - left, end - left) for start, end in found], len(DATA) - left)


async def test_a_download_that_is_called_off_leaves_nothing_open(setup: Setup, mirror: FakeRegistry) -> None:
    slow(mirror)
    held = asyncio.Event()
    mirror.inject(OfParts(Slow(held, after=BEGUN)), kind="blob")
    proxy = setup.proxy(None, mirror, **small())
    before = len(os.listdir("/proc/self/fd"))
    body = unread((await proxy.ask("GET", blob(DIGEST))).body)
    await mirror.wait_for(lambda: sum(seen.sent for seen in mirror.requests) == 4 * BEGUN)
    tasks = [task for task in asyncio.all_tasks() if DIGEST in task.get_name()]
    assert len(tasks) >= 4
    await body.close()
    await asyncio.wait(tasks)
    assert not [task for task in asyncio.all_tasks() if DIGEST in task.get_name()]
    # The partial is all that is left of it, for the next one.
    assert proxy.unfinished()
    # The servers' ends go when they notice.
    async with asyncio.timeout(10):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 (a turn of the loop)
            await asyncio.sleep(0)


# Without a cache around it.


@asynccontextmanager
async def asking(setup: Setup, mirror: FakeRegistry) -> AsyncIterator[tuple[Sources, Search]]:
    proxy = setup.proxy(None, mirror)
    rule = proxy.config.rule(REGISTRY, 443)
    assert rule
    current = Current(proxy.config)
    upstream = Upstream(current, Via(Fingerprints(b"tests")))
    sources = Sources(upstream, current, proxy.access, Tally())
    yield sources, sources.of(rule, "GET", Blob(NAME, Digest.parse(DIGEST)), ANYBODY)
    await upstream.close()


async def poured(search: Search, gate: asyncio.Event, folder: Path, said: Callable[[], bool]) -> bytes:
    """What came, when the first connection has gone on after something was `said`."""
    data = bytearray()
    download = Segments(search, Pace(0, 60), Splitting(SEGMENT, 4), partial(Spool, folder))

    def write(piece: Buffer) -> None:
        data.extend(memoryview(piece))

    async def moved() -> None:
        pass

    await download.open()
    pouring = asyncio.create_task(download.pour(write, moved))
    while not said():  # noqa: ASYNC110 (turns)
        await asyncio.sleep(0)
    gate.set()
    await pouring
    await download.close()
    return bytes(data)


@contextmanager
def full_disk() -> Iterator[None]:
    """Files end in the middle of a segment, for root too: writing on fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT // 2, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_gets_full_ends_the_splitting_not_the_download(
    setup: Setup, mirror: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = slow(mirror)
    async with asking(setup, mirror) as (_, search):
        with full_disk():
            data = await poured(search, gate, tmp_path, lambda: "no more can be put aside" in caplog.text)
    assert data == DATA


async def test_where_nothing_can_be_put_aside_it_comes_as_one(
    setup: Setup, mirror: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = slow(mirror)
    async with asking(setup, mirror) as (_, search):
        data = await poured(search, gate, tmp_path / "nowhere", lambda: "nothing can be put aside" in caplog.text)
    assert data == DATA
    assert parts(mirror) == []
    assert mirror.requests[0].sent == len(DATA)


async def test_manifests_are_not_asked_for_in_parts(setup: Setup, mirror: FakeRegistry) -> None:
    """Each would be counted as a pull."""
    mirror.content.put_manifest(NAME, DIGEST, DATA, "application/json")
    async with asking(setup, mirror) as (sources, search):
        rule = setup.proxy(None, mirror).config.rule(REGISTRY, 443)
        assert rule
        for asked, sharing in (Manifest(NAME, Digest.parse(DIGEST)), 0), (Blob(NAME, Digest.parse(DIGEST)), 1):
            mirror.content.put_blob(NAME, DATA)
            search = sources.of(rule, "GET", asked, ANYBODY)
            async with await search.next():
                assert len(search.sharing(1)) == sharing
