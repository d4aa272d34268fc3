"""What is evicted, and what is not because somebody reads or fills it: in this process or, with real ones, another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.descriptors import descriptors

from addon.cache.partial import Claim, Facts
from addon.cache.store import File, Store
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = b"a layer" * 1000
DIGEST = Digest.of(CONTENT)
ROOT = Path(__file__).parents[2]

# Each does one thing with the store in sys.argv[1], says so, and waits to be told to end.
READS = "fd = store.open(digest)"
FILLS = "partial = store.begin(digest); partial.claim(); partial.write(b'half')"
COMMITS = f"partial = store.begin(digest); partial.claim(); partial.write({CONTENT!r}); partial.commit()"
READS_ON = COMMITS + "; reader = partial.reader(); partial.close()"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@contextmanager
def process(store: Store, does: str) -> Iterator[subprocess.Popen[str]]:
    program = "\n".join(
        (
            "import sys, pathlib",
            "from addon.oci import Digest",
            "from addon.cache.store import Store",
            "store = Store(pathlib.Path(sys.argv[1]))",
            f"digest = Digest.parse({str(DIGEST)!r})",
            does,
            "print('done', flush=True)",
            "sys.stdin.read()",
        )
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(store.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "done\n"
        try:
            yield child
        finally:
            child.kill()


def partials(store: Store) -> set[str]:
    return {path.name for path in (store.folder / "partial").iterdir()}


# --- content ---


def test_what_nobody_reads_is_evicted(store: Store) -> None:
    store.add(DIGEST, CONTENT)
    assert store.evict(DIGEST)
    assert store.size(DIGEST) is None
    assert store.evict(DIGEST), "what is not there is gone"


def test_what_is_read_here_is_not_evicted(store: Store) -> None:
    store.add(DIGEST, CONTENT)
    one, other = store.open(DIGEST), store.open(DIGEST)
    assert not store.evict(DIGEST)
    os.close(one)
    assert not store.evict(DIGEST)
    assert os.pread(other, len(CONTENT), 0) == CONTENT
    os.close(other)
    assert store.evict(DIGEST)


@pytest.mark.parametrize("end", ["closes", "is killed"])
def test_what_another_process_reads_is_not_evicted(store: Store, end: str) -> None:
    store.add(DIGEST, CONTENT)
    with process(store, READS) as reader:
        assert not store.evict(DIGEST)
        assert store.read(DIGEST, len(CONTENT)) == CONTENT
        if end == "closes":
            reader.communicate()
        else:
            reader.send_signal(signal.SIGKILL)
            reader.wait()
        assert store.evict(DIGEST)


@pytest.mark.parametrize("does", [COMMITS, READS_ON])
def test_what_another_process_has_just_stored_and_reads_is_not_evicted(store: Store, does: str) -> None:
    with process(store, does) as filler:
        assert store.size(DIGEST) == len(CONTENT)
        assert not store.evict(DIGEST)
        # Opening it must not wait for the other process.
        fd = store.open(DIGEST)
        assert os.pread(fd, len(CONTENT), 0) == CONTENT
        os.close(fd)
        filler.kill()
        filler.wait()
        assert store.evict(DIGEST)


def test_reading_outlives_removal(store: Store) -> None:
    store.add(DIGEST, CONTENT)
    with process(store, READS):
        fd = store.open(DIGEST)
        store.remove(DIGEST)
        assert store.size(DIGEST) is None
        assert os.pread(fd, len(CONTENT), 0) == CONTENT
        os.close(fd)
    store.remove(DIGEST)


def test_no_descriptor_is_left_open(store: Store) -> None:
    store.add(DIGEST, CONTENT)
    fd = store.open(DIGEST)
    before = descriptors()
    store.evict(DIGEST)
    os.close(fd)
    store.evict(DIGEST)
    store.drop(DIGEST)
    assert descriptors() == before - 1


# --- downloads ---


def begun(store: Store, content: bytes) -> None:
    partial = store.begin(DIGEST)
    assert partial.claim() is Claim.OURS
    partial.write(content)
    partial.announce(Facts("docker.io", len(CONTENT), None))
    partial.close()


def test_what_is_left_of_a_download_can_be_dropped(store: Store) -> None:
    begun(store, CONTENT[:100])
    (left,) = store.partials()
    assert left.digest == DIGEST
    assert left.size >= 100
    assert store.drop(DIGEST)
    assert partials(store) == set()
    assert store.partials() == []


def test_facts_without_a_file_can_be_dropped(store: Store) -> None:
    begun(store, CONTENT[:100])
    (store.folder / "partial" / f"sha256-{DIGEST.encoded}").unlink()
    assert [file.digest for file in store.partials()] == [DIGEST]
    assert store.drop(DIGEST)
    assert partials(store) == set()


def test_a_download_that_goes_on_is_not_dropped(store: Store) -> None:
    with process(store, FILLS) as filler:
        assert [(file.digest, file.size) for file in store.partials()] == [(DIGEST, 4)]
        assert not store.drop(DIGEST)
        assert partials(store) == {f"sha256-{DIGEST.encoded}"}
        filler.kill()
        filler.wait()
        assert store.drop(DIGEST)
        assert partials(store) == set()


def test_a_download_whose_file_was_dropped_begins_anew(store: Store) -> None:
    begun(store, CONTENT[:100])
    late = store.begin(DIGEST)
    assert store.drop(DIGEST)
    assert late.claim() is Claim.DROPPED
    late.close()


def test_the_oldest_download_comes_first(store: Store) -> None:
    for name in ("b", "a", "c"):
        digest = Digest.of(name.encode())
        (store.folder / "partial" / f"sha256-{digest.encoded}").write_bytes(b"half")
        os.utime(store.folder / "partial" / f"sha256-{digest.encoded}", (0, ord(name)))
    (store.folder / "partial" / ".new-x").write_bytes(b"")
    (store.folder / "partial" / "sha256-abc").write_bytes(b"")
    (store.folder / "partial" / f"sha256-{DIGEST.encoded}").mkdir()
    assert store.partials() == [File(Digest.of(name.encode()), 4, ord(name)) for name in ("a", "b", "c")]


# --- listing ---


def test_content_and_what_is_none(store: Store) -> None:
    assert list(store.contents()) == []
    assert list(store.strays()) == []
    store.add(DIGEST, CONTENT)
    os.utime(store.path(DIGEST), (0, 12.5))
    blobs = store.folder / "blobs"
    other = Digest.of(b"other")
    (blobs / "sha256" / other.encoded).symlink_to(store.path(DIGEST))
    (blobs / "sha256" / Digest.of(b"folder").encoded).mkdir()
    (blobs / "sha256" / "notes.txt").write_text("")
    (blobs / "sha256" / DIGEST.encoded[:-1]).write_bytes(b"")
    (blobs / "md5").mkdir()
    (blobs / "file").write_text("")
    assert list(store.contents()) == [File(DIGEST, len(CONTENT), 12.5)]
    assert {str(path.relative_to(blobs)) for path in store.strays()} == {
        f"sha256/{other.encoded}",
        f"sha256/{Digest.of(b'folder').encoded}",
        f"sha256/{DIGEST.encoded[:-1]}",
        "sha256/notes.txt",
        "md5",
        "file",
    }


def test_a_folder_of_content_may_be_elsewhere(store: Store, tmp_path: Path) -> None:
    store.add(DIGEST, CONTENT)
    (store.folder / "blobs" / "sha256").rename(tmp_path / "large-disk")
    (store.folder / "blobs" / "sha256").symlink_to(tmp_path / "large-disk")
    assert [file.digest for file in store.contents()] == [DIGEST]
    assert list(store.strays()) == []
