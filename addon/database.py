"""The SQLite file with what is *about* content. It may be lost: the cache then asks upstream again."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Any

from addon.store import StoreError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("mirrortap")

_VERSION = 1
_SCHEMA = f"""
BEGIN;
CREATE TABLE IF NOT EXISTS tag (
    registry TEXT, repository TEXT, tag TEXT,
    accepts TEXT,       -- the manifest types the asking client admits: they may change what a tag points to
    digest TEXT,
    checked REAL,       -- when an endpoint last said so, seconds since the epoch; clocks may be set back, so that
                        -- the newest answer is the one with the highest rowid
    PRIMARY KEY (registry, repository, tag, accepts, digest)
);
CREATE TABLE IF NOT EXISTS link (     -- which repository is known to hold which digest
    registry TEXT, repository TEXT, digest TEXT,
    PRIMARY KEY (registry, repository, digest)
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Opens the database, makes it where it is missing, and anew where it is damaged. Raises StoreError."""
    try:
        return _open(path)
    except sqlite3.OperationalError as error:
        # Not damage: locked, no rights, no space, something else in its place.
        raise StoreError(f"{path}: cannot be used ({error}); check the folder's rights and free space") from None
    except sqlite3.DatabaseError as error:
        damaged = path.with_suffix(".damaged")
        try:
            path.replace(damaged)
            path.with_name(path.name + "-wal").unlink(missing_ok=True)
            path.with_name(path.name + "-shm").unlink(missing_ok=True)
            connection = _open(path)
        except (sqlite3.Error, OSError) as again:
            raise StoreError(f"{path}: cannot be used ({again}); check the folder's rights and free space") from None
        log.warning(
            "%s was damaged (%s): kept as %s, begun anew; content is checked upstream again",
            path,
            error,
            damaged,
        )
        return connection


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # WAL survives a kill at any moment; what a power cut loses of it is asked again.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(_SCHEMA)
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"has format {version}, this mirrortap writes {_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def read(connection: sqlite3.Connection, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """The rows, none when they cannot be had: what is not known is asked upstream."""
    try:
        return connection.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        log.warning("the cache's database cannot be read: %s", error)
        return []


def write(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    """Notes something down, if it can be: a full disk costs a question upstream later, never this request."""
    try:
        connection.execute(statement, values)
    except sqlite3.Error as error:
        log.warning("the cache's database cannot be written: %s", error)
