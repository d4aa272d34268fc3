"""What is never evicted: tags and digests that the operator has named, and all that they reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.cache import database, manifest
from addon.cache.reference import Reference
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.cache.connection import Connection
    from addon.cache.store import Store
    from addon.cache.tags import Tags


class Pins:
    """The references that are pinned."""

    def __init__(self, connection: Connection, tags: Tags) -> None:
        self._database = connection
        self._tags = tags

    def add(self, reference: Reference) -> None:
        """Pins what it points at, now and whenever that changes; it may be unknown as yet."""
        database.write(self._database, "INSERT OR IGNORE INTO pin (reference) VALUES (?)", (str(reference),))

    def remove(self, reference: Reference) -> None:
        database.write(self._database, "DELETE FROM pin WHERE reference = ?", (str(reference),))

    def all(self) -> list[Reference]:
        rows = database.read(self._database, "SELECT reference FROM pin ORDER BY reference")
        return [Reference.parse(text) for (text,) in rows]

    def pointers(self, reference: Reference) -> list[Digest]:
        """What it points at, or has pointed at, the newest first."""
        if isinstance(reference.target, Digest):
            return [reference.target]
        return self._tags.digests(reference.registry, reference.repository, reference.target)


def held(store: Store, pointers: Iterable[list[Digest]]) -> set[Digest]:
    """What pins with these pointers keep: of each, the newest manifest that is here, and what it reaches. Blocks."""
    kept: set[Digest] = set()
    for digests in pointers:
        # The newest may be known, but not downloaded yet.
        newest = next((digest for digest in digests if store.size(digest) is not None), None)
        if newest:
            kept.update(manifest.reach(store, newest))
    return kept
