"""A download's file: who holds its lock writes it, the others follow; what a killed process left is gone on with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.descriptors import descriptors

from addon.cache.partial import Claim, DigestMismatch, Facts, Partial
from addon.cache.store import Store
from addon.oci import Digest

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(number % 251 for number in range(5000))
SHA256 = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
SHA512 = Digest("sha512", hashlib.sha512(CONTENT).hexdigest())
FACTS = Facts("mirror", len(CONTENT), "application/octet-stream")

# Claims the file, writes so much, and is killed.
KILLED = """
import os, signal, sys
from pathlib import Path
from addon.oci import Digest
from addon.cache.store import Store
partial = Store(Path(sys.argv[1])).begin(Digest.parse(sys.argv[2]))
print(partial.claim().name, flush=True)
partial.write(sys.stdin.buffer.read())
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def ours(store: Store, digest: Digest = SHA256) -> Partial:
    partial = store.begin(digest)
    assert partial.claim() is Claim.OURS
    return partial


def left(store: Store) -> set[str]:
    return {file.name for file in (store.folder / "partial").iterdir()}


def test_nothing_is_visible_before_commit(store: Store) -> None:
    partial = ours(store)
    partial.announce(FACTS)
    partial.write(CONTENT)
    partial.verify()
    assert store.size(SHA256) is None
    assert store.read(SHA256, 1 << 20) is None
    partial.commit()
    assert store.read(SHA256, 1 << 20) == CONTENT
    partial.close()
    assert store.read(SHA256, 1 << 20) == CONTENT
    assert left(store) == set()


