"""What manifests refer to, whatever is written in them; and what can be reached from one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import make_image, make_index

from addon.cache.manifest import Children, Parts, children, parts, reach
from addon.cache.store import Store
from addon.oci import Digest

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))


_KEYS = ["config", "layers", "manifests", "subject", "digest", "urls", "size", "fsLayers"]


def described(*digests: Any) -> list[dict[str, Any]]:
    return [{"digest": str(digest), "size": 1} for digest in digests]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"manifests": described(A, B)}, Children(manifests=(A, B))),
        ({"config": described(A)[0], "layers": described(B, C)}, Children(blobs=(A, B, C))),
        ({"fsLayers": [{"blobSum": str(A)}, {"blobSum": str(B)}]}, Children(blobs=(A, B))),
        ({"config": described(A)[0], "layers": []}, Children(blobs=(A,))),
        ({"subject": described(A)[0], "manifests": []}, Children()),
        # Content that cannot be held against its digest is never cached.
        ({"manifests": described("md5:abc")}, Children()),
    ],
)
def test_what_a_manifest_refers_to(document: dict[str, Any], expected: Children) -> None:
    assert children(json.dumps(document).encode()) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"config": described(A)[0], "layers": described(B, C)}, Parts((A,), (B, C))),
        ({"layers": described(C, B, C)}, Parts((), (C, B))),
        ({"config": described(A)[0], "layers": described(B, A)}, Parts((A,), (B, A))),
        # A layer that is to be had elsewhere is not asked for here.
        ({"layers": [{**described(A)[0], "urls": ["https://a.test/a"]}, *described(B)]}, Parts((), (B,))),
        ({"config": described(A)[0], "layers": described("md5:abc", B)}, Parts((A,), (B,))),
        ({"config": described(A)[0], "layers": described(B), "subject": described(C)[0]}, Parts()),
        ({"config": described(A)[0], "layers": [], "annotations": {}}, Parts()),
        ({"manifests": described(A), "layers": described(B)}, Parts()),
        ({"fsLayers": [{"blobSum": str(A)}]}, Parts()),
    ],
)
def test_what_a_client_wants_after_a_manifest(document: dict[str, Any], expected: Parts) -> None:
    assert parts(json.dumps(document).encode(), 128) == expected


def test_of_ten_thousand_layers_only_the_first() -> None:
    layers = [Digest.of(b"%d" % number) for number in range(10_000)]
    found = parts(json.dumps({"config": described(A)[0], "layers": described(*layers)}).encode(), 128)
    assert found == Parts((A,), tuple(layers[:127]))
    assert len(found.blobs) == 128


_rubbish = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from([str(A), str(B), "md5:abc"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(_KEYS), _rubbish), st.integers(1, 3))
def test_whatever_is_written_in_a_manifest_each_blob_is_wanted_once(document: dict[str, Any], most: int) -> None:
    found = parts(json.dumps(document).encode(), most)
    assert len(found.blobs) == len(set(found.blobs)) <= most
    assert set(found.blobs) <= {A, B}
    assert not found.blobs or "subject" not in document


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"manifests":' * 50_000,
        b"[]",
        b"null",
        b"1" * 5000,
        b'{"manifests": {"digest": 1}, "layers": 3, "config": [], "fsLayers": "x"}',
        b'{"manifests": [null, 1, "sha256:", [], {}, {"digest": null}, {"digest": "sha256:12"}]}',
        b'{"manifests": [{"digest": "\\ud800"}]}',
        b'{"layers": [[[]]], "config": {"digest": ["sha256:x"]}}',
    ],
)
def test_what_is_no_manifest_refers_to_nothing(content: bytes) -> None:
    assert children(content) == Children()
    assert parts(content, 128) == Parts()


JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.just(str(A)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["digest", "layers", "manifests", "x"]), inner),
)


@given(st.dictionaries(st.sampled_from(["manifests", "config", "layers", "fsLayers"]), JSON))
def test_any_json_is_survived(document: dict[str, Any]) -> None:
    found = children(json.dumps(document).encode())
    assert {*found.manifests, *found.blobs} <= {A}


def test_an_index_reaches_all_of_its_images(tmp_path: Path) -> None:
    multi = make_index(tmp_path / "layout")
    store = Store(multi.layout)
    expected = {multi.index.digest, *(image.manifest.digest for image in multi.images)}
    expected |= {blob.digest for blob in multi.blobs}
    reached = [str(digest) for digest in reach(store, Digest.parse(multi.index.digest))]
    assert set(reached) == expected
    assert len(reached) == len(expected), "each once"


def test_what_is_missing_is_named_but_not_followed(tmp_path: Path) -> None:
    multi = make_index(tmp_path / "layout")
    store = Store(multi.layout)
    gone = multi.images[0]
    store.remove(Digest.parse(gone.manifest.digest))
    reached = {str(digest) for digest in reach(store, Digest.parse(multi.index.digest))}
    assert gone.manifest.digest in reached
    assert not {blob.digest for blob in gone.blobs} & reached
    assert {blob.digest for blob in multi.images[1].blobs} < reached


def test_layers_are_not_taken_for_manifests(tmp_path: Path) -> None:
    """Whoever builds an image could otherwise reach anything by a layer that is JSON."""
    store = Store(tmp_path / "cache")
    layer = json.dumps({"manifests": described(A)}).encode()
    image = json.dumps({"config": described(C)[0], "layers": described(Digest.of(layer))}).encode()
    for content in layer, image:
        store.add(Digest.of(content), content)
    assert set(reach(store, Digest.of(image))) == {Digest.of(image), Digest.of(layer), C}


def test_an_image_alone(tmp_path: Path) -> None:
    image = make_image(tmp_path / "layout")
    reached = {str(digest) for digest in reach(Store(image.layout), Digest.parse(image.manifest.digest))}
    assert reached == {image.manifest.digest, *(blob.digest for blob in image.blobs)}
