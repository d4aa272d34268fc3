"""Manifests in memory: few and small, and asked for more than anything else.

What is kept is given only as long as the file is still the one it was read from: what is removed or damaged behind our
back is gone, or read again.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.cache.partial import DigestMismatch
from addon.oci import MAX_MANIFEST, Digest, media_type

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from addon.cache.store import Store

# Bytes of all that is kept.
_SPACE = 16 << 20
# Nanoseconds within which a file may change twice and have the same time: the kernel's clock for it has ticks.
_TICK = 50_000_000


@dataclass(frozen=True)
class Kept:
    """A manifest with the right bytes."""

    content: bytes
    media_type: str
    mark: tuple[int, int, int, int]  # of the file


class Manifests:
    """Those of `store` that were asked for last, as far as they fit in `space` bytes.

    `clock` gives nanoseconds since the epoch.
    """

    def __init__(self, store: Store, space: int = _SPACE, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._space = space
        self._clock = clock
        self._kept: dict[Digest, Kept] = {}  # what was asked for longest ago comes first
        self._size = 0

    def get(self, digest: Digest, status: os.stat_result) -> Kept | None:
        """The manifest in the file that has this `status` now; None when it is not here, too large or none.

        Raises DigestMismatch.
        """
        mark = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        kept = self._kept.pop(digest, None)
        if kept and kept.mark == mark:
            self._kept[digest] = kept
            return kept
        if kept:
            self._size -= len(kept.content)
        content = self._store.read(digest, MAX_MANIFEST)
        if content is None:
            return None
        if hashlib.new(digest.algorithm, content).hexdigest() != digest.encoded:
            raise DigestMismatch(f"the bytes are not of {digest}")
        type_ = media_type(content)
        if type_ is None:
            return None
        read = Kept(content, type_, mark)
        if len(content) <= self._space and self._clock() - status.st_ctime_ns > _TICK:
            self._keep(digest, read)
        return read

    def _keep(self, digest: Digest, read: Kept) -> None:
        self._kept[digest] = read
        self._size += len(read.content)
        while self._size > self._space:
            self._size -= len(self._kept.pop(next(iter(self._kept))).content)
