"""Byte ranges: of what is here, of what is still coming, and of what has to be fetched for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.faults import Chunked, Corrupt, Slow
from support.ranges import check, headers

from addon.body import CHUNK
from engine.harness import NAME, TAG, blob, read

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy

SIZE = 1000
DATA = bytes(number % 251 for number in range(SIZE))

RANGES = [
    ("bytes=0-", 0, SIZE),
    ("bytes=0-0", 0, 1),
    ("bytes=10-19", 10, 20),
    ("bytes=990-", 990, SIZE),
    ("bytes=999-", 999, SIZE),
    ("bytes=990-5000", 990, SIZE),
    ("bytes=-10", 990, SIZE),
    ("bytes=-5000", 0, SIZE),
]
WHOLE = [
    "bytes=0-1,5-6,7",
    "bytes=0-,0-",
    "bytes=20-10",
    "bytes=a-b",
    "bytes=-",
    "bytes",
    "items=0-5",
    "bytes=" + "9" * 100_000 + "-",
    "",
]
SEVERAL = [
    "bytes=0-9,20-29",
    "bytes=990-,0-9",
    "bytes=-1,5-5,1000-,500-599,5-5",
    "bytes=0-499,500-",
]
NOTHING = ["bytes=1000-", "bytes=1000-,-0", "bytes=1000-2000", "bytes=999999999999-", "bytes=-0"]


@pytest.fixture
def digest(mirror: FakeRegistry) -> str:
    return mirror.content.put_blob(NAME, DATA)


def check_part(got: Got, start: int, end: int) -> None:
    assert (got.status, got.data, got.cut) == (206, DATA[start:end], None)
    assert got.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert got.headers["Content-Length"] == str(end - start)
    assert got.headers["Accept-Ranges"] == "bytes"


def check_answer(got: Got, header: str | None, data: bytes) -> None:
    check(header, data, "application/octet-stream", got.status, got.headers, got.data)


def opened(proxy: Proxy) -> list[str]:
    """The files with content that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            file = os.readlink(f"/proc/self/fd/{number}")
            if Path(file).is_relative_to(proxy.cache) and Path(file).parent != proxy.cache:
                found.append(file)
    return found


@pytest.mark.parametrize(("header", "start", "end"), RANGES, ids=[each[0] for each in RANGES])
async def test_a_part_of_a_hit_and_of_a_miss(
    header: str, start: int, end: int, setup: Setup, mirror: FakeRegistry, digest: str
) -> None:
    proxy = setup.proxy(None, mirror)
    cold = await proxy.get(blob(digest), Range=header)
    check_part(cold, start, end)
    assert cold.headers["Docker-Content-Digest"] == digest
    whole = await proxy.get(blob(digest))
    assert (whole.status, whole.data, "Content-Range" in whole.headers) == (200, DATA, False)
    warm = await proxy.get(blob(digest), Range=header)
    check_part(warm, start, end)
    assert warm.headers["Cache-Status"] == "mirrortap; hit"
    (asked,) = mirror.requests
    assert "Range" not in asked.headers, "the whole is fetched, whoever asks for a part of it"


@pytest.mark.parametrize("header", SEVERAL)
async def test_several_parts_of_a_hit_and_of_a_miss(
    header: str, setup: Setup, mirror: FakeRegistry, digest: str
) -> None:
    proxy = setup.proxy(None, mirror)
    cold = await proxy.get(blob(digest), Range=header)
    await proxy.get(blob(digest))
    warm = await proxy.get(blob(digest), Range=header)
    for got in cold, warm:
        assert (got.status, got.cut, got.headers["Docker-Content-Digest"]) == (206, None, digest)
        assert got.headers["Content-Type"].startswith("multipart/byteranges")
        check_answer(got, header, DATA)
    assert warm.headers["Cache-Status"] == "mirrortap; hit"
    assert opened(proxy) == []


