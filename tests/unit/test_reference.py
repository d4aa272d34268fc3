"""References as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.cache.reference import BadReference, Reference
from addon.oci import Digest

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker.io/library/alpine:3.20", Reference("docker.io", "library/alpine", "3.20")),
        ("reg:5000/a:1", Reference("reg:5000", "a", "1")),
        ("localhost/a:1", Reference("localhost", "a", "1")),
        ("[::1]:5000/a/b:1", Reference("[::1]:5000", "a/b", "1")),
        (f"quay.io/x/y@{DIGEST}", Reference("quay.io", "x/y", DIGEST)),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has neither a tag nor a digest"),
        ("docker.io/library/alpine", "has neither a tag nor a digest"),
        ("reg:5000/a", "has neither a tag nor a digest"),
        ("alpine:3.20", "does not begin with a registry"),
        ("library/alpine:3.20", "does not begin with a registry"),
        ("Docker.io/a:1", "does not begin with a registry"),
        ("/a:1", "does not begin with a registry"),
        ("docker.io/:1", "'' is not a repository name"),
        ("docker.io/UPPER:1", "'UPPER' is not a repository name"),
        ("docker.io/a:-", "'-' is neither a tag nor a digest"),
        ("docker.io/a:", "'' is neither a tag nor a digest"),
        ("docker.io/a@sha256:12", "sha256 has 64 lower-case hex digits"),
        ("docker.io/a@1.0", "'1.0' is not a digest"),
        (f"docker.io/a:1@{DIGEST}", "'a:1' is not a repository name"),
        ("docker.io/%61:1", "is neither REGISTRY/REPOSITORY:TAG nor"),
        ("docker.io/a?x:1", "is neither REGISTRY/REPOSITORY:TAG nor"),
        ("docker.io/a:1?x", "is neither REGISTRY/REPOSITORY:TAG nor"),
        ("docker.io/a:1\n", "is neither a tag nor a digest"),
        ("docker.io/\ud800:1", "is not a repository name"),
    ],
)
def test_what_is_no_reference(text: str, told: str) -> None:
    with pytest.raises(BadReference) as caught:
        Reference.parse(text)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.text(alphabet="ab./:@-%?#\n") | st.text())
def test_any_text_is_one_or_none(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except BadReference:
        return
    assert str(reference) == text
