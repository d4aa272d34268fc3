"""The database: made, reopened, and begun anew when it is no use; it may be lost, so it must never be in the way."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from addon.cache import database
from addon.cache.store import StoreError

if TYPE_CHECKING:
    from pathlib import Path

LINK = "INSERT INTO link VALUES ('docker.io', 'a', 'sha256:x')"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirrortap.sqlite"


def links(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM link").fetchone()[0]
    return count


def test_a_new_database(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"tag", "link", "content", "pin", "verdict", "proof"}
    assert caplog.messages == []


def test_what_was_written_is_there_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(path)) as connection:
        connection.execute(LINK)
        # Not closed, as after a kill: what is only in the -wal file counts.
        with closing(database.connect(path)) as other:
            assert links(other) == 1
    with closing(database.connect(path)) as connection:
        assert links(connection) == 1
    assert caplog.messages == []


def test_an_empty_file_is_a_new_database(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.touch()
    with closing(database.connect(path)) as connection:
        assert links(connection) == 0
    assert caplog.messages == []


def begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The old file is kept, an operator is told, and the new one works."""
    before = path.read_bytes()
    with closing(database.connect(path)) as connection:
        assert links(connection) == 0
        connection.execute(LINK)
    assert path.with_suffix(".damaged").read_bytes() == before
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in (str(path), str(path.with_suffix(".damaged")), "begun anew"):
        assert part in record.getMessage()
    caplog.clear()
    with closing(database.connect(path)) as connection:
        assert links(connection) == 1
    assert caplog.messages == []


@pytest.mark.parametrize("garbage", [b"not a database at all\n" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_garbage_is_set_aside(path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(garbage)
    # Of another file: SQLite would replay it into the new one.
    path.with_name(path.name + "-wal").write_bytes(b"stale" * 100)
    begun_anew(path, caplog)


def test_a_newer_format_is_used_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a newer mirrortap: its steps have only added, and it may be at work with the file."""
    with closing(database.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
        newer.execute("CREATE TABLE later (x)")
        with closing(database.connect(path)) as connection:
            connection.execute(LINK)
            assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert links(newer) == 1
    assert caplog.messages == []
    assert not path.with_suffix(".damaged").exists()


FIRST_FORMAT = """
CREATE TABLE tag (
    registry TEXT, repository TEXT, tag TEXT, accepts TEXT, digest TEXT, checked REAL,
    PRIMARY KEY (registry, repository, tag, accepts, digest)
);
CREATE TABLE link (
    registry TEXT, repository TEXT, digest TEXT, PRIMARY KEY (registry, repository, digest)
) WITHOUT ROWID;
INSERT INTO tag VALUES ('docker.io', 'a', '1', '', 'sha256:x', 12.5);
INSERT INTO link VALUES ('docker.io', 'a', 'sha256:x');
PRAGMA user_version = 1;
"""


def test_the_first_format_is_brought_up_to_date(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_FORMAT)
    for _ in range(2):
        with closing(database.connect(path)) as connection:
            assert connection.execute("SELECT * FROM tag").fetchall() == [("docker.io", "a", "1", "", "sha256:x", 12.5)]
            assert links(connection) == 1
            assert connection.execute("SELECT count(*) FROM content").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM pin").fetchone() == (0,)
    assert caplog.messages == []
    assert not path.with_suffix(".damaged").exists()


def test_bringing_it_up_to_date_is_all_or_nothing(path: Path) -> None:
    """As when the disk is full: the next start tries again, and nothing is lost."""
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_FORMAT)
        old.execute("CREATE TABLE content_checked (x)")  # a step in the middle fails: that is to be an index
    with pytest.raises(StoreError, match="cannot be used"):
        database.connect(path)
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        assert old.execute("SELECT count(*) FROM sqlite_master WHERE name = 'content'").fetchone() == (0,)
        old.execute("DROP TABLE content_checked")
    with closing(database.connect(path)) as connection:
        assert links(connection) == 1


def test_damage_in_the_middle_is_found_at_the_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(path)) as connection:
        connection.executemany("INSERT INTO link VALUES ('docker.io', 'a', ?)", [(f"sha256:{n}",) for n in range(9000)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = bytes(8192)
    path.write_bytes(content)
    begun_anew(path, caplog)


def test_a_negative_format_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(path)) as connection:
        connection.execute("PRAGMA user_version = -1")
    begun_anew(path, caplog)


def test_all_rows_are_written_or_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    statement = "INSERT INTO link VALUES ('docker.io', 'a', ?)"
    with closing(database.connect(path)) as connection:
        database.write_all(connection, statement, [("sha256:x",), ("sha256:y",), ("sha256:x",)])
        assert links(connection) == 0
        assert "the cache's database cannot be written: UNIQUE constraint failed" in caplog.text
        database.write_all(connection, statement, [("sha256:x",), ("sha256:y",)])
        assert links(connection) == 2


def test_another_process_that_is_writing_is_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        closing(database.connect(path)) as connection,
        closing(sqlite3.connect(path, check_same_thread=False)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, other.rollback)
        release.start()
        database.write(connection, LINK)
        release.join()
        assert links(connection) == 1
    assert caplog.messages == []


def test_what_a_kill_while_it_was_made_left(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(path)) as half:
        half.execute("CREATE TABLE tag (registry TEXT)")
    with closing(database.connect(path)) as connection:
        connection.execute(LINK)
        assert links(connection) == 1
    assert all("begun anew" in message for message in caplog.messages)


def test_damage_twice(path: Path) -> None:
    for _ in range(2):
        path.write_bytes(b"not a database at all\n" * 100)
        database.connect(path).close()


def test_a_folder_that_is_not_there(path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        database.connect(path / "below" / "mirrortap.sqlite")
    assert str(path / "below" / "mirrortap.sqlite") in str(caught.value)
    assert "check the folder's rights and free space" in str(caught.value)


def test_a_full_disk_costs_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(path)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        for i in range(200):
            database.write(connection, "INSERT INTO link VALUES (?, ?, ?)", ("docker.io", "a" * 200, str(i)))
        assert caplog.messages == ["the cache's database cannot be written: database or disk is full"]
        assert 0 < links(connection) < 200


def test_one_that_another_program_keeps_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            StoreError, match=r"\(database is locked\); another program keeps it locked: fuser -v names"
        ):
            database.connect(path)
