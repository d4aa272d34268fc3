"""Manifests in memory: given as long as their files are what they were, and no longer."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from addon.cache.manifests import Manifests
from addon.cache.partial import DigestMismatch
from addon.cache.store import Store
from addon.oci import MAX_MANIFEST, OCI_INDEX, Digest

if TYPE_CHECKING:
    from pathlib import Path

    from addon.cache.manifests import Kept


def content(size: int = 200, name: str = "") -> bytes:
    return json.dumps({"mediaType": OCI_INDEX, "manifests": [], "name": name}).encode().ljust(size)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def put(store: Store, data: bytes) -> Digest:
    digest = Digest.of(data)
    store.add(digest, data)
    return digest


def later() -> int:
    """Some time after all that the tests write."""
    return time.time_ns() + 10**9


def get(manifests: Manifests, store: Store, digest: Digest) -> Kept | None:
    status = store.status(digest)
    assert status
    return manifests.get(digest, status)


def test_it_is_read_once(store: Store) -> None:
    manifests, digest = Manifests(store, clock=later), put(store, content())
    first = get(manifests, store, digest)
    assert first
    assert (first.content, first.media_type) == (content(), OCI_INDEX)
    assert get(manifests, store, digest) is first


def test_what_has_just_been_written_is_read_again(store: Store) -> None:
    """What changes twice in a tick of the kernel's clock has the same time."""
    digest = put(store, content())
    before = store.status(digest)
    assert before
    manifests = Manifests(store, clock=lambda: before.st_ctime_ns)
    first = manifests.get(digest, before)
    # As if that had been in the same tick.
    store.path(digest).write_bytes(content()[::-1])
    assert first
    with pytest.raises(DigestMismatch):
        manifests.get(digest, before)


@pytest.mark.parametrize("size", [200, 199, 0])
def test_other_bytes_are_seen_whatever_their_time(store: Store, size: int) -> None:
    manifests, digest = Manifests(store, clock=later), put(store, content(200))
    assert get(manifests, store, digest)
    path = store.path(digest)
    before = os.stat(path)
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DigestMismatch):
        get(manifests, store, digest)


def test_another_file_in_its_place_is_read(store: Store) -> None:
    manifests, digest = Manifests(store, clock=later), put(store, content())
    first = get(manifests, store, digest)
    store.remove(digest)
    store.add(digest, content())
    second = get(manifests, store, digest)
    assert second is not first
    assert second
    assert second.content == content()


def test_only_so_much_is_kept_and_that_is_what_was_asked_for_last(store: Store) -> None:
    manifests = Manifests(store, clock=later, space=600)
    one, two, three = (put(store, content(200, name)) for name in ("one", "two", "three"))
    kept = {digest: get(manifests, store, digest) for digest in (one, two, three)}
    assert get(manifests, store, one) is kept[one]
    get(manifests, store, put(store, content(200, "four")))
    assert get(manifests, store, one) is kept[one]
    assert get(manifests, store, three) is kept[three]
    assert get(manifests, store, two) is not kept[two]
    large = put(store, content(601))
    assert get(manifests, store, large) is not get(manifests, store, large)
    assert get(manifests, store, one) is kept[one]


def test_what_was_read_anew_counts_once(store: Store) -> None:
    manifests = Manifests(store, clock=later, space=400)
    one, two = put(store, content(200, "one")), put(store, content(200, "two"))
    other = get(manifests, store, two)
    for _ in range(3):
        get(manifests, store, one)
        os.utime(store.path(one))
    get(manifests, store, one)
    assert get(manifests, store, two) is other


@pytest.mark.parametrize("data", [b"no manifest", b"{}", b"[]"])
def test_what_is_no_manifest_is_none(store: Store, data: bytes) -> None:
    assert get(Manifests(store, clock=later), store, put(store, data)) is None


def test_what_is_too_large_is_none(store: Store) -> None:
    digest = put(store, content())
    os.truncate(store.path(digest), MAX_MANIFEST + 1)
    assert get(Manifests(store, clock=later), store, digest) is None
