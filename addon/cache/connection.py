"""A connection to SQLite that remembers what it was told, until anybody has written to the database.

What is asked for again and again is then answered without SQLite, but for the question whether that still holds.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import Any

from addon.journal import Seldom

log = logging.getLogger("mirrortap")

# Answers; each takes about half a kilobyte.
_MOST = 8192


class Connection(sqlite3.Connection):
    """What this connection itself writes counts at once; what others write, in any process, from the next turn of the
    event loop on: whoever waited for something, and whoever has called `look`, sees it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._told: dict[tuple[str, tuple[object, ...]], list[tuple[Any, ...]]] = {}
        self._version = -1  # of what others write
        self._written = 0  # by this connection: rows
        self._looked = False  # in this turn of the event loop
        self._unread, self._unwritten = Seldom(log), Seldom(log)

    def unread(self, error: sqlite3.Error) -> None:
        """Says so, but not for each of the many questions that come while it lasts; `unwritten` likewise."""
        self._unread.warning("the cache's database cannot be read: %s", error)

    def unwritten(self, error: sqlite3.Error) -> None:
        self._unwritten.warning("the cache's database cannot be written: %s", error)

    def look(self) -> None:
        """What others have written by now counts from here on. Raises sqlite3.Error."""
        ((version,),) = self.execute("PRAGMA data_version")
        if version != self._version:
            self._version = version
            self._told.clear()
        if not self._looked:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return  # there are no turns: every question looks
            loop.call_soon(self._turned)
            self._looked = True

    def _turned(self) -> None:
        self._looked = False

    def recall(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """The rows, remembered or not. Raises sqlite3.Error."""
        if not self._looked:
            self.look()
        if self._written != self.total_changes:
            self._written = self.total_changes
            self._told.clear()
        question = statement, values
        rows = self._told.get(question)
        if rows is None:
            rows = self.execute(statement, values).fetchall()
            if len(self._told) >= _MOST:
                self._told.clear()
            self._told[question] = rows
        return rows
