"""What indexes and manifests are read as, and what of an index is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.oci import Digest
from addon.warming.documents import Choice, Entry, Index, Manifest, Part, Unreadable, choose, offered, read
from addon.warming.platforms import UNKNOWN, Platform

AMD64, ARM64, S390X = (Platform("linux", name) for name in ("amd64", "arm64", "s390x"))
ONE, TWO, THREE = (Digest.of(bytes([number])) for number in range(3))


def document(**keys: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **keys}).encode()


def described(digest: Digest, **keys: Any) -> dict[str, Any]:
    return {"digest": str(digest), "size": 5, **keys}


def test_a_manifest() -> None:
    content = document(config=described(ONE), layers=[described(TWO), described(TWO), described(THREE, size=7)])
    assert read(content) == Manifest((Part(ONE, 5), Part(TWO, 5), Part(THREE, 7)))


def test_layers_that_are_to_be_had_elsewhere() -> None:
    content = document(config=described(ONE), layers=[described(TWO, urls=["https://elsewhere"]), described(THREE)])
    assert read(content) == Manifest((Part(ONE, 5), Part(THREE, 5)))


def test_a_manifest_of_schema_1() -> None:
    assert read(document(fsLayers=[{"blobSum": str(ONE)}, {"blobSum": str(ONE)}])) == Manifest((Part(ONE, 0),))


def test_an_index() -> None:
    content = document(
        manifests=[
            described(ONE, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
            described(TWO, platform={"os": "unknown", "architecture": "unknown"}),
            described(THREE),
        ]
    )
    assert read(content) == Index((Entry(ONE, ARM64), Entry(TWO, UNKNOWN), Entry(THREE, None)))


def test_platforms_are_fit_to_be_shown() -> None:
    content = document(manifests=[described(ONE, platform={"os": "li\x1bnux", "architecture": "a" * 100})])
    found = read(content)
    assert isinstance(found, Index)
    (platform,) = offered(found)
    assert str(platform) == f"li\\x1bnux/{'a' * 64}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        document(manifests={}),
        document(manifests=["x"]),
        document(manifests=[{"digest": 1}]),
        document(manifests=[{"digest": "sha256:1"}]),
        document(manifests=[{"digest": "other:abc"}]),
        document(layers=[{}]),
        document(layers=[described(ONE)] * 2, config={"digest": None}),
        document(fsLayers=[{}]),
        document(manifests=[described(ONE)] * 1001),
    ],
)
def test_what_is_neither(content: bytes) -> None:
    with pytest.raises(Unreadable):
        read(content)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just(str(ONE)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["manifests", "layers", "config", "fsLayers", "digest", "blobSum", "size", "platform", "os"]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        found = read(json.dumps(value).encode())
    except Unreadable:
        return
    assert isinstance(found, Index | Manifest)


INDEX = Index(
    (
        Entry(ONE, AMD64),
        Entry(TWO, UNKNOWN),
        Entry(THREE, ARM64),
    )
)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((AMD64,), Choice((INDEX.entries[0],), frozenset({AMD64}))),
        ((ARM64, AMD64), Choice((INDEX.entries[0], INDEX.entries[2]), frozenset({AMD64, ARM64}))),
        ((S390X,), Choice((), frozenset())),
        ((S390X, ARM64), Choice((INDEX.entries[2],), frozenset({ARM64}))),
        (None, Choice(INDEX.entries, frozenset())),
    ],
)
def test_what_is_fetched(wanted: tuple[Platform, ...] | None, expected: Choice) -> None:
    assert choose(INDEX, wanted) == expected
    assert offered(INDEX) == (AMD64, ARM64)


def test_what_does_not_say_for_which_platform_it_is() -> None:
    index = Index((Entry(ONE, None), Entry(TWO, ARM64)))
    assert choose(index, (AMD64,)) == Choice((index.entries[0],), frozenset())
