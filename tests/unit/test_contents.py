"""What is known of content: sizes that must be, use, checks; and what happens when files are not as they should be."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.clock import Clock
from support.descriptors import descriptors

from addon.cache import database
from addon.cache.contents import Contents, Entry
from addon.cache.store import Store
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from addon.cache.connection import Connection

CONTENT = b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] }' + b" " * 1000
DIGEST = Digest.of(CONTENT)
SIZE = len(CONTENT)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def connection(store: Store) -> Iterator[Connection]:
    with closing(database.connect(store.folder / "mirrortap.sqlite")) as connection:
        yield connection


@pytest.fixture
def contents(store: Store, connection: Connection, clock: Clock) -> Contents:
    return Contents(store, connection, clock)


def put(store: Store, contents: Contents, content: bytes = CONTENT) -> Digest:
    digest = Digest.of(content)
    store.add(digest, content)
    contents.added(digest)
    return digest


def rows(connection: Connection) -> dict[str, tuple[int, float, float]]:
    found = connection.execute("SELECT digest, size, used, checked FROM content").fetchall()
    return {digest: (size, used, checked) for digest, size, used, checked in found}


def reconcile(store: Store, contents: Contents) -> int:
    return contents.reconcile(contents.known(), store.contents())


def can_open(contents: Contents, digest: Digest = DIGEST) -> bool:
    try:
        fd = contents.open(digest)
    except FileNotFoundError:
        return False
    os.close(fd)
    return True


def read(contents: Contents) -> bytes | None:
    kept = contents.manifest(DIGEST)
    return kept.content if kept else None


# --- reading ---


def test_what_is_stored_is_known(store: Store, contents: Contents, connection: Connection) -> None:
    grown: list[int] = []
    contents.grew = grown.append
    assert contents.size(DIGEST) is None
    assert contents.manifest(DIGEST) is None
    assert not can_open(contents)
    put(store, contents)
    assert grown == [SIZE]
    assert rows(connection) == {str(DIGEST): (SIZE, 1_000_000.0, 1_000_000.0)}
    assert contents.size(DIGEST) == SIZE
    assert read(contents) == CONTENT
    fd = contents.open(DIGEST)
    assert os.pread(fd, SIZE + 1, 0) == CONTENT
    os.close(fd)


def test_what_is_open_is_not_evicted(store: Store, contents: Contents) -> None:
    put(store, contents)
    fd = contents.open(DIGEST)
    assert not store.evict(DIGEST)
    os.close(fd)
    assert store.evict(DIGEST)


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"\0", b""], ids=["shorter", "longer", "empty"])
@pytest.mark.parametrize("look", ["size", "open"])
def test_a_file_of_another_size_is_removed(
    store: Store,
    contents: Contents,
    connection: Connection,
    damage: bytes,
    look: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(store, contents)
    store.path(DIGEST).write_bytes(damage)
    assert not (contents.size(DIGEST) if look == "size" else can_open(contents))
    assert not store.path(DIGEST).exists()
    (message,) = caplog.messages
    assert str(store.path(DIGEST)) in message
    assert f"it has {len(damage)} bytes, not {SIZE}" in message
    # What it must be is still known: another process that has it open must not take it for whole.
    assert rows(connection)[str(DIGEST)][0] == SIZE
    put(store, contents)
    assert contents.size(DIGEST) == SIZE


def test_a_damaged_file_closes_its_descriptor(store: Store, contents: Contents) -> None:
    put(store, contents)
    store.path(DIGEST).write_bytes(b"short")
    before = descriptors()
    assert not can_open(contents)
    assert descriptors() == before


def test_a_manifest_with_other_bytes_is_removed(
    store: Store, contents: Contents, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, contents)
    store.path(DIGEST).write_bytes(CONTENT[::-1])
    assert contents.manifest(DIGEST) is None
    assert not store.path(DIGEST).exists()
    assert str(store.path(DIGEST)) in caplog.text


def test_what_is_not_known_is_taken_in(store: Store, contents: Contents, connection: Connection) -> None:
    """As after a crash between storing it and noting it down."""
    store.add(DIGEST, CONTENT)
    assert can_open(contents)
    assert rows(connection) == {str(DIGEST): (SIZE, 1_000_000.0, 0.0)}
    store.path(DIGEST).write_bytes(b"short")
    assert not can_open(contents)


def test_damage_that_cannot_be_removed_is_not_served(
    store: Store, contents: Contents, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, contents)
    # A folder cannot be unlinked, and stops root too.
    store.path(DIGEST).unlink()
    store.path(DIGEST).mkdir()
    assert contents.size(DIGEST) is None
    assert "cannot be removed: Is a directory" in caplog.text


def test_an_unusable_database_is_no_obstacle(
    store: Store, contents: Contents, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.execute("DROP TABLE content")
    put(store, contents)
    assert contents.size(DIGEST) == SIZE
    assert read(contents) == CONTENT
    assert can_open(contents)
    contents.flush()
    contents.checked(DIGEST)
    contents.forget(DIGEST)
    reconcile(store, contents)
    assert contents.total() == 0
    assert list(contents.by_use()) == []
    assert contents.unchecked(0) is None
    assert "the cache's database cannot be" in caplog.text


# --- use ---


def test_use_is_written_in_batches(store: Store, contents: Contents, connection: Connection, clock: Clock) -> None:
    one, two, three = (put(store, contents, name) for name in (b"one", b"two", b"three"))
    clock.now += 10
    can_open(contents, two)
    clock.now += 1
    can_open(contents, one)
    contents.size(three)
    assert [entry.digest for entry in contents.by_use()] == sorted((one, two, three), key=str)
    contents.flush()
    assert list(contents.by_use()) == [
        Entry(three, 5, 1_000_000.0, 1_000_000.0),
        Entry(two, 3, 1_000_010.0, 1_000_000.0),
        Entry(one, 3, 1_000_011.0, 1_000_000.0),
    ]
    changes = connection.total_changes
    contents.flush()
    assert connection.total_changes == changes


def test_all_entries_come_once_while_some_are_forgotten(store: Store, contents: Contents, clock: Clock) -> None:
    expected = []
    for n in range(700):
        clock.now += n % 3 == 0  # many of the same time
        expected.append(put(store, contents, b"%d" % n))
    seen = []
    for entry in contents.by_use():
        seen.append(entry.digest)
        contents.evicted([entry])
    assert len(seen) == 700
    assert set(seen) == set(expected)
    assert contents.total() == 0


def test_the_total_is_that_of_all_files(store: Store, contents: Contents) -> None:
    assert contents.total() == 0
    one, _ = put(store, contents, b"one"), put(store, contents, b"three")
    put(store, contents, b"one")
    assert contents.total() == 8
    contents.forget(one)
    assert contents.total() == 5


# --- checks ---


def test_what_was_not_checked_for_longest(store: Store, contents: Contents, clock: Clock) -> None:
    assert contents.unchecked(0) is None
    one, two = put(store, contents, b"one"), put(store, contents, b"two")
    clock.now += 100
    contents.checked(one)
    assert contents.unchecked(101) is None
    assert contents.unchecked(100) == two
    clock.now += 1
    contents.checked(two)
    assert contents.unchecked(1) == one


def test_right_bytes_have_the_right_size(store: Store, contents: Contents, connection: Connection) -> None:
    """Where it was taken in when it was short, and downloaded anew by somebody who could not note that down."""
    store.add(DIGEST, CONTENT)
    contents.checked(DIGEST)
    connection.execute("UPDATE content SET size = 1")
    contents.checked(DIGEST)
    assert contents.size(DIGEST) == SIZE
    contents.checked(Digest.of(b"not there"))
    assert len(rows(connection)) == 1


def test_found_damage_forgets_the_size(store: Store, contents: Contents, connection: Connection) -> None:
    store.add(DIGEST, CONTENT)
    store.path(DIGEST).write_bytes(b"short from the beginning")
    assert contents.size(DIGEST) == 24
    contents.damaged(DIGEST, "its bytes have another digest")
    assert rows(connection) == {}
    assert contents.size(DIGEST) is None


# --- files and table ---


def test_table_and_files_are_brought_in_line(
    store: Store, contents: Contents, connection: Connection, clock: Clock
) -> None:
    known, gone = put(store, contents, b"known"), put(store, contents, b"gone")
    store.remove(gone)
    old, future = Digest.of(b"old"), Digest.of(b"future")
    for digest, content, when in (old, b"old", 5.0), (future, b"future", 2_000_000.0):
        store.add(digest, content)
        os.utime(store.path(digest), (when, when))
    assert reconcile(store, contents) == 2
    assert rows(connection) == {
        str(known): (5, 1_000_000.0, 1_000_000.0),
        str(old): (3, 5.0, 0.0),
        str(future): (6, 1_000_000.0, 0.0),
    }
    assert reconcile(store, contents) == 0


def test_a_known_size_is_not_taken_from_a_damaged_file(store: Store, contents: Contents) -> None:
    put(store, contents)
    store.path(DIGEST).write_bytes(b"short")
    reconcile(store, contents)
    assert contents.size(DIGEST) is None


def test_a_clock_that_was_set_back(store: Store, contents: Contents, connection: Connection, clock: Clock) -> None:
    """What was used and checked before must not seem newer than all that comes."""
    put(store, contents)
    clock.now -= 500_000
    reconcile(store, contents)
    assert rows(connection)[str(DIGEST)] == (SIZE, 500_000.0, 500_000.0)


def test_rows_that_nobody_wrote_are_forgotten(store: Store, contents: Contents, connection: Connection) -> None:
    connection.execute("INSERT INTO content VALUES ('no digest', 1, 1, 1)")
    reconcile(store, contents)
    assert rows(connection) == {}


def test_a_folder_that_cannot_be_listed(store: Store, contents: Contents) -> None:
    (store.folder / "blobs").write_text("")
    with pytest.raises(NotADirectoryError):
        reconcile(store, contents)


def test_what_was_downloaded_anew_meanwhile_is_not_forgotten(
    store: Store, contents: Contents, connection: Connection, clock: Clock
) -> None:
    """By another process, between the removal of the file and the note of it."""
    put(store, contents)
    (entry,), known = contents.by_use(), contents.known()
    store.evict(DIGEST)
    files = list(store.contents())
    clock.now += 1
    put(store, contents)
    contents.evicted([entry])
    contents.reconcile(known, files)
    assert list(rows(connection)) == [str(DIGEST)]
    # Nor is what was noted down meanwhile taken for a file that nobody knows.
    contents.reconcile({}, store.contents())
    assert rows(connection)[str(DIGEST)][2] == clock.now
    # Of what is gone, it is of no matter that somebody has used it.
    (entry,) = contents.by_use()
    clock.now += 1
    contents.manifest(DIGEST)
    contents.flush()
    contents.evicted([entry])
    assert rows(connection) == {}
