"""What pins keep: a tag's newest content that is here, a digest's, and all that these reach."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.images import make_image, make_index, parts

from addon.cache import database, pins
from addon.cache.pins import Pins
from addon.cache.reference import Reference
from addon.cache.store import Store
from addon.cache.tags import Tags
from addon.oci import MANIFEST_TYPES, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.images import Image, MultiArch

ALL, NONE = frozenset(MANIFEST_TYPES), frozenset[str]()
TAG = Reference("docker.io", "library/app", "1.0")


class Cache:
    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.connection = database.connect(folder / "mirrortap.sqlite")
        self.tags = Tags(self.connection)
        self.pins = Pins(self.connection, self.tags)

    def add(self, image: Image | MultiArch) -> None:
        for digest, data in parts(image).items():
            self.store.add(Digest.parse(digest), data)

    def point(self, digest: str, accepts: frozenset[str] = ALL, tag: str = "1.0") -> None:
        self.tags.record("docker.io", "library/app", tag, accepts, Digest.parse(digest))

    def held(self) -> set[str]:
        pointers = [self.pins.pointers(reference) for reference in self.pins.all()]
        return {str(digest) for digest in pins.held(self.store, pointers)}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache")
    with closing(cache.connection):
        yield cache


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image")


@pytest.fixture
def newer(tmp_path: Path) -> Image:
    return make_image(tmp_path / "newer", seed=1)


def test_pins_are_kept_in_the_database(cache: Cache) -> None:
    digest = Reference("quay.io", "x/y", Digest.of(b""))
    assert cache.pins.all() == []
    for reference in (TAG, digest, TAG):
        cache.pins.add(reference)
    assert Pins(cache.connection, cache.tags).all() == [TAG, digest]
    cache.pins.remove(TAG)
    cache.pins.remove(TAG)
    assert cache.pins.all() == [digest]


def test_a_tag_keeps_all_that_it_reaches(cache: Cache, tmp_path: Path) -> None:
    multi = make_index(tmp_path / "multi", seed=2)
    cache.add(multi)
    cache.point(multi.index.digest)
    assert cache.held() == set()
    cache.pins.add(TAG)
    assert cache.held() == parts(multi).keys()
    cache.pins.remove(TAG)
    assert cache.held() == set()


def test_another_tag_keeps_nothing_of_this_one(cache: Cache, image: Image) -> None:
    cache.add(image)
    cache.point(image.manifest.digest, tag="2.0")
    cache.pins.add(TAG)
    assert cache.held() == set()


def test_a_digest_keeps_what_it_reaches_without_a_tag(cache: Cache, image: Image) -> None:
    cache.pins.add(Reference("docker.io", "library/app", Digest.parse(image.manifest.digest)))
    assert cache.held() == set()
    cache.add(image)
    assert cache.held() == parts(image).keys()


def test_a_tag_that_moves_keeps_its_newest(cache: Cache, image: Image, newer: Image) -> None:
    cache.pins.add(TAG)
    cache.add(image)
    cache.point(image.manifest.digest)
    assert cache.held() == parts(image).keys()
    cache.add(newer)
    cache.point(newer.manifest.digest)
    assert cache.held() == parts(newer).keys()
    # Rolled back.
    cache.point(image.manifest.digest)
    assert cache.held() == parts(image).keys()


def test_the_newest_that_is_not_here_yet_does_not_free_the_one_before(cache: Cache, image: Image, newer: Image) -> None:
    cache.pins.add(TAG)
    cache.add(image)
    cache.point(image.manifest.digest)
    cache.point(newer.manifest.digest)
    assert cache.held() == parts(image).keys()


def test_the_newest_is_whatever_client_asked_for_it(cache: Cache, image: Image, newer: Image) -> None:
    cache.pins.add(TAG)
    cache.add(image)
    cache.add(newer)
    cache.tags.restore([("docker.io", "library/app", "1.0", Digest.parse(image.manifest.digest), 5.0)])
    cache.point(newer.manifest.digest)
    assert cache.held() == parts(newer).keys()


def test_several_pins(cache: Cache, image: Image, newer: Image) -> None:
    for each, tag in (image, "1.0"), (newer, "2.0"):
        cache.add(each)
        cache.point(each.manifest.digest, tag=tag)
        cache.pins.add(Reference("docker.io", "library/app", tag))
    assert cache.held() == parts(image).keys() | parts(newer)


def test_a_pin_of_what_is_no_manifest(cache: Cache) -> None:
    content = json.dumps(["no manifest"]).encode()
    cache.store.add(Digest.of(content), content)
    cache.pins.add(Reference("docker.io", "library/app", Digest.of(content)))
    assert cache.held() == {str(Digest.of(content))}
