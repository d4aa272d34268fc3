"""One slice of some content, read through as many endpoints as it takes."""

from __future__ import annotations

import logging
import re
import time
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from addon.threads import attend, finish
from addon.upstream.response import EndpointError, broke_off
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Buffer, Callable, Iterator

    from addon.config.model import Endpoint, Pace
    from addon.oci import Digest
    from addon.upstream.response import Response
    from addon.upstream.sources import Search
    from addon.upstream.takeover import Taken

log = logging.getLogger("mirrortap")

# Times in a row that a download may break off without a new byte before it is given up.
_FRUITLESS = 3
# Bytes that a thread reads before it writes them; used again and again, for fresh memory costs as much as the copying.
_BUFFER = 512 << 10
# Bytes that are written before readers are told, while more keeps coming.
_MUCH = 4 << 20
_TOO_EARLY = "ended before all was sent"
_CONTENT_RANGE = re.compile(r"bytes [0-9]{1,18}-[0-9]{1,18}/([0-9]{1,18})")


class Download:
    """The slice [start, end) as it comes; `end` None is the end of the content.

    When an endpoint breaks off, stalls or is too slow, the next one is asked for what is missing.
    """

    def __init__(self, search: Search, pace: Pace, start: int = 0, end: int | None = None) -> None:
        self._search = search
        self._pace = pace
        self._response: Response | None = None
        self._source = ""
        self._end = end
        self._skip = 0  # bytes still to be read over
        self._fruitless = 0
        self._gained = False  # whether the response has brought anything new
        self._waited, self._came = 0.0, 0  # seconds for it in the current window, and the bytes they brought
        self._paused = 0.0  # seconds for all that has come, from whichever endpoint
        self._since: float | None = None  # when the wait that is going on has begun
        self.offset = start
        self.size: int | None = None  # of the whole content, in bytes, when it was announced
        self.media_type: str | None = None
        self._senders: set[Endpoint] = set()

    @property
    def source(self) -> str:
        """The name of the endpoint that is sending, or did last."""
        return self._source

    async def open(self) -> None:
        """Waits until an endpoint has begun to answer. Raises NotFound."""
        response = await self._search.next(self.offset, self._end)
        self.size = whole(response)
        self.media_type = response.headers.get("Content-Type")
        self._begin(response)

    async def read(self) -> bytes:
        """What comes next, b"" at the end. Raises EndpointError when no endpoint gets any further."""
        while self._response and not self._complete:
            if fresh := await self._next(self._response):
                return fresh
        await self.close()
        return b""

    async def pour(self, write: Callable[[Buffer], None], moved: Callable[[], Awaitable[None]]) -> None:
        """Has all that comes written, in a thread; `moved` is told when there is more of it.

        `write` must be done with what it is given when it returns. Raises EndpointError when no endpoint gets any
        further, and what `write` raises.
        """
        while (response := self._response) and not self._complete:
            if rest := response.take_over():
                try:
                    with closing(rest):
                        await attend(partial(self._drain, rest, write), moved, rest.stop)
                    break
                except EndpointError as error:
                    await self._go_on(response, error)
            elif fresh := await self._next(response):
                await finish(write, fresh)
                await moved()
        await self.close()

    @property
    def waited(self) -> float:
        """Seconds in which nothing had come, all in all and until now."""
        paused, since = self._paused, self._since
        return paused if since is None else paused + time.monotonic() - since

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        # Only this counts: while nobody reads, it is not the endpoint that is slow.
        self._since = begun = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            seconds = time.monotonic() - begun
            self._waited += seconds
            self._paused += seconds

    def blame(self, digest: Digest) -> None:
        """What was sent does not have the digest."""
        for endpoint in self._senders:
            self._search.lied(endpoint, digest)

    async def close(self) -> None:
        response, self._response = self._response, None
        if response:
            await response.close()

    @property
    def _due(self) -> int | None:
        return self.size if self._end is None else self._end

    @property
    def _complete(self) -> bool:
        return self._due is not None and self.offset >= self._due

    def _begin(self, response: Response) -> None:
        self._response = response
        self._source = response.endpoint.name
        self._sender = response.endpoint
        self._senders.add(response.endpoint)
        # Whoever answers a Range with 200 begins at the beginning.
        self._skip = 0 if response.status == 206 else self.offset
        self._waited, self._came, self._gained = 0.0, 0, False

    async def _next(self, response: Response) -> bytes:
        """What is new in the next piece; b"" may mean another response, or none any more."""
        try:
            piece = await self._piece(response)
        except EndpointError as error:
            await self._go_on(response, error)
            return b""
        if not piece:
            await self.close()
        return self._fresh(piece)

    async def _piece(self, response: Response) -> bytes:
        """Raises EndpointError when the response breaks off, ends too early, or is too slow."""
        self._check_pace()
        with self._waiting():
            piece = await response.read()
        self._came += len(piece)
        if not piece and self._due is not None:
            raise EndpointError(_TOO_EARLY)
        return piece

    def _drain(self, rest: Taken, write: Callable[[Buffer], None], tell: Callable[[], None]) -> None:
        """Blocks. Raises EndpointError as `_piece` does, and what `write` raises."""
        buffer = memoryview(bytearray(_BUFFER))
        untold = _MUCH  # the first bytes are told at once
        while not self._complete:
            if not rest.left:
                if self._due is not None:
                    raise EndpointError(_TOO_EARLY)
                break
            try:
                count = rest.fill(buffer)
                if not count:
                    if untold:
                        untold = 0
                        tell()
                    with self._waiting():
                        rest.wait()
            except (aiohttp.ClientError, OSError) as error:
                raise broke_off(error) from None
            self._came += count
            self._check_pace()
            if fresh := self._fresh(buffer[:count]):
                write(fresh)
                untold += len(fresh)
            if untold >= _MUCH:
                untold = 0
                tell()

    def _fresh[Piece: (bytes, memoryview)](self, piece: Piece) -> Piece:
        """What of it is due, and was not there yet."""
        fresh = piece[self._skip :]
        self._skip = max(0, self._skip - len(piece))
        if self._end is not None:
            fresh = fresh[: self._end - self.offset]
        if fresh:
            self.offset += len(fresh)
            self._gained = True
            self._search.received(self._sender, len(fresh))
        return fresh

    def _check_pace(self) -> None:
        """Raises EndpointError when the window is over, and too little came."""
        if self._waited >= self._pace.window:
            if self._came < self._pace.rate * self._waited:
                raise EndpointError(f"sent only {self._came} bytes in {self._waited:.3g} s")
            self._waited, self._came = 0.0, 0

    async def _go_on(self, broken: Response, error: EndpointError) -> None:
        """Asks the next endpoint for the rest. Raises `error` when there is none."""
        await self.close()
        self._search.broke(broken.endpoint)
        self._fruitless = 0 if self._gained else self._fruitless + 1
        if self._fruitless > _FRUITLESS:
            raise error
        try:
            response = await self._search.next(self.offset, self._end)
            while self.size is not None and whole(response) not in (None, self.size):
                await response.close()
                self._search.reject(response.endpoint, f"has it with {whole(response)} bytes, not {self.size}")
                response = await self._search.next(self.offset, self._end)
        except NotFound:
            raise error from None
        log.warning(
            "%s: %s, after %d bytes of %s; %s goes on from there",
            broken.endpoint.name,
            error,
            self.offset,
            self._search.asked,
            response.endpoint.name,
        )
        self._begin(response)


def whole(response: Response) -> int | None:
    """Bytes of the whole content, of which the response may be a slice; None when it does not say."""
    if response.status != 206:
        return response.size
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None
