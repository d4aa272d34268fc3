"""What is in a root that tells which system it is."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ca.trust.plan import System
from ca.trust.system import FOLDERS

if TYPE_CHECKING:
    from ca.trust.tree import Tree

_RELEASES = ("/etc/os-release", "/usr/lib/os-release")  # os-release(5): the first that exists counts


def system(tree: Tree) -> System:
    text = ""
    for name in _RELEASES:
        try:
            text = tree.real(PurePosixPath(name)).read_text(errors="replace")
        except OSError:
            continue
        break
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    ids = " ".join(pairs.get(key, "").strip().strip("\"'") for key in ("ID", "ID_LIKE")).split()
    return System(tuple(ids), frozenset(folder for folder in FOLDERS if tree.exists(PurePosixPath(folder))))
