"""The cache on disk: what is where and when, and what a process that was killed leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from addon.cache.partial import DigestMismatch, Facts
from addon.cache.store import Store, StoreError
from addon.oci import OCI_INDEX, OCI_MANIFEST, Digest

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"a layer" * 1000
SHA256 = Digest.of(CONTENT)
SHA512 = Digest("sha512", hashlib.sha512(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def put(store: Store, content: bytes, digest: Digest | None = None) -> Digest:
    digest = digest or Digest.of(content)
    store.add(digest, content)
    return digest


def index(store: Store) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((store.folder / "index.json").read_bytes())
    return document


def reading(fd: int) -> bytes:
    """All there is so far, by position, as descriptors of what is being written want it."""
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


# --- the layout ---


def test_a_new_store_is_an_empty_image_layout(store: Store) -> None:
    """Image-spec, "Image Layout Specification"."""
    assert json.loads((store.folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index(store) == {"schemaVersion": 2, "manifests": []}
    assert files(store.folder) == {"oci-layout", "index.json"}


def test_an_old_store_is_opened_without_writing(store: Store) -> None:
    """There may be no room for that until something is evicted."""
    before = {path: path.stat().st_ino for path in store.folder.iterdir()}
    Store(store.folder)
    assert {path: path.stat().st_ino for path in store.folder.iterdir()} == before


@pytest.mark.parametrize("digest", [SHA256, SHA512], ids=["sha256", "sha512"])
def test_content_is_where_any_tool_looks_for_it(store: Store, digest: Digest) -> None:
    assert store.size(digest) is None
    put(store, CONTENT, digest)
    path = store.folder / "blobs" / digest.algorithm / digest.encoded
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert store.size(digest) == len(CONTENT)
    assert store.read(digest, len(CONTENT)) == CONTENT
    assert reading(store.open(digest)) == CONTENT
    assert files(store.folder) == {"oci-layout", "index.json", f"blobs/{digest.algorithm}/{digest.encoded}"}


def test_content_is_no_longer_than_the_reader_wants(store: Store) -> None:
    put(store, CONTENT)
    assert store.read(SHA256, len(CONTENT) - 1) is None
    assert store.read(SHA512, len(CONTENT)) is None
    with pytest.raises(FileNotFoundError):
        store.open(SHA512)


def test_the_cache_outlives_its_process(store: Store) -> None:
    put(store, CONTENT)
    assert Store(store.folder).read(SHA256, 1 << 20) == CONTENT


# --- writing ---


def test_a_mismatch_leaves_good_content_alone(store: Store) -> None:
    put(store, CONTENT)
    with pytest.raises(DigestMismatch):
        store.add(SHA256, b"wrong")
    assert store.read(SHA256, 1 << 20) == CONTENT


def test_no_descriptor_is_left_open(store: Store) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for content in (CONTENT, b"wrong"):
        with contextlib.suppress(DigestMismatch):
            store.add(SHA256, content)
    store.write_index([("docker.io/a:1", SHA256, True)])
    assert len(os.listdir("/proc/self/fd")) <= before


# --- what was left ---


def test_what_a_killed_process_was_preparing_is_swept_away(store: Store) -> None:
    partial = store.begin(SHA256)
    partial.claim()
    partial.write(CONTENT[:100])
    partial.announce(Facts("docker.io", len(CONTENT), None))
    partial.close()
    (store.folder / "partial" / ".new-abc").write_bytes(b"half an index")
    store.sweep()
    assert files(store.folder / "partial") == {f"sha256-{SHA256.encoded}", f"sha256-{SHA256.encoded}.json"}


def test_an_index_is_kept_at_start(store: Store) -> None:
    store.write_index([("docker.io/a:1", put(store, MANIFEST), True)])
    before = index(store)
    assert index(Store(store.folder)) == before


# --- index.json ---

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}).encode()
NEWER = json.dumps({"schemaVersion": 2, "config": {}, "layers": [], "annotations": {"a": "b"}}).encode()
INDEX = json.dumps({"schemaVersion": 2, "manifests": []}).encode()


def described(reference: str, content: bytes, media_type: str, *, public: str) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": str(Digest.of(content)),
        "size": len(content),
        "annotations": {"org.opencontainers.image.ref.name": reference, "mirrortap.public": public},
    }


def test_the_index_lists_what_is_here(store: Store) -> None:
    for content in (MANIFEST, NEWER, INDEX, b"no manifest"):
        put(store, content)
    store.write_index(
        [
            ("docker.io/library/a:1", Digest.of(NEWER), True),
            ("docker.io/library/a:1", Digest.of(MANIFEST), True),
            # The newest is not here, so the one before it is still what the cache can give.
            ("ghcr.io/b:2", Digest.of(b"never arrived"), False),
            ("ghcr.io/b:2", Digest.of(INDEX), False),
            ("quay.io/c:3", Digest.of(b"never arrived"), True),
            ("quay.io/d:4", Digest.of(b"no manifest"), True),
        ]
    )
    assert index(store) == {
        "schemaVersion": 2,
        "manifests": [
            described("docker.io/library/a:1", NEWER, OCI_MANIFEST, public="true"),
            described("ghcr.io/b:2", INDEX, OCI_INDEX, public="false"),
        ],
    }
    assert (store.folder / "index.json").stat().st_mode & 0o777 == 0o644
    assert not any((store.folder / "partial").iterdir())
    store.write_index([])
    assert index(store)["manifests"] == []


# --- folders that cannot be used ---


@pytest.mark.parametrize("obstacle", [".", "partial", "oci-layout/folder", "above"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, obstacle: str) -> None:
    """A file where a folder must be, or the reverse: that stops root, too."""
    cache = tmp_path / "above" / "cache"
    match obstacle:
        case "above":
            (tmp_path / "above").write_text("")
        case ".":
            (tmp_path / "above").mkdir()
            cache.write_text("")
        case "partial":
            cache.mkdir(parents=True)
            (cache / "partial").write_text("")
        case _:
            (cache / obstacle).mkdir(parents=True)
    with pytest.raises(StoreError) as caught:
        Store(cache)
    assert str(caught.value).startswith(f"{cache}: the cache cannot be written: ")
    assert str(caught.value).endswith("; choose another folder with --data")


def test_a_broken_blobs_folder_is_an_error_of_the_request(store: Store) -> None:
    (store.folder / "blobs").write_text("")
    assert store.size(SHA256) is None
    assert store.read(SHA256, 10) is None
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        store.begin(SHA256)
