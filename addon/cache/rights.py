"""Whether everybody may read a repository, and who else has shown that they may: as far as that is remembered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.cache import database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from addon.cache.connection import Connection
    from addon.config.model import Beliefs


@dataclass(frozen=True)
class Verdict:
    """Whether everybody may read; `fresh`: whether that may be believed without asking again."""

    public: bool
    fresh: bool


@dataclass(frozen=True)
class Proof:
    """A reader has been given something; `fresh` as above, `within_grace`: may do while nobody can be asked."""

    fresh: bool
    within_grace: bool


class Rights:
    """`beliefs` are looked up each time, `clock` gives seconds since the epoch.

    Readers are told apart by fingerprints of their credentials.
    """

    def __init__(
        self, connection: Connection, beliefs: Callable[[], Beliefs], clock: Callable[[], float] = time.time
    ) -> None:
        self._database = connection
        self._beliefs = beliefs
        self._clock = clock

    def verdict(self, registry: str, repository: str) -> Verdict | None:
        rows = database.recall(
            self._database,
            "SELECT public, checked FROM verdict WHERE registry = ? AND repository = ?",
            (registry, repository),
        )
        if not rows:
            return None
        public, checked = bool(rows[0][0]), rows[0][1]
        # A clock that was set back must not make a verdict good for ever.
        return Verdict(public, 0 <= self._clock() - checked < self._ttl(public))

    def is_private(self, registry: str, repository: str) -> bool:
        """Whether it was seen that not everybody may read: by a refusal, or by what only some have been given."""
        verdict = self.verdict(registry, repository)
        if verdict:
            return not verdict.public
        proofs = database.read(
            self._database,
            "SELECT 1 FROM proof WHERE registry = ? AND repository = ? LIMIT 1",
            (registry, repository),
        )
        return bool(proofs)

    def judge(self, registry: str, repository: str, public: bool) -> None:
        """It has just been seen that everybody may read the repository, or that not everybody may."""
        now = self._clock()
        if not public:
            # Clients name repositories as they like.
            database.write(
                self._database, "DELETE FROM verdict WHERE public = 0 AND checked < ?", (now - self._beliefs().private,)
            )
        database.write(
            self._database,
            "INSERT INTO verdict (registry, repository, public, checked) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET public = excluded.public, checked = excluded.checked"
            # Each blob of an image says the same.
            " WHERE public != excluded.public OR checked > excluded.checked OR checked < ?",
            (registry, repository, public, now, now - self._ttl(public) / 2),
        )

    def proof(self, reader: str, registry: str, repository: str) -> Proof | None:
        rows = database.recall(
            self._database,
            "SELECT shown, until FROM proof WHERE reader = ? AND registry = ? AND repository = ?",
            (reader, registry, repository),
        )
        if not rows:
            return None
        shown, until = rows[0]
        now = self._clock()
        return Proof(shown <= now < until, 0 <= now - shown <= self._beliefs().grace)

    def prove(self, reader: str, registry: str, repository: str, ends: float | None) -> None:
        """The reader has just been given something of the repository; its credential ends then (None: not known)."""
        now = self._clock()
        until = now + self._beliefs().access
        if ends is not None:
            until = min(until, ends)
        database.write(
            self._database, "DELETE FROM proof WHERE until < ? AND shown < ?", (now, now - self._beliefs().grace)
        )
        database.write(
            self._database,
            "INSERT INTO proof (reader, registry, repository, shown, until) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET shown = excluded.shown, until = excluded.until",
            (reader, registry, repository, now, until),
        )

    def disprove(self, reader: str, registry: str, repository: str) -> None:
        """The reader has just been refused."""
        database.write(
            self._database,
            "DELETE FROM proof WHERE reader = ? AND registry = ? AND repository = ?",
            (reader, registry, repository),
        )

    def restore(self, public: Iterable[tuple[str, str]]) -> None:
        """(registry, repository) that everybody could read once."""
        database.write_all(
            self._database,
            "INSERT OR IGNORE INTO verdict (registry, repository, public, checked) VALUES (?, ?, 1, 0)",
            public,
        )

    def _ttl(self, public: bool) -> float:
        return self._beliefs().public if public else self._beliefs().private
