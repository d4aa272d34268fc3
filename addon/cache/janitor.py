"""Keeps the cache within its space, and looks for damage: off the path of requests, one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from addon import journal
from addon.cache import eviction, pins, reserve, verify
from addon.cache.eviction import Disk
from addon.journal import Seldom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from addon.cache.contents import Contents, Entry
    from addon.cache.pins import Pins
    from addon.cache.store import File, Store
    from addon.config.model import Space
    from addon.oci import Digest

log = logging.getLogger("mirrortap")

# Seconds between two looks at the space while nobody asks for one.
_INTERVAL = 10.0
# After a look there is a pause of so many times its length, so that many small downloads do not keep it looking;
# and at most so many seconds, so that large ones do not fill the disk meanwhile.
_PAUSE = 10
_LONGEST_PAUSE = 1.0
# The share of what was free of the disk by which the cache may grow in such a pause.
_HASTE = 0.25
# Seconds after which the files are looked through for what is not known.
_RECONCILING = 3600.0
# Seconds that what is left of a download is worth resuming.
_RESUMABLE = 24 * 3600.0
# Seconds between two pieces of content that are held against their digests, of all processes together; bytes per
# second that are read for it; and seconds that content is believed after that.
_SAMPLING = 60.0
_RATE = 50_000_000
_BELIEVED = 24 * 3600.0


class Janitor:
    """The one of this process. `space` is looked up each time; `clock` gives seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        contents: Contents,
        pins: Pins,
        space: Callable[[], Space],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._contents = contents
        self._pins = pins
        self._space = space
        self._clock = clock
        self._lock = store.folder / "janitor.lock"
        self.evicted: Callable[[int, int], None] = lambda files, size: None
        """Called with how many files have gone, and their bytes."""
        self._seldom = Seldom(log)
        self._full = False
        self._reconciled = clock()  # which is done at the start
        self._nudged = asyncio.Event()
        self._pressed = asyncio.Event()
        self._free = 0  # of the disk, in bytes, at the last look
        self._grown = 0  # bytes since then
        self._stopping = asyncio.Event()
        self._stopped = threading.Event()  # the same, for threads
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Needs a running event loop."""
        self._tasks = [
            asyncio.create_task(self._watch_space(), name="make room in the cache"),
            asyncio.create_task(self._look_for_damage(), name="look for damage in the cache"),
        ]

    async def close(self) -> None:
        self._stopping.set()
        self._stopped.set()
        self._nudged.set()
        self._pressed.set()
        await asyncio.gather(*self._tasks)
        self._contents.flush()

    def nudge(self, size: int) -> None:
        """The cache has grown by so many bytes: whether it is too large now is looked at soon."""
        self._nudged.set()
        self._grown += size
        if self._grown > self._free * _HASTE:
            self._pressed.set()

    def write_failed(self, error: OSError) -> None:
        """The cache could not be written: if for want of space, some is made, whatever the settings allow."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._full = True
            self._nudged.set()
            self._pressed.set()

    # Space.

    async def _watch_space(self) -> None:
        while not self._stopping.is_set():
            self._nudged.clear()
            self._pressed.clear()
            self._grown = 0
            begun = time.monotonic()
            await self.make_room()
            await _wait(self._pressed, min(_PAUSE * (time.monotonic() - begun), _LONGEST_PAUSE))
            await _wait(self._nudged, _INTERVAL)

    async def make_room(self) -> None:
        """One look at the space, and what has to follow. Never raises."""
        self._contents.flush()
        try:
            with _alone(self._lock) as lock:
                if lock is not None:
                    await self._make_room()
        except OSError as error:
            self._seldom.warning("%s: no room can be made: %s", self._store.folder, error)
        except Exception:
            log.exception("%s: no room can be made: a fault in mirrortap", self._store.folder)

    async def _make_room(self) -> None:
        if not self._full:
            await asyncio.to_thread(reserve.keep, self._store.folder)
        partials = await asyncio.to_thread(self._store.partials)
        oldest = self._clock() - _RESUMABLE
        old = [file for file in partials if file.modified < oldest]
        partials = await self._drop(old) + partials[len(old) :]
        if self._full or not 0 <= self._clock() - self._reconciled <= _RECONCILING:
            # Noting something down may have failed, above all on a full disk; the clock may have been set back.
            self._reconciled = self._clock()
            known = self._contents.known()
            self._contents.reconcile(known, await asyncio.to_thread(lambda: list(self._store.contents())))
        used = self._contents.total() + sum(file.size for file in partials)
        disk = await asyncio.to_thread(_disk, self._store.folder)
        self._free = disk.free
        need = eviction.excess(used, disk, self._space(), full=self._full)
        self._full = False
        if need <= 0:
            return
        going = sum(file.size for file in partials)
        freed = going - sum(file.size for file in await self._drop(partials, need))
        freed += await self._evict(need - freed)
        if freed < need and not self._stopping.is_set():
            self._seldom.warning(
                "%s: %s too much is cached, or too little of the disk free, and all that is left is pinned or in use",
                self._store.folder,
                journal.size(need - freed),
            )

    async def _drop(self, partials: list[File], need: int | None = None) -> list[File]:
        """Removes these leftovers, for `need` bytes; what is still there of them."""

        def drop() -> list[File]:
            kept, freed = [], 0
            for file in partials:
                if (need is not None and freed >= need) or not self._store.drop(file.digest):
                    kept.append(file)
                else:
                    freed += file.size
            return kept

        return await asyncio.to_thread(drop)

    async def _evict(self, need: int) -> int:
        """Evicts content for `need` bytes; returns how many that brought."""
        pointers = [self._pins.pointers(reference) for reference in self._pins.all()]
        kept = await asyncio.to_thread(pins.held, self._store, pointers)
        oldest = self._contents.by_use()
        files = freed = 0
        while freed < need and not self._stopping.is_set():
            going = eviction.step(oldest, kept, need - freed)
            if not going:
                break
            gone = await asyncio.to_thread(self._evicted, going)
            self._contents.evicted(gone)
            files += len(gone)
            freed += sum(entry.size for entry in gone)
        if files:
            self.evicted(files, freed)
            log.info("made room in the cache: %d files evicted, %s", files, journal.size(freed))
        return freed

    def _evicted(self, entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if self._store.evict(entry.digest)]

    # Damage.

    async def _look_for_damage(self) -> None:
        while not await _wait(self._stopping, _SAMPLING):
            try:
                await self.sample()
            except OSError as error:
                self._seldom.warning("%s: content cannot be checked: %s", self._store.folder, error)
            except Exception:
                log.exception("%s: content cannot be checked: a fault in mirrortap", self._store.folder)

    async def sample(self) -> None:
        """Holds what was not checked for longest against its digest, unless that was done lately. Raises OSError."""
        with _alone(self._lock) as lock:
            # The lock's file says by its time when that was.
            if lock is None or 0 <= self._clock() - os.fstat(lock).st_mtime < _SAMPLING:
                return
            os.utime(lock, (self._clock(), self._clock()))
            digest = self._contents.unchecked(_BELIEVED)
        if digest is None:
            return
        try:
            sound = await asyncio.to_thread(self._sound, digest)
        except FileNotFoundError:
            self._contents.forget(digest)
        except _Stopping:
            pass
        else:
            if sound:
                self._contents.checked(digest)
            else:
                self._contents.damaged(digest, "its bytes have another digest")

    def _sound(self, digest: Digest) -> bool:
        fd = self._store.open(digest)
        try:
            return verify.sound(fd, digest, self._slowly)
        finally:
            os.close(fd)

    def _slowly(self, count: int) -> None:
        if self._stopped.wait(count / _RATE):
            raise _Stopping


class _Stopping(Exception):
    """The proxy stops."""


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[int | None]:
    """The descriptor of a lock, None while another has it. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield fd
    finally:
        os.close(fd)


def _disk(folder: Path) -> Disk:
    status = os.statvfs(folder)
    return Disk(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Until the event, or so long; whether it has happened."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
