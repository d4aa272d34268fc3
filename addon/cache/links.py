"""Which repository is known to hold which digest.

A digest is served for a repository only when an endpoint has shown that this repository holds it. Otherwise a
`HEAD blob` answered from another repository's copy would make a pushing client skip an upload, and a leaked digest
would be a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.cache import database
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.cache.connection import Connection


class Links:
    """Which repository is known to hold which digest."""

    def __init__(self, connection: Connection) -> None:
        self._database = connection

    def add(self, registry: str, repository: str, digest: Digest) -> None:
        database.write(
            self._database,
            "INSERT OR IGNORE INTO link (registry, repository, digest) VALUES (?, ?, ?)",
            (registry, repository, str(digest)),
        )

    def known(self, registry: str, repository: str, digest: Digest) -> bool:
        rows = database.recall(
            self._database,
            "SELECT 1 FROM link WHERE registry = ? AND repository = ? AND digest = ?",
            (registry, repository, str(digest)),
        )
        return bool(rows)

    def restore(self, known: Iterable[tuple[str, str, Digest]]) -> None:
        """(registry, repository, digest) of old."""
        database.write_all(
            self._database,
            "INSERT OR IGNORE INTO link (registry, repository, digest) VALUES (?, ?, ?)",
            ((registry, repository, str(digest)) for registry, repository, digest in known),
        )

    def all(self, limit: int) -> list[tuple[str, str, Digest]]:
        """Every (registry, repository, digest) of cached content that has at most `limit` bytes."""
        rows = database.read(
            self._database,
            "SELECT registry, repository, digest FROM link JOIN content USING (digest) WHERE size <= ?",
            (limit,),
        )
        return [(registry, repository, Digest.parse(digest)) for registry, repository, digest in rows]

    def remove(self, registry: str, repository: str, digest: Digest) -> None:
        database.write(
            self._database,
            "DELETE FROM link WHERE registry = ? AND repository = ? AND digest = ?",
            (registry, repository, str(digest)),
        )

    def prune(self) -> None:
        """Forgets which repositories hold what is not cached any more."""
        database.write(self._database, "DELETE FROM link WHERE digest NOT IN (SELECT digest FROM content)")
