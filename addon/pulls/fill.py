"""One download of one digest: many readers, in any process; verified before it counts."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from addon.body import BodyCut, CacheFailed, FileBody, RelayedBody, SlicedBody, SparedBody, VerifiedBody
from addon.cache.partial import Claim, DigestMismatch, Facts
from addon.pulls.segments import Segments
from addon.threads import finish
from addon.upstream.download import Download
from addon.upstream.response import EndpointError
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.body import Body, FileSlice
    from addon.cache.partial import Partial
    from addon.cache.store import Store
    from addon.config.model import Pace, Splitting
    from addon.oci import Digest
    from addon.upstream.sources import Search

    NewSearch = Callable[[], Search]
    Asker = tuple[str, str, str]  # registry, repository, and the reader's identity

log = logging.getLogger("mirrortap")

# Seconds between two looks at a file that another process is writing.
_LOOK = 0.01
# Bytes that a range may lie ahead of a download to wait for it.
_FAR = 4 << 20


class Outcome(Enum):
    """How a fill ended."""

    STORED = "stored"
    FOLLOWED = "followed"  # another process stored it
    LIED = "lied"  # the bytes were not those of the digest
    UNWRITABLE = "unwritable"  # the cache, not an endpoint, was what failed
    FAILED = "failed"


class Fill:
    """One download of one digest into the cache, by this process or, as long as that holds the lock, by another."""

    def __init__(self, digest: Digest, asker: Asker, new_search: NewSearch, pace: Pace, splitting: Splitting) -> None:
        self.digest = digest
        self.asker = asker
        self.is_manifest = False
        self.begun = time.monotonic()
        self.opening: float | None = None  # seconds until an endpoint began to send, for this process
        self.sparing = False  # whether it is asked for only where no rate limit is used up by that
        self.ahead = False  # whether no client has asked for it yet
        self.source = ""  # the endpoint's name
        self.size: int | None = None
        self.media_type: str | None = None
        self.verified = False
        self.trouble: OSError | None = None  # what was wrong with the cache
        self.unwanted: Callable[[], None] = lambda: None  # called when the last reader has left
        self.readers = 0
        self._new_search = new_search
        self._pace = pace
        self._splitting = splitting
        self._partial: Partial | None = None
        self._written = 0
        self._taken = False  # whether there is a client whose own download it is
        self._seen, self._grew = -1, 0.0  # bytes of another process's file, and when they became more
        self._failure: BodyCut | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._progress = asyncio.Condition()

    # For readers.

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def written(self) -> int:
        """Bytes that are here."""
        return self._written

    @property
    def share(self) -> float:
        """How much of the content is here, from 0 to 1; 0 when its size is not known."""
        return self._written / self.size if self.size else 0.0

    async def opened(self) -> None:
        """Waits until an endpoint has begun to send. Raises what the opener raised, or OSError."""
        # Shielded: one reader that leaves must not cancel it for the others.
        await asyncio.shield(self._opened)

    async def grown(self, offset: int) -> int:
        """Bytes that may be shown, once there are more than `offset` or no more will come. Raises BodyCut."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._showable() > offset or self.verified or self._failure)
        shown = self._showable()
        if self._failure and shown <= offset:
            raise self._failure
        return shown

    def _showable(self) -> int:
        match self._failure:
            case None if self.verified:
                return self._written
            case None:
                # The last byte is held back until the digest is right: a client must never hold a complete wrong blob.
                written = self._written if self.size is None else min(self._written, self.size)
                return max(0, written - 1)
            case CacheFailed():
                return self._written
            case _:
                return 0

    def take(self) -> bool:
        """Whether the client who is served now is the one whom it is downloaded for; all others share in it."""
        first, self._taken = not self._taken, True
        return first

    async def body(self, start: int = 0, end: int | None = None) -> Body:
        """What has come and what will; only after `opened`. Raises BodyCut or OSError.

        What lies far ahead is fetched by itself, past the cache.
        """
        if self._failure:
            raise self._failure
        assert self._partial
        end = self.size if end is None else end
        body: Body | None = None
        if not self.verified and start > self._written + _FAR:
            body = await self._apart(start, end)
        if body is None:
            body = SparedBody(FileBody(self._partial.reader(), start, end, self), self._rest)
        return _Reading(body, self)

    async def _apart(self, start: int, end: int | None) -> Body | None:
        download = Download(self._new_search(), self._pace, start, end)
        try:
            await download.open()
        except NotFound:
            return None
        return RelayedBody(download)

    async def _rest(self, start: int, end: int | None) -> Body:
        """Past a cache that has failed. Raises BodyCut."""
        body = await self._apart(start, end)
        if body is None:
            raise BodyCut(f"no endpoint has the rest of {self.digest}")
        if self._partial and start == self._partial.written and end == self.size:
            return VerifiedBody(body, self.digest, "the rest", self._partial.hash())
        return body

    def entered(self) -> None:
        self.readers += 1

    def left(self) -> None:
        self.readers -= 1
        if not self.readers:
            self.unwanted()

    # The download.

    async def run(self, store: Store) -> Outcome:
        """Until the content is in the store, or will not come."""
        try:
            while not (outcome := await self._run(store)):
                pass
        except DigestMismatch as error:
            await self._fail(BodyCut(f"{self.source} sent a bad {self.digest}: {error}"))
            return Outcome.LIED
        except EndpointError as error:
            await self._fail(BodyCut(f"{self.source} did not send all of {self.digest}: {error}"))
        except NotFound as missing:
            await self._fail(BodyCut(f"no endpoint has the rest of {self.digest}"), missing)
        except OSError as error:
            self.trouble = error
            await self._fail(CacheFailed(f"the cache cannot be written: {error.strerror}"), error)
            return Outcome.UNWRITABLE
        except asyncio.CancelledError:
            await self._fail(BodyCut("the proxy is stopping"))
            raise
        except Exception as error:
            log.exception("%s: a fault in mirrortap", self.digest)
            await self._fail(BodyCut("a fault in mirrortap"), error)
        else:
            return outcome
        finally:
            # Readers have descriptors of their own.
            if self._partial:
                self._partial.close()
        return Outcome.FAILED

    def give_up(self) -> None:
        """Nobody is to join any more."""
        self._failure = BodyCut("nobody waited for it any more")

    async def _run(self, store: Store) -> Outcome | None:
        """None when the file was thrown away by another process before anything of it was shown."""
        self._partial = partial = await finish(store.begin, self.digest)
        while (claim := partial.claim()) is Claim.TAKEN:
            await self._follow(partial)
        match claim:
            case Claim.OURS:
                await self._download(partial)
                return Outcome.STORED
            case Claim.COMPLETE:
                if not self._opened.done():
                    self.size = partial.size
                await self._moved(partial.size, verified=True)
                return Outcome.FOLLOWED
            case Claim.DROPPED:
                self._partial = None
                partial.close()
                if self._opened.done():
                    raise DigestMismatch("another worker found that out")
        return None

    async def _follow(self, partial: Partial) -> None:
        """Shows what another process has written so far, then waits a moment."""
        size, now = partial.size, time.monotonic()
        if size != self._seen:
            self._seen, self._grew = size, now
        elif not self.verified and now - self._grew > 2 * self._pace.window:
            # It holds the lock and lives, but does not get on: whoever waits here must not hang with it.
            raise OSError(errno.ETIMEDOUT, "another worker's download stands still")
        if facts := partial.facts():
            if not self._opened.done():
                # Whoever has it come there is served there, unless that is nobody.
                self._taken = not facts.ahead
            self._know(facts)
            await self._moved(size, verified=facts.verified)
        await asyncio.sleep(_LOOK)

    async def _download(self, partial: Partial) -> None:
        """All of it, or what is missing, from one endpoint or several; verified, then stored."""
        begun = await finish(partial.resumable)
        download = Segments(self._new_search(), self._pace, self._splitting, partial.spool, begun)
        try:
            await download.open()
        except NotFound:
            if not begun:
                raise
            # Whoever was killed may have left more than there is.
            if self._opened.done():
                await finish(partial.drop)
                raise DigestMismatch("what another worker left of it is of no use") from None
            await finish(partial.restart)
            begun = 0
            download = Segments(self._new_search(), self._pace, self._splitting, partial.spool)
            await download.open()
        try:
            facts = Facts(download.source, download.size, download.media_type, ahead=self.ahead)
            self.opening = time.monotonic() - self.begun
            await self._write(download, partial, facts)
        except DigestMismatch:
            await finish(partial.drop)
            # What a killed process left may be what was wrong.
            if not begun:
                download.blame(self.digest)
            raise
        finally:
            await download.close()
        # Readers need not wait until the disk has it too.
        await self._moved(partial.written, verified=True)
        await finish(partial.announce, replace(facts, verified=True))
        await finish(partial.commit)

    async def _write(self, download: Segments, partial: Partial, facts: Facts) -> None:
        await finish(partial.announce, facts)
        # An announced length of 0 would make the answer complete before anything is verified.
        if facts.size != 0:
            self._know(facts)
        await self._moved(download.offset)
        if download.offset:
            await finish(partial.take_in)

        async def moved() -> None:
            self.source = download.source
            await self._moved(partial.written)

        await download.pour(partial.write, moved)
        partial.verify()
        self._know(facts)

    def _know(self, facts: Facts) -> None:
        if not self._opened.done():
            self.source, self.size, self.media_type = facts.source, facts.size, facts.media_type
            self._opened.set_result(None)

    async def _moved(self, written: int, *, verified: bool = False) -> None:
        async with self._progress:
            self._written = written
            self.verified = verified
            self._progress.notify_all()
        if verified and not self._opened.done():
            self._opened.set_result(None)

    async def _fail(self, failure: BodyCut, error: Exception | None = None) -> None:
        if self.verified:
            return
        if isinstance(failure, CacheFailed) and self._partial:
            self._written = self._partial.written
        if not self._opened.done():
            self._opened.set_exception(error or failure)
            self._opened.exception()  # seen: there may be no reader left to see it
        elif not isinstance(failure, CacheFailed) and not self._failure:
            log.warning("%s; transfers of it are cut", failure)
        self._failure = self._failure or failure
        async with self._progress:
            self._progress.notify_all()


class _Reading:
    """A reader's body, that the fill knows of until it is closed."""

    def __init__(self, body: Body, fill: Fill) -> None:
        self._body = body
        self._sliced = body if isinstance(body, SlicedBody) else None
        self._fill: Fill | None = fill
        fill.entered()

    async def read(self) -> bytes:
        return await self._body.read()

    async def at_hand(self) -> FileSlice | None:
        return await self._sliced.at_hand() if self._sliced else None

    def sent(self, count: int) -> None:
        assert self._sliced
        self._sliced.sent(count)

    async def close(self) -> None:
        await self._body.close()
        fill, self._fill = self._fill, None
        if fill:
            fill.left()
