"""Several slices of content in one body: multipart/byteranges (RFC 9110, section 14.6)."""

from __future__ import annotations

import secrets
from collections import deque
from typing import TYPE_CHECKING

from addon.body import BodyCut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from addon.body import Body


class ByteRanges:
    """A body of slices [start, end) of content that has `size` bytes; `open_part` opens each when its turn comes.

    `begin` opens the first before anything is sent.
    """

    def __init__(
        self,
        slices: Sequence[tuple[int, int]],
        size: int,
        media_type: str,
        open_part: Callable[[int, int | None], Awaitable[Body]],
    ) -> None:
        # Random, so that no content can have it in it on purpose.
        boundary = secrets.token_hex(16)
        self.media_type = f"multipart/byteranges; boundary={boundary}"
        self._left = deque(
            (
                f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {content_range(start, end, size)}"
                "\r\n\r\n".encode("utf-8", "surrogateescape"),
                start,
                end,
            )
            for start, end in slices
        )
        self._end = f"\r\n--{boundary}--\r\n".encode()
        self.length = sum(len(head) + end - start for head, start, end in self._left) + len(self._end)
        self._open_part = open_part
        self._head = b""
        self._part: Body | None = None

    async def begin(self) -> None:
        """Opens the next part. Raises what `open_part` raises."""
        head, start, end = self._left[0]
        self._part = await self._open_part(start, end)
        self._head = head
        self._left.popleft()

    async def read(self) -> bytes:
        if self._part is None:
            await self._open_next()
        elif not self._head:
            if piece := await self._part.read():
                return piece
            ended, self._part = self._part, None
            try:
                await self._open_next()
            finally:
                # Not before: a download that nobody reads any more is given up.
                await ended.close()
        if self._part is None:
            piece, self._end = self._end, b""
            return piece
        head, self._head = self._head, b""
        return head

    async def _open_next(self) -> None:
        """The next part, if there is one. Raises BodyCut."""
        if self._left:
            try:
                await self.begin()
            except OSError as error:
                raise BodyCut(f"the cache cannot be read: {error.strerror}") from None

    async def close(self) -> None:
        part, self._part = self._part, None
        if part:
            await part.close()


def content_range(start: int, end: int, size: int) -> str:
    """The value of Content-Range for the slice [start, end) of `size` bytes (RFC 9110, section 14.4)."""
    return f"bytes {start}-{end - 1}/{size}"