@pytest.mark.parametrize("digest", [SHA256, SHA512], ids=["sha256", "sha512"])
@pytest.mark.parametrize(
    "wrong", [b"", CONTENT[:-1], CONTENT + b"\0", CONTENT[::-1]], ids=["no", "less", "more", "other"]
)
def test_what_does_not_match_is_never_visible(store: Store, digest: Digest, wrong: bytes) -> None:
    partial = ours(store, digest)
    partial.write(wrong)
    for verifying in (partial.verify, partial.commit):
        with pytest.raises(DigestMismatch, match=f"the bytes have digest {digest.algorithm}:[0-9a-f]+"):
            verifying()
        assert store.size(digest) is None
    partial.drop()
    partial.close()
    assert store.size(digest) is None
    assert left(store) == set()


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=300)))
def test_content_may_come_in_any_pieces(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    store = Store(tmp_path_factory.mktemp("cache"))
    digest = Digest.of(b"".join(pieces))
    partial = ours(store, digest)
    for piece in pieces:
        partial.write(piece)
    partial.commit()
    partial.close()
    assert store.read(digest, 1 << 20) == b"".join(pieces)


# --- several at it ---


def test_only_one_writes(store: Store) -> None:
    one, other = ours(store), store.begin(SHA256)
    assert other.claim() is Claim.TAKEN
    one.write(CONTENT)
    assert (other.claim(), other.size) == (Claim.TAKEN, len(CONTENT))
    one.commit()
    one.close()
    assert other.claim() is Claim.COMPLETE
    assert os.pread(other.reader(), 10_000, 0) == CONTENT
    other.close()
    assert store.read(SHA256, 1 << 20) == CONTENT


def test_what_was_stored_just_before_is_not_downloaded_again(store: Store) -> None:
    """By who found that it is not there, and came after it was."""
    store.add(SHA256, CONTENT)
    late = store.begin(SHA256)
    assert (late.claim(), late.size) == (Claim.COMPLETE, len(CONTENT))
    reader = late.reader()
    late.close()
    assert os.pread(reader, 10_000, 0) == CONTENT
    os.close(reader)
    assert list((store.folder / "partial").iterdir()) == []
    assert store.read(SHA256, 1 << 20) == CONTENT


def test_who_follows_goes_on_when_the_writer_stops(store: Store) -> None:
    one, other = ours(store), store.begin(SHA256)
    reader = other.reader()
    one.announce(FACTS)
    one.write(CONTENT[:1000])
    one.close()
    assert other.facts() == FACTS
    assert other.claim() is Claim.OURS
    assert other.resumable() == 999
    other.take_in()
    other.write(CONTENT[999:])
    other.commit()
    other.close()
    assert os.pread(reader, 10_000, 0) == CONTENT
    os.close(reader)
    assert left(store) == set()


def test_who_follows_what_is_thrown_away_is_told(store: Store) -> None:
    one, other = ours(store), store.begin(SHA256)
    one.write(b"wrong")
    one.drop()
    one.close()
    # A third one may have begun anew meanwhile.
    third = ours(store)
    assert other.claim() is Claim.DROPPED
    other.drop()
    other.close()
    third.write(CONTENT)
    third.commit()
    third.close()
    assert store.read(SHA256, 1 << 20) == CONTENT


def test_what_never_began_leaves_nothing(store: Store) -> None:
    ours(store).close()
    assert left(store) == set()


def test_who_only_follows_takes_nothing_away(store: Store) -> None:
    one, other = ours(store), store.begin(SHA256)
    assert other.claim() is Claim.TAKEN
    other.drop()
    other.close()
    assert left(store) == {f"sha256-{SHA256.encoded}"}
    one.close()


@pytest.mark.parametrize("count", [0, 1, 2, 4999, 5000])
def test_a_killed_writer_gives_way(store: Store, count: int) -> None:
    command = [sys.executable, "-c", KILLED, str(store.folder), str(SHA256)]
    killed = subprocess.run(command, input=CONTENT[:count], stdout=subprocess.PIPE, check=False)
    assert (killed.stdout, killed.returncode) == (b"OURS\n", -9)
    partial = ours(store)
    begun = partial.resumable()
    assert begun == max(0, count - 1)
    partial.take_in()
    partial.write(CONTENT[begun:])
    partial.commit()
    partial.close()
    assert store.read(SHA256, 1 << 20) == CONTENT


def test_what_was_left_may_be_thrown_away(store: Store) -> None:
    one = ours(store)
    one.write(b"of something else")
    one.close()
    other = ours(store)
    other.resumable()
    other.take_in()
    other.restart()
    other.write(CONTENT)
    other.commit()
    other.close()
    assert store.read(SHA256, 1 << 20) == CONTENT


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b"null", b'{"registry": 1}', b'{"x": 1}', b"\xff", b"[" * 100_000], ids=repr
)
def test_facts_that_cannot_be_read_are_none(store: Store, damaged: bytes) -> None:
    partial = ours(store)
    (store.folder / "partial" / f"sha256-{SHA256.encoded}.json").write_bytes(damaged)
    assert partial.facts() is None
    partial.close()


# --- readers ---


def test_a_reader_sees_what_was_written_so_far(store: Store) -> None:
    partial = ours(store)
    reader = partial.reader()
    assert os.pread(reader, 10, 0) == b""
    partial.write(CONTENT[:100])
    assert os.pread(reader, 1000, 0) == CONTENT[:100]
    partial.write(CONTENT[100:])
    partial.commit()
    late = partial.reader()
    partial.close()
    for each in (reader, late):
        assert os.pread(each, 10_000, 0) == CONTENT
        os.close(each)


def test_a_reader_outlives_what_it_reads(store: Store) -> None:
    partial = ours(store)
    partial.write(CONTENT)
    reader = partial.reader()
    partial.drop()
    partial.close()
    assert os.pread(reader, 10_000, 0) == CONTENT
    os.close(reader)


def test_no_descriptor_is_left_open(store: Store) -> None:
    before = descriptors()
    one, other = ours(store), store.begin(SHA256)
    one.announce(FACTS)
    one.write(CONTENT)
    other.facts()
    one.commit()
    one.close()
    other.close()
    assert descriptors() == before
