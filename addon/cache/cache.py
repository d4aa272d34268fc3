"""The cache of one folder: content in files, and what is known about it in a database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from addon.cache import database, rebuild
from addon.cache.contents import Contents
from addon.cache.links import Links
from addon.cache.pins import Pins
from addon.cache.rights import Rights
from addon.cache.store import Store
from addon.cache.tags import Tags

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from addon.config.model import Beliefs


class Cache:
    """Of one process; others may have the same folder open."""

    def __init__(self, folder: Path, beliefs: Callable[[], Beliefs], clock: Callable[[], float] = time.time) -> None:
        """Opens the folder, or makes it. Raises StoreError. `clock` gives seconds since the epoch."""
        self.store = Store(folder)
        self.database = database.connect(folder / "mirrortap.sqlite")
        self.contents = Contents(self.store, self.database, clock)
        self.tags = Tags(self.database, clock)
        self.links = Links(self.database)
        self.rights = Rights(self.database, beliefs, clock)
        self.pins = Pins(self.database, self.tags)

    @property
    def folder(self) -> Path:
        return self.store.folder

    def reconcile(self) -> None:
        """Brings what is known in line with the files; before anything is served. Blocks."""
        rebuild.reconcile(self.store, self.contents, self.tags, self.links, self.rights)

    def close(self) -> None:
        self.database.close()
