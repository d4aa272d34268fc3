"""What went through the proxy, by minutes, hours and days: a small database of its own, that all workers add to."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from addon.counts.facts import Span, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from addon.counts.tally import Moved

log = logging.getLogger("mirrortap")

# Seconds of a span, and how many of them there are: an hour of minutes, a day of hours, a month of days.
_MINUTE, _HOUR, _DAY = (60, 60), (3600, 24), (86400, 30)
_PATIENCE = 5.0  # seconds to wait for another process that is just writing
_SCHEMA = """
CREATE TABLE IF NOT EXISTS span (
    length INTEGER, start INTEGER,  -- seconds; since the epoch
    cached INTEGER, fetched INTEGER, hits INTEGER, misses INTEGER,
    PRIMARY KEY (length, start)
) WITHOUT ROWID;
"""


class History:
    """For one thread. It may be lost: the charts begin anew then. `clock`: seconds since the epoch."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._said = False

    def add(self, moved: Moved) -> bool:
        """To the spans of now. Whether it could be written."""
        now = int(self._clock())
        values = (moved.cached, moved.fetched, moved.hits, moved.misses)
        rows = [(length, now - now % length, *values) for length, _ in (_MINUTE, _HOUR, _DAY)]
        try:
            connection = self._open()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO span VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET cached = cached"
                    " + excluded.cached, fetched = fetched + excluded.fetched, hits = hits + excluded.hits,"
                    " misses = misses + excluded.misses",
                    rows,
                )
                for length, count in (_MINUTE, _HOUR, _DAY):
                    connection.execute(
                        "DELETE FROM span WHERE length = ? AND start < ?", (length, now - (count + 1) * length)
                    )
        except sqlite3.Error as error:
            self._failed(error)
            return False
        self._said = False
        return True

    def traffic(self) -> Traffic:
        """As it was written down; nothing where it cannot be read."""
        return Traffic(*(self._spans(*each) for each in (_MINUTE, _HOUR, _DAY)))

    def _spans(self, length: int, count: int) -> list[Span]:
        now = int(self._clock())
        last = now - now % length
        first = last - (count - 1) * length
        try:
            rows = self._open().execute(
                "SELECT start, cached, fetched, hits, misses FROM span WHERE length = ? AND start BETWEEN ? AND ?",
                (length, first, last),
            )
            found = {start: Span(start, *values) for start, *values in rows}
        except sqlite3.Error as error:
            self._failed(error)
            found = {}
        return [found.get(start) or Span(start, 0, 0, 0, 0) for start in range(first, last + 1, length)]

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        """Raises sqlite3.Error."""
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                # What a power cut takes of it is some seconds of a chart.
                connection.execute("PRAGMA synchronous = OFF")
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _failed(self, error: sqlite3.Error) -> None:
        self.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            log.warning("%s was damaged (%s): begun anew; the charts show nothing of before", self._path, error)
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        elif not self._said:
            self._said = True
            log.warning("%s cannot be used: %s; the charts have a gap", self._path, error)
