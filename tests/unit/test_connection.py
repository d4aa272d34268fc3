"""What a connection remembers of SQLite's answers: all of it, until somebody writes."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addon.cache import connection as module
from addon.cache import database
from addon.cache.links import Links
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from addon.cache.connection import Connection

QUESTION = "SELECT reference FROM pin WHERE reference = ?"
LOOK = "PRAGMA data_version"
ALL = "abc"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.sqlite"


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    with closing(database.connect(path)) as connection:
        yield connection


@pytest.fixture
def other(path: Path, connection: Connection) -> Iterator[Connection]:
    """As another process has it."""
    with closing(database.connect(path)) as other:
        yield other


@pytest.fixture
def said(connection: Connection) -> list[str]:
    """What SQLite is asked."""
    said: list[str] = []
    connection.set_trace_callback(said.append)
    return said


def known(connection: Connection, name: str = "a") -> bool:
    return bool(database.recall(connection, QUESTION, (name,)))


def pin(connection: Connection, name: str = "a") -> None:
    database.write(connection, "INSERT OR REPLACE INTO pin VALUES (?)", (name,))


def unpin(connection: Connection, name: str = "a") -> None:
    database.write(connection, "DELETE FROM pin WHERE reference = ?", (name,))


async def turn() -> None:
    await asyncio.sleep(0)


async def test_what_was_asked_is_remembered(connection: Connection, said: list[str]) -> None:
    for expected in [LOOK, f"{QUESTION[:-1]}'a'"], [], []:
        said.clear()
        assert not known(connection)
        assert said == expected
    await turn()
    said.clear()
    assert not known(connection)
    assert not known(connection)
    assert said == [LOOK]


async def test_our_own_writes_count_at_once(connection: Connection) -> None:
    for _ in range(2):
        assert not known(connection)
        pin(connection)
        assert known(connection)
        unpin(connection)
    database.write_all(connection, "INSERT INTO pin VALUES (?)", [("b",), ("a",)])
    assert known(connection)
    assert known(connection, "b")


async def test_what_others_write_counts_from_the_next_turn_on(connection: Connection, other: Connection) -> None:
    assert not known(connection)
    pin(other)
    await turn()
    assert known(connection)
    unpin(other)
    await turn()
    assert not known(connection)


async def test_what_others_write_counts_at_once_for_who_looks(connection: Connection, other: Connection) -> None:
    assert not known(connection)
    pin(other)
    database.look(connection)
    assert known(connection)
    unpin(other)
    database.look(connection)
    assert not known(connection)


async def test_who_waited_for_another_sees_what_that_has_written(connection: Connection, other: Connection) -> None:
    """However the other was waited for: its end is heard of in a later turn."""
    written = asyncio.Event()

    async def write() -> None:
        pin(other)
        written.set()

    assert not known(connection)
    task = asyncio.create_task(write())
    await written.wait()
    assert known(connection)
    await task


def test_without_an_event_loop_everything_is_looked_at(connection: Connection, other: Connection) -> None:
    assert not known(connection)
    pin(other)
    assert known(connection)
    unpin(other)
    assert not known(connection)


async def test_what_cannot_be_asked_is_not_remembered(
    connection: Connection, other: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    other.execute("ALTER TABLE pin RENAME TO gone")
    assert not known(connection)
    assert "the cache's database cannot be read" in caplog.text
    pin_gone = "INSERT INTO gone VALUES ('a')"
    other.execute(pin_gone)
    other.execute("ALTER TABLE gone RENAME TO pin")
    await turn()
    assert known(connection)


async def test_what_clients_make_up_does_not_fill_the_memory(
    connection: Connection, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    for n in range(11):
        known(connection, str(n))
    said.clear()
    known(connection, "10")
    assert said == []
    known(connection, "0")
    assert len(said) == 1


async def test_a_closed_database_is_no_obstacle(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    assert not known(connection)
    await turn()
    connection.close()
    database.look(connection)
    assert not Links(connection).known("registry", "repository", Digest.of(b""))
    assert "the cache's database cannot be read" in caplog.text


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["pin", "unpin", "others pin", "others unpin", "turn"]), st.sampled_from(ALL)),
        max_size=20,
    )
)
def test_it_is_always_as_if_it_had_been_asked(steps: list[tuple[str, str]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("db") / "test.sqlite"

    async def play() -> None:
        with closing(database.connect(path)) as ours, closing(database.connect(path)) as theirs:
            for step, name in steps:
                match step:
                    case "pin":
                        pin(ours, name)
                    case "unpin":
                        unpin(ours, name)
                    case "others pin":
                        pin(theirs, name)
                        await turn()
                    case "others unpin":
                        unpin(theirs, name)
                        await turn()
                    case "turn":
                        await turn()
                for each in ALL:
                    assert known(ours, each) == bool(ours.execute(QUESTION, (each,)).fetchall())

    asyncio.run(play())
