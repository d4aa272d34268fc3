"""A download whose last client has left: it goes on when enough is in, and else waits for the next client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.faults import Slow

from engine.harness import NAME, blob
from engine.test_coalescing import unread
from engine.test_shared_fills import DATA, DIGEST, SIZE

if TYPE_CHECKING:
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy


@pytest.fixture
async def gate(mirror: FakeRegistry) -> asyncio.Event:
    mirror.content.put_blob(NAME, DATA)
    return asyncio.Event()


async def left_after(proxy: Proxy, count: int) -> None:
    """A client that leaves when it has so many bytes, and the downloads that then run no more."""
    body = unread((await proxy.ask("GET", blob(DIGEST))).body)
    data = b""
    while len(data) < count:
        data += await body.read()
    await body.close()


def download() -> asyncio.Task[object]:
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == f"fill {DIGEST}")
    return task


async def test_little_is_kept_for_the_next_one(setup: Setup, mirror: FakeRegistry, gate: asyncio.Event) -> None:
    mirror.inject(Slow(gate, after=SIZE // 10), kind="blob", times=1)
    proxy = setup.proxy(None, mirror)
    await left_after(proxy, SIZE // 10 - 1)
    await asyncio.wait({download()}, timeout=10)
    assert proxy.cached() == set()
    assert proxy.unfinished() != []
    got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    (_, again) = mirror.seen("blob", method="GET")
    assert again.headers["Range"] == f"bytes={SIZE // 10 - 1}-"
    assert proxy.unfinished() == []


async def test_much_is_brought_to_its_end(setup: Setup, mirror: FakeRegistry, gate: asyncio.Event) -> None:
    mirror.inject(Slow(gate, after=SIZE // 2), kind="blob")
    proxy = setup.proxy(None, mirror)
    await left_after(proxy, SIZE // 2 - 1)
    running = download()
    gate.set()
    await asyncio.wait({running}, timeout=10)
    assert proxy.cached() == {DIGEST}
    assert len(mirror.requests) == 1


async def test_it_goes_on_for_whoever_is_left(setup: Setup, mirror: FakeRegistry, gate: asyncio.Event) -> None:
    mirror.inject(Slow(gate, after=SIZE // 10), kind="blob")
    proxy = setup.proxy(None, mirror)
    staying = asyncio.create_task(proxy.get(blob(DIGEST)))
    await left_after(proxy, SIZE // 10 - 1)
    gate.set()
    assert (await staying).digest == DIGEST
    assert len(mirror.requests) == 1


async def test_a_client_that_comes_back_at_once_finds_it_running(
    setup: Setup, mirror: FakeRegistry, gate: asyncio.Event
) -> None:
    """containerd leaves in the middle of a body by design, and asks for the next part."""
    mirror.inject(Slow(gate, after=SIZE // 10), kind="blob")
    proxy = setup.proxy(None, mirror, grace=60.0)
    await left_after(proxy, SIZE // 10 - 1)
    rest = asyncio.create_task(proxy.get(blob(DIGEST), Range=f"bytes={SIZE // 10}-"))
    gate.set()
    assert (await rest).data == DATA[SIZE // 10 :]
    assert len(mirror.requests) == 1
