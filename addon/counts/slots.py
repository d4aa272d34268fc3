"""Memory that forked processes share: one slot for each, that it alone writes and all read."""

from __future__ import annotations

import mmap
import struct
import zlib

# Of each half of a slot: bytes of what is in it, and their checksum.
_HEAD = struct.Struct("=II")
# Times that a reader tries again, for the writer was quicker: it writes twice a second.
_TRIES = 3


class Slots:
    """To be made before the fork. Numbers are from 1 to `count`.

    A slot has two halves, of which one is written while the other is read; so a process may be killed while it writes.
    """

    def __init__(self, count: int, size: int = 1 << 20) -> None:
        """`size`: bytes of a half."""
        self.count = count
        self._size = size
        self._memory = mmap.mmap(-1, count * (1 + 2 * size))

    def write(self, number: int, content: bytes) -> bool:
        """Whether there was room for it."""
        if len(content) > self._size - _HEAD.size:
            return False
        at = self._at(number)
        half = 1 - self._memory[at]
        begin = self._begin(at, half)
        _HEAD.pack_into(self._memory, begin, len(content), zlib.crc32(content))
        self._memory[begin + _HEAD.size : begin + _HEAD.size + len(content)] = content
        self._memory[at] = half
        return True

    def read(self, number: int) -> bytes:
        """What was written last; b"" before the first time."""
        at = self._at(number)
        for _ in range(_TRIES):
            begin = self._begin(at, self._memory[at])
            size, check = _HEAD.unpack_from(self._memory, begin)
            content = self._memory[begin + _HEAD.size : begin + _HEAD.size + size]
            if zlib.crc32(content) == check:
                return content
        return b""

    def _at(self, number: int) -> int:
        return (number - 1) * (1 + 2 * self._size)

    def _begin(self, at: int, half: int) -> int:
        return at + 1 + half * self._size
