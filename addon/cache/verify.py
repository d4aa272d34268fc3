"""Holding content on disk against its digest."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.oci import Digest

_CHUNK = 1 << 20


def sound(fd: int, digest: Digest, progress: Callable[[int], None]) -> bool:
    """Whether the file has this digest. Blocks; calls `progress` with the bytes of each piece. Raises OSError."""
    whole = hashlib.new(digest.algorithm)
    offset = 0
    try:
        while piece := os.pread(fd, _CHUNK, offset):
            whole.update(piece)
            offset += len(piece)
            progress(len(piece))
    except OSError as error:
        if error.errno == errno.EIO:
            # What the disk cannot give back is as bad as what it gives back wrongly.
            return False
        raise
    return whole.hexdigest() == digest.encoded
