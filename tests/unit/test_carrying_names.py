"""What an archive's members are, by their names, and what its images are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.cache.reference import Reference
from addon.carrying import names
from addon.carrying.names import BadArchive
from addon.oci import Digest

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"blobs/sha256/{DIGEST.encoded}", DIGEST),
        (f"./blobs//sha256/./{DIGEST.encoded}", DIGEST),
        (f"blobs/sha512/{'a' * 128}", Digest("sha512", "a" * 128)),
        ("oci-layout", "layout"),
        ("./index.json", "index"),
        ("manifest.json", "docker"),
        (f"{DIGEST.encoded}.json", "loose"),
        (f"{DIGEST.encoded}.tar", "loose"),
        (f"{DIGEST.encoded}/layer.tar", "loose"),
        (f"{DIGEST.encoded}/VERSION", "other"),
        (f"blobs/sha256/{DIGEST.encoded[:-1]}", "other"),
        (f"blobs/sha256/{DIGEST.encoded.upper()}", "other"),
        (f"blobs/sha1/{'a' * 40}", "other"),
        (f"sub/blobs/sha256/{DIGEST.encoded}", "other"),
        ("sub/index.json", "other"),
    ],
)
def test_members(name: str, expected: names.Kind | Digest) -> None:
    assert names.kind(names.clean(name)) == expected


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "blobs/../../x", "a/..", "a\0b", "a\nb", "\x1b[2J", "\udcff", "a" * 513]
)
def test_names_that_no_archive_needs(name: str) -> None:
    with pytest.raises(BadArchive) as error:
        names.clean(name)
    assert str(error.value).isprintable()


@given(st.text() | st.text(alphabet="./ab"))
def test_no_clean_name_leads_anywhere(name: str) -> None:
    try:
        clean = names.clean(name)
    except BadArchive:
        return
    assert not clean.startswith("/")
    assert not {"..", ".", ""} & set(clean.split("/")) or clean == ""


def test_links_of_layers() -> None:
    hex_ = DIGEST.encoded
    assert names.linked(f"{hex_}/layer.tar", f"../{hex_}.tar") == f"{hex_}.tar"
    assert names.linked(f"{hex_}/layer.tar", "../other/layer.tar") == "other/layer.tar"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a/layer.tar", "../../x.tar"),
        ("a/layer.tar", "/etc/passwd"),
        ("a/layer.tar", "../a/../../x/layer.tar"),
        ("a/layer.tar", ".././x.tar\0"),
        ("index.json", "../x.tar"),
        (f"blobs/sha256/{DIGEST.encoded}", "../x.tar"),
    ],
)
def test_other_links(name: str, target: str) -> None:
    with pytest.raises(BadArchive):
        names.linked(name, target)


FULL = Reference("docker.io", "library/app", "1.0")


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({names.CONTAINERD_NAME: "docker.io/library/app:1.0", names.OCI_NAME: "1.0"}, (str(FULL), FULL)),
        ({names.OCI_NAME: "index.docker.io/app:1.0"}, (str(FULL), FULL)),
        ({names.OCI_NAME: "1.0"}, ("1.0", None)),
        ({names.CONTAINERD_NAME: "app"}, ("app", None)),
        ({}, ("", None)),
    ],
)
def test_annotations(annotations: dict[str, str], expected: tuple[str, Reference | None]) -> None:
    assert names.annotated(annotations) == expected


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("app:1.0", "docker.io/library/app:1.0"),
        ("team/app:1.0", "docker.io/team/app:1.0"),
        ("localhost/app:1.0", "localhost/app:1.0"),
        ("reg:5000/app:1.0", "reg:5000/app:1.0"),
        ("quay.io/x/y:1.0", "quay.io/x/y:1.0"),
        ("", "None"),
        ("<none>:<none>", "None"),
    ],
)
def test_names_as_docker_writes_them(tag: str, expected: str) -> None:
    assert str(names.familiar(tag)) == expected
