"""How much of the cache must go, and what goes first. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from addon.cache.contents import Entry
    from addon.config.model import Space
    from addon.oci import Digest

# A share of what is allowed that goes beyond what must: so that it is not for every blob that something has to go.
_SLACK = 0.05
# At most so many files, and no more than one beyond so many bytes, go in one step.
_FILES = 16
_BYTES = 256 << 20


@dataclass(frozen=True)
class Disk:
    """Bytes of the file system that the cache is on; `free` for whoever is not root."""

    total: int
    free: int


def excess(used: int, disk: Disk, space: Space, *, full: bool = False) -> int:
    """Bytes that must go, of `used` that are cached; `full`: the disk has just refused to take more."""
    limit, floor = space.cache.of(disk.total), space.free.of(disk.total)
    need = 0
    if used > limit:
        need = used - int(limit * (1 - _SLACK))
    if disk.free < floor:
        need = max(need, int(floor * (1 + _SLACK)) - disk.free)
    if full:
        # A quota, perhaps, that the disk's numbers do not show.
        need = max(need, int(used * _SLACK))
    return min(need, used)


def step(oldest: Iterator[Entry], kept: AbstractSet[Digest], need: int) -> list[Entry]:
    """What is to go next, for `need` bytes: from `oldest` (what was used longest ago first), but nothing of `kept`."""
    going: list[Entry] = []
    size = 0
    for entry in oldest:
        if entry.digest in kept:
            continue
        going.append(entry)
        size += entry.size
        if size >= min(need, _BYTES) or len(going) == _FILES:
            break
    return going
