"""A lost database: what is in the files comes back, whatever is in them."""

from __future__ import annotations

import json
import logging
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.images import make_image, make_index, parts

from addon.cache import database, rebuild
from addon.cache.contents import Contents
from addon.cache.links import Links
from addon.cache.rights import Rights, Verdict
from addon.cache.store import Store
from addon.cache.tags import Tags
from addon.config.model import Beliefs
from addon.oci import MANIFEST_TYPES, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.images import Image, MultiArch

ALL = frozenset(MANIFEST_TYPES)
APP = ("docker.io", "library/app")
REFERENCE = "docker.io/library/app:1.0"


class Cache:
    """A cache folder, and what is known of it since the database was opened last."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.connection = database.connect(folder / "mirrortap.sqlite")
        self.contents = Contents(self.store, self.connection)
        self.tags, self.links = Tags(self.connection), Links(self.connection)
        self.rights = Rights(self.connection, Beliefs)

    def reconcile(self, budget: float = 10.0) -> None:
        rebuild.reconcile(self.store, self.contents, self.tags, self.links, self.rights, budget)

    def add(self, image: Image | MultiArch, *references: str, public: bool = True) -> None:
        for digest, data in parts(image).items():
            self.store.add(Digest.parse(digest), data)
        self.store.write_index((reference, Digest.parse(image.top.digest), public) for reference in references)

    def write_index(self, content: bytes) -> None:
        (self.store.folder / "index.json").write_bytes(content)

    def known(self) -> set[str]:
        """Digests that are known to be in APP."""
        rows = self.connection.execute("SELECT digest FROM link WHERE registry = ? AND repository = ?", APP)
        return {digest for (digest,) in rows}

    def count(self, table: str) -> int:
        count: int = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache")
    with closing(cache.connection):
        yield cache


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image")


@pytest.fixture
def multi(tmp_path: Path) -> MultiArch:
    return make_index(tmp_path / "multi", seed=2)


def entry(digest: object, name: object = REFERENCE) -> dict[str, Any]:
    return {"digest": digest, "annotations": {"org.opencontainers.image.ref.name": name}}


# --- what comes back ---


def test_an_empty_cache_is_nothing_to_speak_of(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    cache.reconcile()
    assert caplog.messages == []


def test_tags_links_and_sizes_come_back(cache: Cache, multi: MultiArch, caplog: pytest.LogCaptureFixture) -> None:
    cache.add(multi, REFERENCE)
    os.utime(cache.store.path(Digest.parse(multi.index.digest)), (0, 12.5))
    cache.reconcile()
    assert [str(pointer.digest) for pointer in cache.tags.pointers(*APP, "1.0", ALL)] == [multi.index.digest]
    assert cache.connection.execute("SELECT accepts, checked FROM tag").fetchall() == [("", 12.5)]
    assert cache.known() == parts(multi).keys()
    assert cache.contents.total() == sum(file.size for file in cache.store.contents())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"found {len(parts(multi))} files, and 1 tags in index.json" in record.getMessage()


@pytest.mark.parametrize("public", [True, False])
def test_what_everybody_could_read_is_believed_only_while_nobody_can_be_asked(
    cache: Cache, image: Image, public: bool
) -> None:
    cache.add(image, REFERENCE, public=public)
    cache.reconcile()
    assert cache.rights.verdict(*APP) == (Verdict(public=True, fresh=False) if public else None)
    assert [listed for *_, listed in cache.tags.all()] == [public]


def test_what_is_known_is_left_alone(cache: Cache, image: Image, caplog: pytest.LogCaptureFixture) -> None:
    cache.add(image, REFERENCE, "docker.io/library/app:2.0")
    cache.tags.record(*APP, "1.0", ALL, Digest.parse(image.manifest.digest))
    cache.links.add(*APP, Digest.parse(image.manifest.digest))
    cache.reconcile()
    assert cache.count("tag") == 1
    assert cache.known() == {image.manifest.digest}
    assert cache.contents.total() > 0
    assert caplog.messages == []


def test_links_to_what_is_gone_are_forgotten(cache: Cache, image: Image) -> None:
    """Else they would become ever more."""
    cache.add(image, REFERENCE)
    cache.tags.record(*APP, "1.0", ALL, Digest.parse(image.manifest.digest))
    for digest in (image.manifest.digest, str(Digest.of(b"evicted long ago"))):
        cache.links.add(*APP, Digest.parse(digest))
    cache.reconcile()
    assert cache.known() == {image.manifest.digest}


def test_only_what_is_here_comes_back(cache: Cache, multi: MultiArch) -> None:
    cache.add(multi, REFERENCE)
    missing = multi.images[0]
    cache.store.remove(Digest.parse(missing.manifest.digest))
    cache.store.remove(Digest.parse(multi.images[1].config.digest))
    cache.reconcile()
    # What only the missing manifest names is not known to be in the repository.
    assert cache.known() == (parts(multi).keys() - parts(missing).keys() - {multi.images[1].config.digest}) | (
        parts(missing).keys() & parts(multi.images[1]).keys()
    )


def test_a_tag_whose_manifest_is_gone(cache: Cache, image: Image) -> None:
    cache.add(image, REFERENCE)
    cache.store.remove(Digest.parse(image.manifest.digest))
    cache.reconcile()
    assert cache.count("tag") == cache.count("link") == 0
    assert cache.count("content") == len(image.blobs)


def test_a_restored_tag_is_never_believed_unasked(cache: Cache, image: Image) -> None:
    cache.add(image, REFERENCE)
    cache.reconcile()
    assert cache.tags.fresh(*APP, "1.0", ALL, 3600) is None


def test_one_manifest_under_many_names(cache: Cache, image: Image) -> None:
    cache.add(image, REFERENCE, "docker.io/library/app:2.0", "reg.test:5000/copy:1")
    cache.reconcile()
    assert cache.count("tag") == 3
    assert cache.known() == parts(image).keys()
    assert cache.links.known("reg.test:5000", "copy", Digest.parse(image.config.digest))


def test_what_takes_too_long_is_left_to_be_asked_upstream(
    cache: Cache, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    cache.add(image, REFERENCE)
    cache.reconcile(budget=0)
    assert cache.count("tag") == 1
    assert cache.count("link") == 0
    assert "took too long" in caplog.text


def test_blobs_that_cannot_be_listed(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    (cache.store.folder / "blobs").write_text("")
    cache.reconcile()
    assert "what is cached cannot be listed: Not a directory" in caplog.text


# --- index.json as it must not be ---


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[" * 200_000,
        b'{"manifests":' * 100_000,
        b"null",
        b'"manifests"',
        b'{"manifests": {"a": 1}}',
        b'{"manifests": ' + b"9" * 10_000 + b"}",
        b'{"manifests": [' + b"[]," * 20_000_000 + b"[]]}",
    ],
    ids=["empty", "bytes", "deep list", "deep object", "null", "text", "object", "number", "huge"],
)
def test_a_damaged_index(cache: Cache, image: Image, content: bytes) -> None:
    cache.add(image)
    cache.write_index(content)
    cache.reconcile()
    assert cache.count("tag") == cache.count("link") == 0
    assert cache.count("content") == len(parts(image))


def test_good_entries_among_bad_ones(cache: Cache, image: Image) -> None:
    cache.add(image)
    digest = image.manifest.digest
    bad: list[object] = [
        None,
        1,
        [],
        "x",
        {},
        {"digest": digest},
        {"digest": digest, "annotations": None},
        {"digest": digest, "annotations": []},
        entry(digest, None),
        entry(digest, ["x"]),
        entry(digest, ""),
        entry(digest, "alpine"),
        entry(digest, "docker.io/../../etc:1"),
        entry(digest, "docker.io/library/app\ud800:1"),
        entry(digest, f"docker.io/library/app@{digest}"),
        entry(None),
        entry(3),
        entry("../../../etc/passwd"),
        entry("sha256:../../x"),
        entry("md5:abc"),
        entry("sha256:12"),
    ]
    cache.write_index(json.dumps({"manifests": [*bad, entry(digest), *bad]}).encode())
    cache.reconcile()
    assert list(cache.tags.all()) == [(REFERENCE, Digest.parse(digest), False)]
    assert cache.known() == parts(image).keys()


def test_an_index_that_is_no_file(cache: Cache, image: Image) -> None:
    cache.add(image)
    (cache.store.folder / "index.json").unlink()
    cache.reconcile()
    (cache.store.folder / "index.json").mkdir()
    cache.reconcile()
    assert cache.count("tag") == 0


def test_a_tag_may_point_at_anything(cache: Cache) -> None:
    """A manifest that names itself, what is not there, and its own parent; and one that is no manifest."""
    odd = json.dumps({"manifests": [{"digest": str(Digest.of(b"gone"))}], "layers": {"digest": 1}}).encode()
    for content in (odd, b"[" * 100_000):
        cache.store.add(Digest.of(content), content)
    cache.write_index(
        json.dumps(
            {
                "manifests": [
                    entry(str(Digest.of(odd))),
                    entry(str(Digest.of(b"[" * 100_000)), "docker.io/library/app:2.0"),
                ]
            }
        ).encode()
    )
    cache.reconcile()
    assert cache.known() == {str(Digest.of(odd)), str(Digest.of(b"[" * 100_000))}


ANY = st.recursive(
    st.none()
    | st.integers()
    | st.text()
    | st.sampled_from([str(Digest.of(b"content")), REFERENCE, "sha256:..", "/../x:1"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                ["digest", "annotations", "manifests", "org.opencontainers.image.ref.name", "mirrortap.public"]
            ),
            inner,
        )
    ),
    max_leaves=15,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(ANY)
def test_any_json_is_survived(cache: Cache, document: Any) -> None:
    if cache.store.size(Digest.of(b"content")) is None:
        cache.store.add(Digest.of(b"content"), b"content")
    cache.write_index(json.dumps({"manifests": document}).encode())
    cache.connection.execute("DELETE FROM tag")
    cache.reconcile()
    assert {reference for reference, *_ in cache.tags.all()} <= {REFERENCE}
