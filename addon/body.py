"""What a reply's body is read from, whichever way it comes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Protocol

from addon.upstream import EndpointError

if TYPE_CHECKING:
    from addon.oci import Digest
    from addon.upstream import Response

CHUNK = 1 << 20  # bytes; 64 KiB chunks cost three times the CPU


class BodyCut(Exception):
    """The rest of the body will not come, or must not be sent: the client's transfer is cut."""


class Body(Protocol):
    """A body that is read piece by piece."""

    async def read(self) -> bytes:
        """The next piece, b"" at the end. Raises BodyCut."""

    async def close(self) -> None: ...


class Growth(Protocol):
    """A file that is still being written."""

    async def grown(self, offset: int) -> int:
        """How far the file may be read, as soon as that is beyond `offset` or the file is finished. Raises BodyCut."""


class FileBody:
    """The slice [start, end) of a file, complete or still growing; `end` None is wherever it will end."""

    def __init__(self, fd: int, start: int, end: int | None, growth: Growth | None = None) -> None:
        self._fd = fd
        self._offset = start
        self._end = end
        self._growth = growth

    async def read(self) -> bytes:
        want = CHUNK if self._end is None else min(CHUNK, self._end - self._offset)
        if self._growth and want:
            want = min(want, await self._growth.grown(self._offset) - self._offset)
            if not want and self._end is not None:
                raise BodyCut("the content is shorter than announced")
        if want <= 0:
            return b""
        try:
            # In the page cache, as fresh and popular content is: no thread is worth its while.
            data = _read_cached(self._fd, want, self._offset)
        except OSError:
            data = await self._read_waiting(want)
        if not data and self._end is not None:
            raise BodyCut("a cached file is shorter than it was")
        self._offset += len(data)
        return data

    async def _read_waiting(self, size: int) -> bytes:
        try:
            return await asyncio.to_thread(os.pread, self._fd, size, self._offset)
        except OSError as error:
            raise BodyCut(f"the cache cannot be read: {error.strerror}") from None

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


class RelayedBody:
    """An endpoint's body on its way to one client, never stored."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except EndpointError as error:
            raise BodyCut(f"{self._response.endpoint.name}: {error}") from None

    async def close(self) -> None:
        await self._response.close()


class VerifiedBody:
    """Another body, whose last piece goes out only when all of it has the digest that was asked for."""

    def __init__(self, body: Body, digest: Digest, source: str) -> None:
        self._body = body
        self._digest = digest
        self._source = source
        self._hash = hashlib.new(digest.algorithm)
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
