"""A folder as a value: two are equal when nobody could tell them apart."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def snapshot(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """name -> kind and mode, owner, group, and bytes, or where a link points."""
    found = {}
    for path in [root, *root.rglob("*")]:
        about = path.lstat()
        data = b""
        if path.is_symlink():
            data = bytes(path.readlink())
        elif stat.S_ISREG(about.st_mode):
            data = path.read_bytes()
        found[str(path.relative_to(root))] = (about.st_mode, about.st_uid, about.st_gid, data)
    return found