async def test_of_several_parts_the_one_that_cannot_come_cuts_the_transfer(
    setup: Setup, mirror: FakeRegistry, digest: str
) -> None:
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=400), kind="blob")
    mirror.inject(Corrupt(), kind="blob")
    proxy = setup.proxy(None, mirror)
    reply = await proxy.ask("GET", blob(digest), {"Range": "bytes=100-199,-1"})
    assert not isinstance(reply.body, bytes)
    assert b"Content-Range: bytes 100-199/1000" in await reply.body.read()
    assert await reply.body.read() == DATA[100:200]
    gate.set()
    got = await read(reply)
    assert got.status == 206
    assert "sent a bad" in (got.cut or "")
    assert got.data == b"" or got.data.endswith(b"Content-Range: bytes 999-999/1000\r\n\r\n")
    # The download is tried once more, by itself.
    while opened(proxy):  # noqa: ASYNC110 (a turn of the loop, not a length of time)
        await asyncio.sleep(0)


async def test_a_range_that_may_be_ignored_gives_the_whole(setup: Setup, mirror: FakeRegistry, digest: str) -> None:
    proxy = setup.proxy(None, mirror)
    for header in WHOLE:
        got = await proxy.get(blob(digest), Range=header)
        assert (header, got.status, got.data) == (header, 200, DATA)
        assert got.headers["Content-Length"] == str(SIZE)


async def test_a_range_outside_is_416(setup: Setup, mirror: FakeRegistry, digest: str) -> None:
    for header in NOTHING:
        proxy = setup.proxy(None, mirror)
        for _ in range(2):
            got = await proxy.get(blob(digest), Range=header)
            assert (header, got.status, got.data) == (header, 416, b"")
            assert (got.headers["Content-Range"], got.headers["Content-Length"]) == (f"bytes */{SIZE}", "0")
        assert (await proxy.get(blob(digest))).data == DATA


async def test_of_an_empty_blob_every_range_is_outside(setup: Setup, mirror: FakeRegistry) -> None:
    digest = mirror.content.put_blob(NAME, b"")
    proxy = setup.proxy(None, mirror)
    for _ in range(2):
        assert (await proxy.get(blob(digest), Range="bytes=0-")).status == 416


async def test_head_knows_no_ranges(setup: Setup, mirror: FakeRegistry, digest: str) -> None:
    proxy = setup.proxy(None, mirror)
    for _ in range(2):
        for header in "bytes=10-19", "bytes=5000-":
            head = await proxy.head(blob(digest), Range=header)
            assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
            assert "Content-Range" not in head.headers
        await proxy.get(blob(digest))


@pytest.mark.parametrize("running", [False, True], ids=["hit", "running"])
async def test_if_range_decides_whether_the_part_will_do(
    running: bool, setup: Setup, mirror: FakeRegistry, digest: str
) -> None:
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=500), kind="blob")
    proxy = setup.proxy(None, mirror)
    first = await proxy.ask("GET", blob(digest))
    etag = dict(first.headers)["ETag"]
    if not running:
        gate.set()
        await read(first)
    same = await proxy.ask("GET", blob(digest), {"Range": "bytes=10-19", "If-Range": etag})
    others = [
        await proxy.ask("GET", blob(digest), {"Range": "bytes=10-19", "If-Range": other})
        for other in ('"another"', f"W/{etag}", "Sat, 29 Oct 1994 19:43:31 GMT")
    ]
    gate.set()
    check_part(await read(same), 10, 20)
    for other in others:
        got = await read(other)
        assert (got.status, got.data) == (200, DATA)
    if running:
        assert (await read(first)).data == DATA


async def test_a_part_that_is_there_comes_while_the_rest_is_coming(
    setup: Setup, mirror: FakeRegistry, digest: str
) -> None:
    """containerd asks for several parts at once, and leaves each in the middle, by design."""
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=500), kind="blob")
    proxy = setup.proxy(None, mirror)
    check_part(await proxy.get(blob(digest), Range="bytes=100-199"), 100, 200)
    later = [await proxy.ask("GET", blob(digest), {"Range": header}) for header in ("bytes=450-549", "bytes=-1")]
    leaving = await proxy.ask("GET", blob(digest), {"Range": "bytes=200-"})
    assert not isinstance(leaving.body, bytes)
    await leaving.body.read()
    await leaving.body.close()
    reading = [asyncio.create_task(read(reply)) for reply in later]
    gate.set()
    check_part(await reading[0], 450, 550)
    check_part(await reading[1], 999, 1000)
    assert len(mirror.requests) == 1


