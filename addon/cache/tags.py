"""What a tag pointed at, when that was checked, and when it may still be believed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from addon.cache import database
from addon.memo import remembered
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from addon.cache.connection import Connection

_digest = remembered(Digest.parse)

# Older answers are kept, because the newest may point at content that never arrived.
_KEPT = 4


@dataclass(frozen=True)
class Pointer:
    """A tag's digest, and how many seconds ago an endpoint said so."""

    digest: Digest
    age: float


class Tags:
    """`clock` gives seconds since the epoch."""

    def __init__(self, connection: Connection, clock: Callable[[], float] = time.time) -> None:
        self._database = connection
        self._clock = clock

    def record(self, registry: str, repository: str, tag: str, accepts: frozenset[str], digest: Digest) -> bool:
        """An endpoint has just said that the tag points at digest, for clients that admit these manifest types.

        Returns whether that is news.
        """
        key = (registry, repository, tag, _text(accepts))
        newest = self._newest(*key)
        database.write(
            self._database,
            "INSERT OR REPLACE INTO tag (registry, repository, tag, accepts, digest, checked)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (*key, str(digest), self._clock()),
        )
        self._forget_older(*key)
        return newest is None or newest[0] != str(digest)

    def _forget_older(self, *key: str) -> None:
        where = "registry = ? AND repository = ? AND tag = ? AND accepts = ?"
        database.write(
            self._database,
            f"DELETE FROM tag WHERE {where} AND digest NOT IN"
            f" (SELECT digest FROM tag WHERE {where} ORDER BY rowid DESC LIMIT {_KEPT})",
            (*key, *key),
        )

    def pointers(self, registry: str, repository: str, tag: str, accepts: frozenset[str]) -> list[Pointer]:
        """What the tag is known to have pointed at, newest first; for exactly these types before any others."""
        now = self._clock()
        rows = database.read(
            self._database,
            "SELECT digest, checked FROM tag WHERE registry = ? AND repository = ? AND tag = ?"
            " ORDER BY accepts = ? DESC, rowid DESC",
            (registry, repository, tag, _text(accepts)),
        )
        return [Pointer(Digest.parse(digest), max(0.0, now - checked)) for digest, checked in rows]

    def fresh(self, registry: str, repository: str, tag: str, accepts: frozenset[str], ttl: float) -> Pointer | None:
        """The pointer that may be believed without asking, or None."""
        row = self._newest(registry, repository, tag, _text(accepts))
        if not row:
            return None
        age = self._clock() - row[1]
        # A clock that was set back must not make an answer good for ever.
        return Pointer(_digest(row[0]), age) if 0 <= age < ttl else None

    def _newest(self, *key: str) -> tuple[str, float] | None:
        rows = database.recall(
            self._database,
            "SELECT digest, checked FROM tag WHERE registry = ? AND repository = ? AND tag = ? AND accepts = ?"
            " ORDER BY rowid DESC LIMIT 1",
            key,
        )
        return rows[0] if rows else None

    def digests(self, registry: str, repository: str, tag: str) -> list[Digest]:
        """What the tag is known to have pointed at, for any client, newest first."""
        rows = database.read(
            self._database,
            "SELECT digest FROM tag WHERE registry = ? AND repository = ? AND tag = ? ORDER BY rowid DESC",
            (registry, repository, tag),
        )
        return [Digest.parse(digest) for (digest,) in rows]

    def adopt(self, registry: str, repository: str, tag: str, digest: Digest) -> None:
        """The operator says that the tag points at digest, whatever manifest types a client admits."""
        key, said = (registry, repository, tag), (str(digest), self._clock())
        database.write(
            self._database,
            "INSERT OR REPLACE INTO tag (registry, repository, tag, accepts, digest, checked)"
            " SELECT ?1, ?2, ?3, accepts, ?4, ?5 FROM"
            " (SELECT accepts FROM tag WHERE registry = ?1 AND repository = ?2 AND tag = ?3 UNION SELECT '')",
            (*key, *said),
        )
        self._forget_older(*key, "")

    def forget(self, registry: str, repository: str, tag: str) -> None:
        database.write(
            self._database,
            "DELETE FROM tag WHERE registry = ? AND repository = ? AND tag = ?",
            (registry, repository, tag),
        )

    def restore(self, known: Iterable[tuple[str, str, str, Digest, float]]) -> None:
        """(registry, repository, tag, digest, when that was last checked), of old: for which types is forgotten."""
        database.write_all(
            self._database,
            "INSERT OR IGNORE INTO tag (registry, repository, tag, accepts, digest, checked)"
            " VALUES (?, ?, ?, '', ?, ?)",
            ((*tag, str(digest), checked) for *tag, digest, checked in known),
        )

    def all(self) -> Iterator[tuple[str, Digest, bool]]:
        """Every (reference, digest, whether everybody may read it) known, the newest of a reference first."""
        rows = database.read(
            self._database,
            "SELECT registry, repository, tag, digest, COALESCE(public, 0)"
            " FROM tag LEFT JOIN verdict USING (registry, repository) ORDER BY tag.rowid DESC",
        )
        for registry, repository, tag, digest, public in rows:
            yield f"{registry}/{repository}:{tag}", Digest.parse(digest), bool(public)


@cache
def _text(accepts: frozenset[str]) -> str:
    return ",".join(sorted(accepts))
