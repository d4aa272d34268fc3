"""The fills that are running here: one per digest."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from addon.counts.tally import Tally
from addon.journal import Seldom
from addon.pulls.fill import Fill, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.cache.store import Store
    from addon.config.current import Current
    from addon.oci import Digest
    from addon.pulls.fill import Asker, NewSearch

log = logging.getLogger("mirrortap")

# Seconds that a cache which could not be written is left alone.
_REST = 3.0


class Fills:
    """The fills that are running here. `write_failed` hears of it when the cache cannot be written."""

    def __init__(
        self,
        store: Store,
        current: Current,
        write_failed: Callable[[OSError], None],
        grace: float = 5.0,
        tally: Tally | None = None,
    ) -> None:
        self._store = store
        self._tally = tally or Tally()
        self._current = current
        self._write_failed = write_failed
        self._grace = grace  # seconds that a client which broke off gets to come back, as containerd does
        self._running: dict[Digest, Fill] = {}
        self._tasks: dict[Fill, asyncio.Task[None]] = {}
        self._rested = -math.inf
        self._seldom = Seldom(log)

    def running(self, digest: Digest) -> Fill | None:
        fill = self._running.get(digest)
        return None if fill is None or fill.failed else fill

    def all(self) -> list[Fill]:
        """Those that run."""
        return list(self._tasks)

    def joined(self, fill: Fill) -> None:
        """A client is served from it that it was not begun for."""
        registry, *_ = fill.asker
        self._tally.joined(registry)

    @property
    def count(self) -> int:
        """How many run."""
        return len(self._tasks)

    async def ended(self, fill: Fill) -> None:
        """Waits until the content is in the store, or will not come."""
        if task := self._tasks.get(fill):
            await asyncio.wait({task})

    @property
    def possible(self) -> bool:
        """Whether the cache could be written lately: a full disk must not cost every request a try."""
        return time.monotonic() >= self._rested

    def start(self, digest: Digest, asker: Asker, new_search: NewSearch, filled: Callable[[], None]) -> Fill:
        """Starts a fill; `new_search` asks the endpoints anew; `filled` is called when the content is in the store."""
        return self._start(digest, asker, new_search, filled, tries=2)

    def _start(
        self, digest: Digest, asker: Asker, new_search: NewSearch, filled: Callable[[], None], tries: int
    ) -> Fill:
        config = self._current.config
        fill = self._running[digest] = Fill(digest, asker, new_search, config.pace, config.splitting)
        registry, *_ = asker

        async def run() -> None:
            try:
                outcome = await fill.run(self._store)
            finally:
                # Another may have been started by whoever saw this one fail.
                if self._running.get(digest) is fill:
                    del self._running[digest]
            if fill.opening is not None:
                self._tally.began(registry, fill.opening)
            self._tally.ended(registry, outcome.value, time.monotonic() - fill.begun)
            match outcome:
                case Outcome.STORED:
                    filled()
                case Outcome.UNWRITABLE if fill.trouble:
                    self._write_failed(fill.trouble)
                    self._seldom.warning(
                        "%s cannot be written: %s; serving past it", self._store.folder, fill.trouble.strerror
                    )
                    self._rested = time.monotonic() + _REST
                case Outcome.LIED if tries > 1 and not (fill.ahead or self.running(digest)):
                    # Whoever lied is asked last now.
                    self._start(digest, asker, new_search, filled, tries - 1)

        self._tasks[fill] = asyncio.create_task(run(), name=f"fill {digest}")
        self._tasks[fill].add_done_callback(lambda _: self._tasks.pop(fill))
        fill.unwanted = lambda: self._unwanted(fill)
        return fill

    def _unwanted(self, fill: Fill) -> None:
        if fill in self._tasks:
            asyncio.get_running_loop().call_later(self._grace, self._abandon, fill)

    def _abandon(self, fill: Fill) -> None:
        keep_from = self._current.config.downloads.keep_from
        if fill in self._tasks and not (fill.readers or fill.verified or fill.failed or fill.share >= keep_from):
            log.info("%s: the last client has left; what has come is kept", fill.digest)
            self._give_up(fill)

    def drop(self, digest: Digest) -> None:
        """Ends a fill that no client has asked for yet, however much of it is in; what has come is kept."""
        fill = self.running(digest)
        if fill and fill.ahead and not fill.verified:
            self._give_up(fill)

    def _give_up(self, fill: Fill) -> None:
        fill.give_up()
        self._tasks[fill].cancel()

    async def close(self) -> None:
        """Ends what is not complete; what is goes to the disk first."""
        for fill, task in list(self._tasks.items()):
            if not fill.verified:
                task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
