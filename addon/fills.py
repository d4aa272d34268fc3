"""One download per digest, many readers, verified before it counts."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.body import BodyCut, FileBody
from addon.sources import NotFound
from addon.store import DigestMismatch
from addon.upstream import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.oci import Digest
    from addon.sources import Search
    from addon.store import Partial, Store
    from addon.upstream import Response

log = logging.getLogger("mirrortap")

# Seconds that a cache which could not be written is left alone.
_REST = 10.0
# Times in a row that a download may break off without a new byte before it is given up.
_FRUITLESS = 3


class Fill:
    """One download of one digest into the cache. It goes on when its readers leave."""

    def __init__(self, digest: Digest, repository: tuple[str, str]) -> None:
        self.digest = digest
        self.repository = repository  # (registry, repository) it is downloaded for
        self.source = ""  # the endpoint's name
        self.size: int | None = None
        self.content_type: str | None = None
        self._partial: Partial | None = None
        self._written = 0
        self.verified = False
        self._failure: str | None = None
        self.unwritable = False  # the cache, not an endpoint, was what failed
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._progress = asyncio.Condition()

    @property
    def failed(self) -> bool:
        return self._failure is not None

    async def opened(self) -> None:
        """Waits until an endpoint has begun to send. Raises what the opener raised, or OSError."""
        # Shielded: one reader that leaves must not cancel it for the others.
        await asyncio.shield(self._opened)

    async def grown(self, offset: int) -> int:
        """Bytes that may be shown, once there are more than `offset` or no more will come. Raises BodyCut."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._showable() > offset or self.verified or self._failure)
        if self._failure:
            raise BodyCut(self._failure)
        return self._showable()

    def body(self, start: int = 0, end: int | None = None) -> FileBody:
        """What has come and what will; only after `opened`. Raises BodyCut or OSError."""
        if self._failure:
            raise BodyCut(self._failure)
        assert self._partial
        return FileBody(self._partial.reader(), start, self.size if end is None else end, self)

    def _showable(self) -> int:
        # The last byte is held back until the digest is right: a client must never hold a complete wrong blob.
        return self._written if self.verified else max(0, self._written - 1)

    async def run(self, store: Store, search: Search) -> bool:
        """Downloads; whether the content is now in the store."""
        try:
            partial = await self._download(store, search)
            # Readers need not wait until the disk has it too.
            await self._moved(verified=True)
            if not self._opened.done():
                self._opened.set_result(None)
            await asyncio.to_thread(partial.commit)
        except (EndpointError, DigestMismatch) as error:
            await self._failed(f"{self.source} sent a bad {self.digest}: {error}")
        except OSError as error:
            self.unwritable = True
            await self._failed(f"the cache cannot be written: {error.strerror}", error)
        except Exception as error:
            await self._failed(f"{self.digest} could not be opened", error)
        except asyncio.CancelledError:
            await self._failed("the proxy is stopping")
            raise
        else:
            return True
        finally:
            if self._partial:
                self._partial.close()
        return False

    async def _download(self, store: Store, search: Search) -> Partial:
        """All of it, from one endpoint, or from several where one breaks off; then verified."""
        response = await search.next()
        self.source = response.endpoint.name
        self.size = response.size
        self.content_type = response.headers.get("Content-Type")
        self._partial = await asyncio.to_thread(store.begin, self.digest)
        # An announced length of 0 would make the answer complete before anything is verified.
        if self.size != 0:
            self._opened.set_result(None)
        senders = {response.endpoint}
        fruitless = 0
        while problem := await self._take(response, self._partial):
            search.broke(response.endpoint)
            if self._written == self.size:
                break
            fruitless = 0 if problem.gained else fruitless + 1
            if fruitless > _FRUITLESS:
                raise problem.error
            try:
                response = await search.next(self._written)
            except NotFound:
                raise problem.error from None
            senders.add(response.endpoint)
            log.warning(
                "%s: %s, after %d bytes of %s; %s goes on from there",
                problem.endpoint,
                problem.error,
                self._written,
                self.digest,
                response.endpoint.name,
            )
        try:
            self._partial.verify()
        except DigestMismatch:
            for endpoint in senders:
                search.lied(endpoint, self.digest)
            raise
        return self._partial

    async def _take(self, response: Response, partial: Partial) -> _Break | None:
        """Writes what the endpoint sends, from where we are on; how it broke off, if it did."""
        begun = self._written
        # Whoever answers a Range with 200 begins at the beginning.
        skip = 0 if response.status == 206 else begun
        try:
            async with response:
                while chunk := await response.read():
                    fresh = chunk[skip:]
                    skip = max(0, skip - len(chunk))
                    if fresh:
                        await asyncio.to_thread(partial.write, fresh)
                        await self._moved(written=len(fresh))
        except EndpointError as error:
            return _Break(response.endpoint.name, error, gained=self._written > begun)
        return None

    async def _moved(self, *, written: int = 0, verified: bool = False) -> None:
        async with self._progress:
            self._written += written
            self.verified = verified
            self._progress.notify_all()

    async def _failed(self, reason: str, error: Exception | None = None) -> None:
        if self.verified:
            log.warning("%s is served, but not cached: %s", self.digest, reason)
            return
        self._failure = reason
        if not self._opened.done():
            self._opened.set_exception(error or BodyCut(reason))
            self._opened.exception()  # seen: there may be no reader left to see it
        else:
            log.warning("%s; nothing of it is cached, and transfers of it are cut", reason)
        async with self._progress:
            self._progress.notify_all()


@dataclass(frozen=True)
class _Break:
    """Where a download broke off, and whether anything new had come."""

    endpoint: str
    error: EndpointError
    gained: bool


class Fills:
    """The fills that are running."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: dict[Digest, Fill] = {}
        self._tasks: dict[Fill, asyncio.Task[None]] = {}
        self._rested = -math.inf

    def running(self, digest: Digest) -> Fill | None:
        fill = self._running.get(digest)
        return None if fill is None or fill.failed else fill

    @property
    def possible(self) -> bool:
        """Whether the cache could be written lately: a full disk must not cut every client's transfer."""
        return time.monotonic() >= self._rested

    def _end(self, fill: Fill) -> None:
        # Another may have been started by whoever saw this one fail.
        if self._running.get(fill.digest) is fill:
            del self._running[fill.digest]

    def start(
        self,
        digest: Digest,
        repository: tuple[str, str],
        search: Search,
        filled: Callable[[], None],
    ) -> Fill:
        """Starts a fill; `filled` is called when its content is verified and in the store."""
        fill = self._running[digest] = Fill(digest, repository)

        async def run() -> None:
            try:
                if await fill.run(self._store, search):
                    filled()
                elif fill.unwritable:
                    self._rested = time.monotonic() + _REST
            finally:
                self._end(fill)

        self._tasks[fill] = asyncio.create_task(run(), name=f"fill {digest}")
        self._tasks[fill].add_done_callback(lambda _: self._tasks.pop(fill))
        return fill

    async def close(self) -> None:
        """Ends what is not complete; what is goes to the disk first."""
        for fill, task in list(self._tasks.items()):
            if not fill.verified:
                task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
