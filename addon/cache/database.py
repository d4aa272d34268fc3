"""The SQLite file with what is *about* content. It may be lost: it is then rebuilt from the files (see rebuild.py)."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Any

from addon.cache import reserve
from addon.cache.connection import Connection
from addon.cache.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger("mirrortap")

# Seconds to wait for another process that is just writing.
_PATIENCE = 5.0

# What makes each format of the one before; twice is as good as once, for two processes may do it at the same time.
# A step only adds: an older mirrortap goes on with a newer format, beside the process that made it (an upgrade) and
# after it (a downgrade). What cannot be added is another file.
_STEPS = (
    """
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
""",
    """
CREATE TABLE IF NOT EXISTS content (
    digest TEXT PRIMARY KEY,
    size INTEGER,       -- bytes that the file must have
    used REAL,          -- when it was last served, seconds since the epoch
    checked REAL        -- when its bytes were last held against its digest
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS content_used ON content (used, digest);
CREATE INDEX IF NOT EXISTS content_checked ON content (checked);
CREATE TABLE IF NOT EXISTS pin (      -- what is never evicted: REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@DIGEST
    reference TEXT PRIMARY KEY
) WITHOUT ROWID;
""",
    """
CREATE TABLE IF NOT EXISTS verdict (  -- whether everybody may read a repository
    registry TEXT, repository TEXT,
    public INTEGER,
    checked REAL,       -- when that was seen, seconds since the epoch
    PRIMARY KEY (registry, repository)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS verdict_private ON verdict (checked) WHERE public = 0;
CREATE TABLE IF NOT EXISTS proof (    -- who else has been given something of a repository
    reader TEXT,        -- a keyed hash of the credential
    registry TEXT, repository TEXT,
    shown REAL,         -- when that was, seconds since the epoch
    until REAL,         -- when it must be shown again
    PRIMARY KEY (reader, registry, repository)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS proof_until ON proof (until);
-- Before there were verdicts, only what anybody was given was cached.
INSERT OR IGNORE INTO verdict (registry, repository, public, checked)
    SELECT DISTINCT registry, repository, 1, 0 FROM link;
""",
)
_VERSION = len(_STEPS)


def connect(path: Path) -> Connection:
    """Opens the database, makes it where it is missing, and anew where it is damaged. Raises StoreError."""
    try:
        return _open(path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY and reserve.spend(path.parent):
            log.warning("%s: %s: used the space that was kept for a full disk", path, error)
            return connect(path)
        # Not damage: locked, no rights, no space, something else in its place.
        remedy = "check the folder's rights and free space"
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            remedy = "another program keeps it locked: fuser -v names that"
        raise StoreError(f"{path}: cannot be used ({error}); {remedy}") from None
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
            "%s was damaged (%s): kept as %s, begun anew; pins are lost, tags are checked upstream again",
            path,
            error,
            damaged,
        )
        return connection


def _open(path: Path) -> Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, factory=Connection)
    try:
        # WAL survives a kill at any moment; what a power cut loses of it is asked again.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < 0:
            raise sqlite3.DatabaseError(f"has format {version}, which there has never been")
        if version < _VERSION:
            steps = "".join(_STEPS[version:])
            connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {_VERSION}; COMMIT;")
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state.replace("\n", " "))
    except BaseException:
        connection.close()
        raise
    return connection


def read(connection: Connection, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """The rows, none when they cannot be had: what is not known is asked upstream."""
    try:
        return connection.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        connection.unread(error)
        return []


def recall(connection: Connection, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """As `read`, of what hits ask again and again: from memory, as long as nobody has written (see connection.py)."""
    try:
        return connection.recall(statement, values)
    except sqlite3.Error as error:
        connection.unread(error)
        return []


def look(connection: Connection) -> None:
    """What others have written by now counts for whatever is recalled from here on."""
    try:
        connection.look()
    except sqlite3.Error as error:
        connection.unread(error)


def write(connection: Connection, statement: str, values: tuple[object, ...] = ()) -> None:
    """Notes something down, if it can be: a full disk costs a question upstream later, never this request."""
    try:
        connection.execute(statement, values)
    except sqlite3.Error as error:
        connection.unwritten(error)


def write_all(connection: Connection, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
    """Notes many things down at once, all of them or none."""
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, rows)
    except sqlite3.Error as error:
        connection.unwritten(error)
