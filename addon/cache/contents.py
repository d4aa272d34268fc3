"""What is known of cached content: its size, when it was last used, when its bytes were last checked.

Content is read through here, so that nothing is served whose file has changed its size behind our back.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.cache import database
from addon.cache.manifests import Manifests
from addon.cache.partial import DigestMismatch
from addon.oci import MAX_MANIFEST, Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from addon.cache.connection import Connection
    from addon.cache.manifests import Kept
    from addon.cache.store import File, Store

log = logging.getLogger("mirrortap")

# Rows asked for at a time by whoever goes through all of them.
_PAGE = 256


@dataclass(frozen=True)
class Entry:
    """Content, its size in bytes, and when it was last used and checked (seconds since the epoch)."""

    digest: Digest
    size: int
    used: float
    checked: float


class Contents:
    """The content of `store`, and the table about it. `clock` gives seconds since the epoch."""

    def __init__(self, store: Store, connection: Connection, clock: Callable[[], float] = time.time) -> None:
        self.grew: Callable[[int], None] = lambda _: None  # called with the bytes by which there is more
        self._store = store
        self._manifests = Manifests(store)
        self._database = connection
        self._clock = clock
        self._used: dict[Digest, float] = {}  # what the table does not say yet

    @property
    def folder(self) -> Path:
        return self._store.folder

    # What a client gets.

    def look(self) -> None:
        """What other processes have written down by now counts from here on: for whoever begins to ask."""
        database.look(self._database)

    def size(self, digest: Digest) -> int | None:
        """Bytes of the content; None when it is not here, or was damaged and is not here any more."""
        size = self._store.size(digest)
        return size if size is not None and self._sound(digest, size) else None

    def open(self, digest: Digest) -> int:
        """A descriptor on the content, which is not evicted as long as it is open. Raises OSError."""
        fd = self._store.open(digest)
        if not self._sound(digest, os.fstat(fd).st_size):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "it was damaged", str(self._store.path(digest)))
        self._used[digest] = self._clock()
        return fd

    def manifest(self, digest: Digest) -> Kept | None:
        """The content when it is here, its bytes are the right ones, and it is a manifest."""
        status = self._store.status(digest)
        if status is None or status.st_size > MAX_MANIFEST or not self._sound(digest, status.st_size):
            return None
        try:
            kept = self._manifests.get(digest, status)
        except DigestMismatch:
            self.damaged(digest, "its bytes have another digest")
            return None
        if kept:
            self._used[digest] = self._clock()
        return kept

    def _sound(self, digest: Digest, size: int) -> bool:
        rows = database.recall(self._database, "SELECT size FROM content WHERE digest = ?", (str(digest),))
        if not rows:
            self._take_in([(digest, size, self._clock())])
        elif rows[0][0] != size:
            # The row stays: what it says is right.
            self._remove(digest, f"it has {size} bytes, not {rows[0][0]}")
            return False
        return True

    # What happens to content.

    async def add(self, digest: Digest, content: bytes) -> None:
        """Stores content that is at hand. Raises DigestMismatch or OSError."""
        await asyncio.to_thread(self._store.add, digest, content)
        self.added(digest)

    def added(self, digest: Digest) -> None:
        """It has just been verified and stored."""
        size, now = self._store.size(digest), self._clock()
        if size is None:
            return
        database.write(
            self._database,
            "INSERT OR REPLACE INTO content (digest, size, used, checked) VALUES (?, ?, ?, ?)",
            (str(digest), size, now, now),
        )
        self.grew(size)

    def checked(self, digest: Digest) -> None:
        """Its bytes have just been found to be those of its digest, and so as many as there must be."""
        size, now = self._store.size(digest), self._clock()
        if size is not None:
            database.write(
                self._database,
                "INSERT INTO content (digest, size, used, checked) VALUES (?1, ?2, ?3, ?3)"
                " ON CONFLICT (digest) DO UPDATE SET size = ?2, checked = ?3",
                (str(digest), size, now),
            )

    def damaged(self, digest: Digest, how: str) -> None:
        """Its bytes are wrong: it goes, and is downloaded anew when it is asked for."""
        self._remove(digest, how)
        # Where it was damaged before it was known, its row is as wrong.
        self.forget(digest)

    def evicted(self, entries: Iterable[Entry]) -> None:
        """They are not here any more, unless they have been downloaded anew meanwhile."""
        self._forget((str(entry.digest), entry.checked) for entry in entries)

    def forget(self, digest: Digest) -> None:
        """It is not here any more."""
        database.write(self._database, "DELETE FROM content WHERE digest = ?", (str(digest),))

    def flush(self) -> None:
        """Writes down what was used; to be called every few seconds, and at the end."""
        used, self._used = self._used, {}
        if used:
            rows = [(when, str(digest)) for digest, when in used.items()]
            database.write_all(self._database, "UPDATE content SET used = ? WHERE digest = ?", rows)

    def known(self) -> dict[str, float]:
        """What the table has: digests, and when they were checked."""
        return dict(database.read(self._database, "SELECT digest, checked FROM content"))

    def reconcile(self, known: dict[str, float], files: Iterable[File]) -> int:
        """Takes in those files that were not known, and forgets what is not among them. Returns how many are new.

        `files` are all that are here, listed after `known` was asked for.
        """
        here = {str(file.digest): file for file in files}
        now = self._clock()
        new = [(f.digest, f.size, f.modified) for digest, f in here.items() if digest not in known]
        self._take_in(new)
        self._forget((digest, checked) for digest, checked in known.items() if digest not in here)
        # Else what was used or checked before the clock was set back would be so for ever.
        database.write(
            self._database,
            "UPDATE content SET used = min(used, ?1), checked = min(checked, ?1) WHERE used > ?1 OR checked > ?1",
            (now,),
        )
        return len(new)

    def _forget(self, rows: Iterable[tuple[str, float]]) -> None:
        # What was checked since, another process has downloaded anew.
        database.write_all(self._database, "DELETE FROM content WHERE digest = ? AND checked = ?", rows)

    def _take_in(self, files: Iterable[tuple[Digest, int, float]]) -> None:
        database.write_all(
            self._database,
            "INSERT OR IGNORE INTO content (digest, size, used, checked) VALUES (?, ?, ?, 0)",
            [(str(digest), size, used) for digest, size, used in files],
        )

    def _remove(self, digest: Digest, how: str) -> None:
        path = self._store.path(digest)
        try:
            self._store.remove(digest)
        except OSError as error:
            log.warning("%s is damaged (%s), and cannot be removed: %s", path, how, error.strerror)
        else:
            log.warning("%s was damaged (%s): removed, downloaded anew when it is asked for", path, how)

    # What there is.

    def total(self) -> int:
        """Bytes of all content."""
        rows = database.read(self._database, "SELECT coalesce(sum(size), 0) FROM content")
        return int(rows[0][0]) if rows else 0

    def count(self) -> int:
        """How many files."""
        rows = database.read(self._database, "SELECT count(*) FROM content")
        return int(rows[0][0]) if rows else 0

    def by_use(self) -> Iterator[Entry]:
        """All of it, what was not used for longest first. Rows may be forgotten meanwhile."""
        last = (-math.inf, "")
        while rows := database.read(
            self._database,
            "SELECT digest, size, used, checked FROM content"
            " WHERE (used, digest) > (?, ?) ORDER BY used, digest LIMIT ?",
            (*last, _PAGE),
        ):
            for digest, size, used, checked in rows:
                last = (used, digest)
                yield Entry(Digest.parse(digest), size, used, checked)

    def unchecked(self, age: float) -> Digest | None:
        """What was not checked for longest, if that is at least `age` seconds."""
        rows = database.read(
            self._database,
            "SELECT digest FROM content WHERE checked <= ? ORDER BY checked LIMIT 1",
            (self._clock() - age,),
        )
        return Digest.parse(rows[0][0]) if rows else None
