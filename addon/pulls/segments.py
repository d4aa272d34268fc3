"""Some content from `start` to its end, as it comes; what is large and slow, over several connections at once.

What comes ahead of its turn is put aside. Whoever asks gets one stream from the front, as of a Download.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from addon import journal
from addon.threads import finish
from addon.upstream import splitting
from addon.upstream.download import Download
from addon.upstream.further import Further
from addon.upstream.response import EndpointError
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Buffer, Callable

    from addon.cache.spool import Spool
    from addon.config.model import Pace, Splitting
    from addon.oci import Digest
    from addon.upstream.sources import Search

log = logging.getLogger("mirrortap")

# Seconds between two looks at how fast it comes.
_LOOK = 0.1
_CHUNK = 1 << 20
# Bytes that are read from a spool at once, before readers hear of them.
_STRETCH = 4 << 20


class _Reached(Exception):
    """The stream from the front has come to what another connection brings."""


class _Segment:
    """The slice [start, end), put aside as it comes."""

    def __init__(self, start: int, end: int, spool: Spool, download: Download) -> None:
        self.start = start
        self.end = end
        self.spool = spool
        self.download = download
        self.begun = time.monotonic()
        self.seconds: float | None = None  # that it took, when it has ended
        self.more = asyncio.Event()  # set when more has come, or no more will
        self.task: asyncio.Task[None] | None = None

    @property
    def reach(self) -> int:
        """Up to where it has come."""
        return self.start + self.spool.landed

    async def fetch(self) -> None:
        """Raises EndpointError or NotFound; OSError when it cannot be put aside."""
        try:
            await self.download.open()
            await self.download.pour(self.spool.write, self._noticed)
        finally:
            self.seconds = time.monotonic() - self.begun
            self.more.set()
            await self.download.close()

    async def _noticed(self) -> None:
        self.more.set()


class Segments:
    """Used as a Download is. `new_spool` makes a file for what comes ahead of its turn; it may raise OSError."""

    def __init__(
        self, search: Search, pace: Pace, split: Splitting, new_spool: Callable[[], Spool], start: int = 0
    ) -> None:
        self._search = search
        self._pace = pace
        self._splitting = split
        self._new_spool = new_spool
        self.offset = start
        self.size: int | None = None  # of the whole content, in bytes, when it was announced
        self.media_type: str | None = None
        self._source = ""
        self._front: Download | None = Download(search, pace, start)
        self._limit: int | None = None  # where the stream from the front ends
        self._limiting = threading.Lock()  # held to look at the limit and to go up to it, or to move it
        self._writing = 0.0  # seconds that writing what came from the front took
        self._ahead: list[_Segment] = []  # in their order; there may be gaps, which the front fills
        self._current: _Segment | None = None  # whose turn it is
        self._length: int | None = None  # of a segment, once there are some
        self._next = 0  # where the next one begins
        self._turn = 0
        self._over = False  # no more segments are begun
        self._came, self._seconds = 0, 0.0  # by all connections that have ended
        self._spools: list[Spool] = []  # all there are
        self._spare: list[Spool] = []  # those not in use
        self._buffer = memoryview(b"")

    @property
    def source(self) -> str:
        """The name of the endpoint that is sending what comes next, or did last."""
        return self._front.source if self._front else self._source

    async def open(self) -> None:
        """Waits until an endpoint has begun to answer. Raises NotFound."""
        assert self._front
        await self._front.open()
        self.size, self.media_type = self._front.size, self._front.media_type

    async def pour(self, write: Callable[[Buffer], None], moved: Callable[[], Awaitable[None]]) -> None:
        """Has all that comes written in its order, in a thread; `moved` is told when there is more of it.

        Raises EndpointError when no endpoint gets any further, NotFound when none has the rest, what `write` raises.
        """
        self._write, self._moved = write, moved
        while self.size is None or self.offset < self.size:
            if self._ahead and self._ahead[0].start == self.offset:
                await self._follow(self._ahead.pop(0))
                continue
            before = self.offset
            await self._stream()
            if self.size is None:
                break
            if self.offset == before:
                raise EndpointError("ended before all was sent")

    def blame(self, digest: Digest) -> None:
        """What was sent does not have the digest."""
        self._search.all_lied(digest)

    async def close(self) -> None:
        self._over = True
        segments = [*self._ahead, *([self._current] if self._current else [])]
        await self._end(segments)
        if self._front:
            await self._front.close()
        for spool in self._spools:
            spool.close()

    # The stream from the front.

    async def _stream(self) -> None:
        """Up to the end, or to what another connection brings."""
        front = self._front or await self._reopened()
        begun, offset = time.monotonic(), self.offset
        watch = asyncio.create_task(self._watch(), name=f"watch {self._search.asked}")
        try:
            await front.pour(self._take, self._moved)
        except _Reached:
            await self._moved()
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            self._source, self._front = front.source, None
            await front.close()
        self._came += self.offset - offset
        self._seconds += time.monotonic() - begun
        self._begin()

    async def _reopened(self) -> Download:
        """From where nothing has come yet, up to what has. Raises NotFound or EndpointError."""
        # Its end is said, so that its connection can be used again.
        end = self._ahead[0].start if self._ahead else None
        self._limit = None
        self._front = front = Download(self._search.again(), self._pace, self.offset, end)
        await front.open()
        if front.size not in (None, self.size):
            raise EndpointError(f"has it with {front.size} bytes, not {self.size}")
        return front

    def _take(self, data: Buffer) -> None:
        """In a thread: what has come from the front. Raises _Reached."""
        begun, view = time.monotonic(), memoryview(data)
        with self._limiting:
            if self._limit is not None:
                view = view[: self._limit - self.offset]
            self.offset += len(view)
            reached = self.offset == self._limit
        self._write(view)
        self._writing += time.monotonic() - begun
        if reached:
            raise _Reached

    async def _watch(self) -> None:
        """Splits what is left when the stream from the front turns out to be slow."""
        while self._unsplit():
            begun, came, writing = time.monotonic(), self.offset, self._writing
            await asyncio.sleep(_LOOK)
            elapsed = time.monotonic() - begun
            # Who looks so late has waited for the processor, as what came may have; that is not the connection's fault.
            if elapsed > 2 * _LOOK:
                continue
            # A piece may have been begun to be written before.
            if splitting.held_back(self.offset - came, elapsed, min(self._writing - writing, elapsed)):
                self._split()

    def _unsplit(self) -> int | None:
        """The length of segments that could still be made."""
        if self._over or self._length or self.size is None:
            return None
        return splitting.length(self.size - self.offset, self._splitting)

    def _split(self) -> None:
        length = self._unsplit()
        if length is None or self.size is None:
            return
        with self._limiting:
            limit = splitting.end(self.offset, length, self.size)
            if limit == self.size:
                self._over = True
                return
            self._limit = self._next = limit
        self._length, self._turn = length, 1
        self._begin()
        if self._ahead:
            log.info("%s: comes over several connections, in segments of %s", self._search.asked, journal.size(length))
        else:
            self._lift(limit)

    # The segments.

    def _begin(self) -> None:
        """Begins as many as there are connections for, but not too far ahead."""
        while not self._over and self._length and self.size is not None and self._next < self.size:
            running = sum(each.seconds is None for each in self._ahead) + (self._front is not None)
            running += self._current is not None and self._current.seconds is None
            if running >= self._splitting.connections or len(self._ahead) >= self._splitting.connections:
                return
            end = splitting.end(self._next, self._length, self.size)
            if not self._begin_one(end, self.size, running):
                self._over = True
                return
            self._next = end
            self._turn += 1

    def _begin_one(self, end: int, size: int, running: int) -> bool:
        """Whether there is somebody to ask, and room on the disk."""
        endpoints = self._search.sharing(self._turn)
        if not endpoints:
            return False
        try:
            spool = self._spool()
            if not splitting.fits(spool.free, size - self.offset, end - self._next, running):
                return False
        except OSError as error:
            log.warning("%s: nothing can be put aside for it: %s", self._search.asked, error.strerror)
            return False
        download = Download(Further(self._search, size, endpoints), self._pace, self._next, end)
        segment = _Segment(self._next, end, spool, download)
        self._ahead.append(segment)
        segment.task = asyncio.create_task(segment.fetch(), name=f"segment of {self._search.asked}")
        segment.task.add_done_callback(lambda _: self._ended(segment))
        return True

    def _spool(self) -> Spool:
        """Raises OSError."""
        if self._spare:
            return self._spare.pop()
        spool = self._new_spool()
        self._spools.append(spool)
        return spool

    def _ended(self, segment: _Segment) -> None:
        """Its connection is free, unless it failed."""
        assert segment.task
        self._came += segment.spool.landed
        self._seconds += segment.seconds or 0.0
        if segment.task.cancelled():
            self._give_up(segment)
            return
        if not (error := segment.task.exception()):
            self._begin()
            return
        self._over = True
        match error:
            case OSError():
                log.warning("%s: no more can be put aside for it: %s", self._search.asked, error.strerror)
                # The stream from the front needs the room.
                for each in self._ahead.copy():
                    if each.task and not each.task.cancel():
                        self._give_up(each)
            case EndpointError() | NotFound():
                why = "; ".join(map(str, error.attempts)) if isinstance(error, NotFound) else error
                log.info("%s: a segment did not come: %s", self._search.asked, why)
                if not segment.spool.landed:
                    self._give_up(segment)
            case _:
                log.error("%s: a fault in mirrortap", self._search.asked, exc_info=error)
                self._give_up(segment)

    def _give_up(self, segment: _Segment) -> None:
        """It is left to the stream from the front, unless it is its turn already."""
        if segment in self._ahead:
            self._ahead.remove(segment)
            segment.spool.close()
            self._lift(segment.start)

    def _lift(self, limit: int) -> None:
        """The stream from the front goes on past it, if it has not stopped there yet."""
        with self._limiting:
            if self._limit == limit and self.offset < limit:
                self._limit = self._ahead[0].start if self._ahead else None

    async def _follow(self, segment: _Segment) -> None:
        """Writes what was put aside, and what still comes of it. Ends early when it does not come any further."""
        self._current = segment
        assert segment.task
        # There may be room for another one now.
        self._begin()
        while self.offset < segment.end:
            segment.more.clear()
            if segment.reach > self.offset:
                await finish(self._copy, segment)
                self._source = segment.download.source
                await self._moved()
            elif segment.seconds is not None or self._outpaced(segment):
                break
            else:
                await _happens(segment.more, _LOOK)
        await self._end([segment])
        self._current = None
        segment.spool.rewind()
        self._spare.append(segment.spool)
        self._begin()

    def _copy(self, segment: _Segment) -> None:
        """In a thread."""
        if not self._buffer:
            self._buffer = memoryview(bytearray(_CHUNK))
        until = min(segment.reach, self.offset + _STRETCH)
        while self.offset < until:
            count = segment.spool.read(self._buffer, self.offset - segment.start)
            self._write(self._buffer[:count])
            self.offset += count

    def _outpaced(self, segment: _Segment) -> bool:
        if not self._seconds:
            return False
        seconds, mean = time.monotonic() - segment.begun, self._came / self._seconds
        if not splitting.outpaced(segment.spool.landed, seconds, mean, self._splitting.connections):
            return False
        log.info("%s: a segment comes much slower than others did", self._search.asked)
        return True

    async def _end(self, segments: list[_Segment]) -> None:
        for each in segments:
            if each.task and each.seconds is None:
                each.task.cancel()
        if tasks := {each.task for each in segments if each.task}:
            await asyncio.wait(tasks)


async def _happens(event: asyncio.Event, seconds: float) -> None:
    """Waits until it has happened, at most so long."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
