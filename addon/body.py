"""What a reply's body is read from, whichever way it comes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from addon.oci import Digest

CHUNK = 1 << 20  # bytes; 64 KiB chunks cost three times the CPU
# Bytes that are taken to be in the page cache when the last of them is: half of what the kernel reads ahead.
_STRETCH = 64 << 10
# Bytes that the kernel is told to send at once: what was in the page cache may leave it while they are sent.
_AT_ONCE = 4 << 20


@dataclass(frozen=True)
class FileSlice:
    """`count` bytes of an open file from `offset` on."""

    fd: int
    offset: int
    count: int


class BodyCut(Exception):
    """The rest of the body will not come, or must not be sent: the client's transfer is cut."""


class CacheFailed(BodyCut):
    """The rest cannot come from the cache; it may from somewhere else."""


class Body(Protocol):
    """A body that is read piece by piece."""

    async def read(self) -> bytes:
        """The next piece, b"" at the end. Raises BodyCut."""

    async def close(self) -> None: ...


@runtime_checkable
class SlicedBody(Body, Protocol):
    """A body that comes from a file, if it can."""

    async def at_hand(self) -> FileSlice | None:
        """What comes next, if it can be sent without waiting for the disk, as soon as there is something.

        Who sends it says `sent`; who gets None reads. Raises BodyCut.
        """

    def sent(self, count: int) -> None:
        """So many bytes of it need not be read any more."""


class Growth(Protocol):
    """A file that is still being written."""

    async def grown(self, offset: int) -> int:
        """How far the file may be read, as soon as that is beyond `offset` or the file is finished. Raises BodyCut."""


class FileBody:
    """The slice [start, end) of a file, complete or still growing; `end` None is wherever it will end."""

    def __init__(self, fd: int, start: int, end: int | None, growth: Growth | None = None) -> None:
        self._fd = fd
        self.offset = start  # of the next piece
        self.end = end
        self._growth = growth

    async def read(self) -> bytes:
        want = CHUNK if self.end is None else min(CHUNK, self.end - self.offset)
        if self._growth and want:
            want = min(want, await self._growth.grown(self.offset) - self.offset)
            if not want and self.end is not None:
                raise BodyCut("the content is shorter than announced")
        if want <= 0:
            return b""
        try:
            # In the page cache, as fresh and popular content is: no thread is worth its while.
            data = _read_cached(self._fd, want, self.offset)
        except OSError:
            data = await self._read_waiting(want)
        if not data and self.end is not None:
            raise CacheFailed("a cached file is shorter than it was")
        self.offset += len(data)
        return data

    async def at_hand(self) -> FileSlice | None:
        end = self.end
        if end is None or self.offset >= end:
            return None
        if self._growth:
            end = min(end, await self._growth.grown(self.offset))
        end, at_hand = min(end, self.offset + _AT_ONCE), self.offset
        while at_hand < end and _is_cached(self._fd, min(at_hand + _STRETCH, end) - 1):
            at_hand = min(at_hand + _STRETCH, end)
        return FileSlice(self._fd, self.offset, at_hand - self.offset) if at_hand > self.offset else None

    def sent(self, count: int) -> None:
        self.offset += count

    async def _read_waiting(self, size: int) -> bytes:
        try:
            return await asyncio.to_thread(os.pread, self._fd, size, self.offset)
        except OSError as error:
            raise CacheFailed(f"the cache cannot be read: {error.strerror}") from None

    async def close(self) -> None:
        # Once: the number may be another file's by the second time.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _read_cached(fd: int, size: int, offset: int) -> bytes:
    """Reads without waiting for the disk. Raises OSError where that is not possible."""
    buffer = bytearray(size)
    count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    return bytes(memoryview(buffer)[:count])


def _is_cached(fd: int, offset: int) -> bool:
    """Whether the byte there can be read without waiting for the disk."""
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


class SparedBody:
    """A file's slice, whose rest comes from `spare(start, end)` should the cache fail."""

    def __init__(self, file: FileBody, spare: Callable[[int, int | None], Awaitable[Body]]) -> None:
        self._body: Body = file
        self._file = file
        self._spare = spare

    async def read(self) -> bytes:
        try:
            return await self._body.read()
        except CacheFailed:
            await self._file.close()
            self._body = await self._spare(self._file.offset, self._file.end)
            return await self._body.read()

    async def at_hand(self) -> FileSlice | None:
        """None once the cache has failed."""
        try:
            return await self._file.at_hand() if self._body is self._file else None
        except CacheFailed:
            return None  # reading will find that, too

    def sent(self, count: int) -> None:
        self._file.sent(count)

    async def close(self) -> None:
        await self._body.close()


class Source(Protocol):
    """What endpoints send."""

    @property
    def source(self) -> str:
        """The endpoint's name."""

    async def read(self) -> bytes:
        """The next piece, b"" at the end. Raises EndpointError."""

    async def close(self) -> None: ...


class RelayedBody:
    """What endpoints send, on its way to one client, never stored."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def read(self) -> bytes:
        try:
            return await self._source.read()
        except EndpointError as error:
            raise BodyCut(f"{self._source.source}: {error}") from None

    async def close(self) -> None:
        await self._source.close()


class VerifiedBody:
    """Another body, whose last piece goes out only when all of it has the digest that was asked for."""

    def __init__(self, body: Body, digest: Digest, source: str, begun: hashlib._Hash | None = None) -> None:
        """`begun` is the state of the hash after what came before this body."""
        self._body = body
        self._digest = digest
        self._source = source
        self._hash = begun or hashlib.new(digest.algorithm)
        self._held: bytes | None = None

    async def read(self) -> bytes:
        if self._held is None:
            self._held = await self._body.read()
        piece, self._held = self._held, await self._body.read() if self._held else b""
        self._hash.update(piece)
        if not self._held and self._hash.hexdigest() != self._digest.encoded:
            raise BodyCut(f"{self._source} sent bytes that do not have digest {self._digest}")
        return piece

    async def close(self) -> None:
        await self._body.close()
