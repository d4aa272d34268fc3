"""What is told of a whole proxy: no sum that anybody was told ever becomes less, which Prometheus would take for a new
beginning, and all of it for what has come since."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from addon.counts.facts import Answered
from addon.counts.slots import Slots
from addon.service import Service
from addon.status.reporter import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PULL = Answered(0.0, "10.0.0.7", "", "GET", "docker.io", "library/app", "1.0", "manifest", "hit", "", 200, 500, 0.002)


@asynccontextmanager
async def worker(folder: Path, number: int, slots: Slots) -> AsyncIterator[Service]:
    """One that has a folder of its own, and its counts in common with others."""
    service = Service([], folder, offline=True)
    service.place = Place(number, slots.count, slots)
    _ = service.engine
    # It has said what it has counted so far, and will not do so again for half a second.
    await asyncio.sleep(0)
    yield service
    await service.close()


async def told(service: Service) -> int:
    return sum((await service.facts()).counters.requests.values())


async def test_what_one_worker_has_told_the_next_one_that_is_asked_tells_as_well(tmp_path: Path) -> None:
    slots = Slots(2)
    async with worker(tmp_path / "one", 1, slots) as one, worker(tmp_path / "other", 2, slots) as other:
        one.tally.answered(PULL)
        assert await told(one) == 1
        assert await told(other) == 1


async def test_what_a_killed_worker_has_told_the_next_one_in_its_place_tells_as_well(tmp_path: Path) -> None:
    slots = Slots(2)
    # Nothing that it does at its end is between the two.
    async with worker(tmp_path / "killed", 1, slots) as killed:
        killed.tally.answered(PULL)
        assert await told(killed) == 1
        async with worker(tmp_path / "next", 1, slots) as successor:
            assert await told(successor) == 1


async def test_a_cache_that_cannot_be_written_is_told_of_though_nobody_pulls(tmp_path: Path) -> None:
    async with worker(tmp_path, 1, Slots(1)) as service:
        service.cache.folder.rename(tmp_path / "aside")
        facts = await service.facts()
        assert not facts.cache.writable
        assert any("the cache cannot be written" in each.what for each in facts.warnings)
