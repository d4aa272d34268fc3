"""The CA in use: opened anew while the proxy runs, before its intermediate ends and when its files have changed."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from addon.journal import Seldom
from ca.authority import Authority, AuthorityError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from addon.config.model import Lives

log = logging.getLogger("mirrortap")

# Seconds between two looks, at most: a clock that is set, or a file that changes, is noticed by then.
_INTERVAL = 60.0
# Seconds between two lines about a renewal that fails, and between two rounds of the CA's warnings.
_FAILING = 3600.0
_WARNING = 24 * 3600.0


class Renewal:
    """Of one process; where several share a folder, each notices what another has renewed."""

    def __init__(self, folder: Path, names: Collection[str], lives: Lives) -> None:
        """Opens the CA in `folder`. Raises AuthorityError."""
        self._folder = folder
        self._names = names
        self._lives = lives
        self._failing = Seldom(log, seconds=_FAILING)
        self._next_warning = -math.inf
        self._looking = asyncio.Lock()
        self._opening = threading.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._open()

    @property
    def authority(self) -> Authority:
        """The one in use."""
        return self._authority

    async def valid(self) -> Authority:
        """The one in use, opened anew if it is not valid now: the machine may have slept, or its clock been set."""
        begin, end = self._valid()
        if not begin <= datetime.now(UTC) < end:
            await self.look()
        return self._authority

    def change(self, names: Collection[str], lives: Lives) -> None:
        """From now on for these. Raises AuthorityError, and then all stays as it was. Not for the event loop."""
        with self._opening:
            before = self._names, self._lives
            if before == (names, lives):
                return
            self._names, self._lives = names, lives
            try:
                self._look(due=True)
            except BaseException:
                self._names, self._lives = before
                raise

    def start(self) -> None:
        """Needs a running event loop."""
        self._watching = asyncio.create_task(self._watch(), name="renew the CA")

    async def close(self) -> None:
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def look(self) -> None:
        """Opens the CA anew if that is due; if it fails, the one in use stays. Never raises."""
        async with self._looking:
            try:
                # Files and keys take their time, and another process may hold the folder's lock.
                await asyncio.to_thread(self._look_alone)
            except AuthorityError as error:
                self._failing.warning("the CA cannot be renewed: %s; the one in use %s", error, self._end())
            except Exception:
                log.exception("the CA cannot be renewed: a fault in mirrortap")
        self._warn()

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(min(_INTERVAL, self._lives.leaf / 10))

    def _look_alone(self) -> None:
        with self._opening:
            self._look()

    def _look(self, *, due: bool = False) -> None:
        begin, _ = self._valid()
        if not due and begin <= datetime.now(UTC) < self._authority.renewal and _files(self._folder) == self._files:
            return
        root = self._authority.root_path
        if not root.exists():
            # A new root would be made, which no builder trusts.
            raise AuthorityError(f"{root} is gone; restore it from a backup")
        before = self._authority.chain
        self._open()
        self._failing = Seldom(log, seconds=_FAILING)
        if self._authority.chain != before:
            log.info("the CA was renewed: leaves are signed by another certificate now, which %s", self._end())

    def _open(self) -> None:
        # Looked at first: what changes after that is noticed next time.
        files = _files(self._folder)
        leaf, intermediate = timedelta(seconds=self._lives.leaf), timedelta(seconds=self._lives.intermediate)
        self._authority = Authority.open(self._folder, self._names, leaf_life=leaf, intermediate_life=intermediate)
        self._files = files

    def _valid(self) -> tuple[datetime, datetime]:
        """From when to when leaves can be issued."""
        chain = self._authority.chain
        return max(each.not_valid_before_utc for each in chain), min(each.not_valid_after_utc for each in chain)

    def _end(self) -> str:
        return f"ends on {self._valid()[1]:%Y-%m-%d at %H:%M:%S} UTC"

    def _warn(self) -> None:
        if self._authority.warnings and time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + _WARNING
            for warning in self._authority.warnings:
                log.warning("%s", warning)


def _files(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Which files there are, so that another one in one's place is seen. What is being written is none."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return frozenset()  # opening it says why
    return frozenset((name, status.st_ino, status.st_mtime_ns) for name, status in found)
