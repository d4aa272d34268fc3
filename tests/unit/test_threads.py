"""Work in threads: who is told of it, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from addon.threads import attend, finish

if TYPE_CHECKING:
    from collections.abc import Callable


class Count:
    """How often something has moved."""

    def __init__(self) -> None:
        self.value = 0
        self.moved = asyncio.Event()

    async def __call__(self) -> None:
        self.value += 1
        self.moved.set()


def never() -> None:
    raise AssertionError("nobody was to stop it")


async def test_it_is_told_of_what_moves_and_at_the_end() -> None:
    moved, go_on = Count(), threading.Event()

    def work(tell: Callable[[], None]) -> str:
        tell()
        assert go_on.wait(10)
        return "done"

    attending = asyncio.create_task(attend(work, moved, never))
    await moved.moved.wait()
    assert (moved.value, attending.done()) == (1, False)
    go_on.set()
    assert await attending == "done"
    assert moved.value == 2


async def test_much_that_moves_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loop is busy, nobody piles up what it has to do."""
    moved, worked = Count(), threading.Event()
    loop = asyncio.get_running_loop()
    call_soon, calls = loop.call_soon_threadsafe, []

    def counted(*args: Any) -> asyncio.Handle:
        calls.append(args)
        return call_soon(*args)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)

    def work(tell: Callable[[], None]) -> None:
        for _ in range(1000):
            tell()
        worked.set()

    attending = asyncio.create_task(attend(work, moved, never))
    await asyncio.sleep(0)
    assert worked.wait(10)
    await attending
    assert len(calls) <= 3
    assert moved.value <= 2


async def test_what_goes_wrong_is_raised() -> None:
    def work(_: Callable[[], None]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await attend(work, Count(), never)


@pytest.mark.parametrize("times", [1, 3])
async def test_who_is_cancelled_stops_it_and_waits_for_its_end(times: int) -> None:
    begun, stopped, go_on = threading.Event(), threading.Event(), threading.Event()
    done = []

    def work(_: Callable[[], None]) -> None:
        begun.set()
        assert stopped.wait(10)
        assert go_on.wait(10)
        done.append(True)

    attending = asyncio.create_task(attend(work, Count(), stopped.set))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(times):
        attending.cancel()
        await asyncio.sleep(0)
    assert not attending.done()
    assert stopped.is_set()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await attending
    assert done


async def test_work_that_is_finished_is_finished_however_often_it_is_cancelled() -> None:
    """A download may be given up, and then the proxy stops: its file must not be closed under it."""
    begun, go_on = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        begun.set()
        assert go_on.wait(10)
        done.append(True)

    working = asyncio.create_task(finish(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        working.cancel()
        await asyncio.sleep(0)
    assert not working.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert done


async def test_a_hundred_that_wait_leave_the_common_threads_to_others() -> None:
    go_on = threading.Event()

    def work(tell: Callable[[], None]) -> None:
        assert go_on.wait(30)

    attending = [asyncio.create_task(attend(work, Count(), go_on.set)) for _ in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert await asyncio.to_thread(lambda: "read") == "read"
        go_on.set()
        await asyncio.gather(*attending)
