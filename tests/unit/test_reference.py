"""References as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.cache.reference import BadReference, Reference, normalised
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3.20@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine:1", "docker.io/library/alpine:1"),
        ("registry-1.docker.io/a/b", "docker.io/a/b:latest"),
        ("ghcr.io/o/r:tag", "ghcr.io/o/r:tag"),
        ("GHCR.io/o/r:Tag", "ghcr.io/o/r:Tag"),
        ("quay.io/x", "quay.io/x:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        (f"host:5000/x/y:1@{DIGEST}", f"host:5000/x/y@{DIGEST}"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
    ],
)
def test_what_people_write_for_references(text: str, expected: str) -> None:
    assert str(normalised(text)) == expected
    assert normalised(expected) == normalised(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not a repository name"),
        ("UPPER", "'UPPER' is not a repository name"),
        ("Foo/bar", "'Foo/bar' is not a repository name"),
        ("a:", "'' is neither a tag nor a digest"),
        ("a:b:c", "'a:b' is not a repository name"),
        ("a@", "'' is not a digest"),
        ("a@sha256:12", "sha256 has 64 lower-case hex digits"),
        (f"a:@{DIGEST}", "'' is neither a tag nor a digest"),
        (f"a:-@{DIGEST}", "'-' is neither a tag nor a digest"),
        ("ghcr.io/", "'ghcr.io/' is not a repository name"),
        ("https://ghcr.io/a", "is a URL: write what is behind its //"),
        ("docker://alpine", "is a URL: write what is behind its //"),
        ("a b", "is not a repository name"),
        ("a\x1b", "is not a repository name"),
    ],
)
def test_what_nobody_writes_for_a_reference(text: str, told: str) -> None:
    with pytest.raises(BadReference) as caught:
        normalised(text)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.text(alphabet="aB./:@-%?#[]\n") | st.text())
def test_what_people_write_is_a_reference_or_none(text: str) -> None:
    try:
        reference = normalised(text)
    except BadReference:
        return
    assert Reference.parse(str(reference)) == reference == normalised(str(reference))