async def test_of_a_length_that_is_not_known_yet_the_whole_comes(
    setup: Setup, mirror: FakeRegistry, digest: str
) -> None:
    mirror.inject(Chunked(), times=1)
    proxy = setup.proxy(None, mirror)
    got = await proxy.get(blob(digest), Range="bytes=10-19")
    assert (got.status, got.data) == (200, DATA)
    assert "Content-Range" not in got.headers
    check_part(await proxy.get(blob(digest), Range="bytes=10-19"), 10, 20)


async def test_manifests_come_whole(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    got = await proxy.get(TAG, Range="bytes=0-9")
    assert got.data == (image.manifest.data if got.status == 200 else image.manifest.data[:10])
    assert got.headers["Content-Length"] == str(len(got.data))


# --- held against the model ---


@pytest.fixture
async def proxy(setup: Setup, mirror: FakeRegistry) -> Proxy:
    return setup.proxy(None, mirror)


# One proxy and one registry for all examples, each of which has new content.
examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.integers(0, 300) | st.integers(CHUNK - 2, 2 * CHUNK + 2)


@settings(examples, max_examples=50)
@given(asked=sizes.flatmap(lambda size: st.tuples(st.just(size), headers(size))))
async def test_an_answer_is_what_the_model_says(
    proxy: Proxy, mirror: FakeRegistry, asked: tuple[int, str | None]
) -> None:
    size, header = asked
    data = os.urandom(size)
    target = blob(mirror.content.put_blob(NAME, data))
    ask = {} if header is None else {"Range": header}
    check_answer(await proxy.get(target, **ask), header, data)
    assert (await proxy.get(target)).data == data
    check_answer(await proxy.get(target, **ask), header, data)
    assert opened(proxy) == []


@settings(examples, max_examples=40)
@given(
    size=st.integers(1000, 300_000),
    stop=st.floats(0, 1),
    turns=st.integers(0, 50),
    readers=st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(0, 1)), min_size=1, max_size=8),
)
@example(size=300_000, stop=0.5, turns=50, readers=[(0, 0.1), (0.3, 0.1), (0.6, 0.1), (0.9, 0.01), (0.3, None)])
async def test_many_readers_from_here_on_each_get_what_is_there(
    proxy: Proxy,
    mirror: FakeRegistry,
    size: int,
    stop: float,
    turns: int,
    readers: list[tuple[float, float | None]],
) -> None:
    """As containerd does it: all ask for `bytes=N-` at once, and leave (or not) when they have what they want.

    Where they begin, how much they want and where the download stops for a while are shares of the whole.
    """
    data = os.urandom(size)
    digest = mirror.content.put_blob(NAME, data)
    gate, after = asyncio.Event(), int(stop * size)
    mirror.inject(Slow(gate, after), path=f"*{digest}")

    async def reader(start: int, most: int) -> None:
        reply = await proxy.ask("GET", blob(digest), {"Range": f"bytes={start}-"})
        if start == size:
            assert reply.status == 416
            return
        assert (reply.status, dict(reply.headers)["Content-Range"]) == (206, f"bytes {start}-{size - 1}/{size}")
        assert not isinstance(reply.body, bytes)
        got = b""
        while len(got) < most and (piece := await reply.body.read()):
            got += piece
        await reply.body.close()
        assert len(got) >= min(most, size - start)
        assert got == data[start : start + len(got)]

    async def parts() -> None:
        header = f"bytes={after}-{after},{size // 2}-{size // 2 + 99},0-99"
        check_answer(await proxy.get(blob(digest), Range=header), header, data)

    async def go_on() -> None:
        await mirror.wait_for(lambda: mirror.traffic.sent[digest] >= after)
        for _ in range(turns):
            await asyncio.sleep(0)
        gate.set()

    async with asyncio.TaskGroup() as together:
        for begin, share in readers:
            together.create_task(reader(int(begin * size), size if share is None else int(share * size)))
        together.create_task(parts())
        together.create_task(go_on())
    got = await proxy.get(blob(digest))
    assert (got.data, got.cut) == (data, None)
    assert opened(proxy) == []
