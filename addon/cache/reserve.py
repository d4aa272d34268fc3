"""Some of the disk, kept for when it is full: the cache's database cannot be opened where there is no space at all, and
a proxy that is started then would serve nobody."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "reserve"
# Bytes: for SQLite's shared memory and log. Where less than this much is free, all of that is needed more.
_SIZE, _PLENTY = 1 << 20, 16 << 20


def keep(folder: Path) -> None:
    """Has the file there, if it can be. Blocks. Raises OSError."""
    file = folder / _FILE
    with suppress(FileNotFoundError):
        if file.stat().st_size >= _SIZE:
            return
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < _PLENTY:
        return
    with suppress(OSError):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _SIZE)
        except OSError:
            file.unlink()
        finally:
            os.close(fd)


def spend(folder: Path) -> bool:
    """Whether there was something left to give back. Blocks."""
    try:
        (folder / _FILE).unlink()
    except OSError:
        return False
    return True
