"""Ranges of what is still being downloaded: what is there is served at once, what is far ahead is fetched by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.faults import Slow, Status, Truncate
from support.images import sha256

from engine.harness import NAME, blob, read
from engine.test_coalescing import unread

if TYPE_CHECKING:
    from support.registry import FakeRegistry

    from engine.conftest import Setup

SIZE = 12_000_000
DATA = bytes(number % 251 for number in range(SIZE))
DIGEST = sha256(DATA)
FAR = SIZE - 1_000_000


@pytest.fixture
async def gate(mirror: FakeRegistry) -> asyncio.Event:
    """While it is closed, the download has only 100 kB."""
    mirror.content.put_blob(NAME, DATA)
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=100_000), kind="blob", times=1)
    return gate


async def test_what_is_far_ahead_does_not_wait_for_the_rest(
    setup: Setup, mirror: FakeRegistry, gate: asyncio.Event
) -> None:
    proxy = setup.proxy(None, mirror)
    whole = asyncio.create_task(proxy.get(blob(DIGEST)))
    await mirror.wait_for(lambda: bool(mirror.requests))
    for asked, start, end in (f"{FAR}-", FAR, SIZE), (f"{FAR}-{FAR + 99}", FAR, FAR + 100), ("-5", SIZE - 5, SIZE):
        got = await proxy.get(blob(DIGEST), Range=f"bytes={asked}")
        assert (got.status, got.cut) == (206, None)
        assert got.data == DATA[start:end]
        assert got.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert not whole.done()
    gate.set()
    assert (await whole).digest == DIGEST
    # The download was not disturbed, and what is here now is not fetched again.
    asked_for = [seen.headers.get("Range") for seen in mirror.requests]
    assert asked_for == [None, f"bytes={FAR}-{SIZE - 1}", f"bytes={FAR}-{FAR + 99}", f"bytes={SIZE - 5}-{SIZE - 1}"]
    assert (await proxy.get(blob(DIGEST), Range=f"bytes={FAR}-")).data == DATA[FAR:]
    assert len(mirror.requests) == 4


async def test_what_is_there_already_is_served_at_once(setup: Setup, mirror: FakeRegistry, gate: asyncio.Event) -> None:
    proxy = setup.proxy(None, mirror)
    whole = asyncio.create_task(proxy.get(blob(DIGEST)))
    got = await proxy.get(blob(DIGEST), Range="bytes=1000-90000")
    assert (got.data, got.cut) == (DATA[1000:90001], None)
    assert not whole.done()
    gate.set()
    assert (await whole).digest == DIGEST
    assert len(mirror.requests) == 1


async def test_what_is_near_waits(setup: Setup, mirror: FakeRegistry, gate: asyncio.Event) -> None:
    proxy = setup.proxy(None, mirror)
    reply = await proxy.ask("GET", blob(DIGEST), {"Range": "bytes=200000-"})
    gate.set()
    assert (await read(reply)).data == DATA[200_000:]
    assert len(mirror.requests) == 1


async def test_a_far_part_goes_on_elsewhere_when_it_breaks_off(
    setup: Setup, mirror: FakeRegistry, gate: asyncio.Event
) -> None:
    second = await setup.registry()
    second.content.put_blob(NAME, DATA)
    proxy = setup.proxy(None, mirror, second)
    whole = await proxy.ask("GET", blob(DIGEST))
    mirror.inject(Truncate(500_000), kind="blob")
    got = await proxy.get(blob(DIGEST), Range=f"bytes={FAR}-")
    assert (got.data, got.cut) == (DATA[FAR:], None)
    assert second.seen("blob")[0].headers["Range"].endswith(f"-{SIZE - 1}")
    await unread(whole.body).close()


async def test_a_far_part_that_nobody_sends_by_itself_is_waited_for(
    setup: Setup, mirror: FakeRegistry, gate: asyncio.Event
) -> None:
    proxy = setup.proxy(None, mirror)
    whole = asyncio.create_task(proxy.get(blob(DIGEST)))
    await mirror.wait_for(lambda: bool(mirror.requests))
    mirror.inject(Status(503), kind="blob")
    far = asyncio.create_task(proxy.get(blob(DIGEST), Range=f"bytes={FAR}-"))
    await mirror.wait_for(lambda: len(mirror.requests) == 2)
    gate.set()
    assert (await far).data == DATA[FAR:]
    assert (await whole).digest == DIGEST


async def test_who_reads_far_ahead_keeps_the_download_going(
    setup: Setup, mirror: FakeRegistry, gate: asyncio.Event
) -> None:
    proxy = setup.proxy(None, mirror)
    whole = await proxy.ask("GET", blob(DIGEST))
    far = await proxy.ask("GET", blob(DIGEST), {"Range": f"bytes={FAR}-"})
    await unread(whole.body).close()
    assert (await read(far)).data == DATA[FAR:]
    gate.set()
    assert (await proxy.get(blob(DIGEST))).digest == DIGEST
    assert mirror.seen("blob")[-1].headers["Range"] == f"bytes={FAR}-{SIZE - 1}"
