"""What no client should send: an OCI error, nothing asked upstream, nothing written but in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.images import sha256

from engine.harness import NAME, REGISTRY, TAG, blob, manifest

if TYPE_CHECKING:
    from pathlib import Path

    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup

HEX = "0123456789abcdef" * 4
BAD = [
    (blob("sha256:../../../../etc/passwd"), "DIGEST_INVALID"),
    (blob("sha256:..%2f..%2f..%2fetc%2fpasswd"), "DIGEST_INVALID"),
    (blob("sha256%3A..%2F..%2Fx"), "DIGEST_INVALID"),
    (blob(".."), "DIGEST_INVALID"),
    (blob("..:.."), "DIGEST_INVALID"),
    (blob(f"sha256:{HEX[:-1]}"), "DIGEST_INVALID"),
    (blob(f"sha256:{HEX}0"), "DIGEST_INVALID"),
    (blob(f"sha256:{HEX.upper()}"), "DIGEST_INVALID"),
    (blob(f"SHA256:{HEX}"), "DIGEST_INVALID"),
    (blob(f"sha256:{HEX[:-1]}g"), "DIGEST_INVALID"),
    (blob(f"sha256:{HEX}%0a"), "DIGEST_INVALID"),
    (blob(f"sha256:{HEX}%00"), "DIGEST_INVALID"),
    (blob(f"sha512:{HEX}"), "DIGEST_INVALID"),
    (blob("sha256:"), "DIGEST_INVALID"),
    (blob(HEX), "DIGEST_INVALID"),
    (manifest(f"sha256:{HEX[:-1]}"), "DIGEST_INVALID"),
    (manifest(f"sha256:{HEX.upper()}"), "DIGEST_INVALID"),
    (manifest(".hidden"), "TAG_INVALID"),
    (manifest(".."), "TAG_INVALID"),
    (manifest("-x"), "TAG_INVALID"),
    (manifest("a" * 129), "TAG_INVALID"),
    (manifest("a%20b"), "TAG_INVALID"),
    (manifest("a%00b"), "TAG_INVALID"),
    (manifest("a%0d%0aX-Injected:b"), "DIGEST_INVALID"),
    (manifest("é"), "TAG_INVALID"),
    (manifest("1.0", "Library/App"), "NAME_INVALID"),
    (manifest("1.0", "../secret"), "NAME_INVALID"),
    (manifest("1.0", "a/../b"), "NAME_INVALID"),
    (manifest("1.0", "a//b"), "NAME_INVALID"),
    (manifest("1.0", "a%2F%2Fb"), "NAME_INVALID"),
    (manifest("1.0", "/a"), "NAME_INVALID"),
    (manifest("1.0", "a_"), "NAME_INVALID"),
    (manifest("1.0", "a___b"), "NAME_INVALID"),
    (manifest("1.0", "a%00"), "NAME_INVALID"),
    (manifest("1.0", "a" * 256), "NAME_INVALID"),
    (manifest("1.0", "\udcff"), "NAME_INVALID"),
    (blob(f"sha256:{HEX}", "%2e%2e"), "NAME_INVALID"),
    (f"/v2/{NAME}/manifests/", "TAG_INVALID"),
]


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.suffix not in (".sqlite-wal", ".sqlite-shm")}


async def test_it_is_400_and_goes_nowhere(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, tmp_path: Path
) -> None:
    proxy = setup.proxy(origin, mirror)
    before = files(tmp_path)
    for target, code in BAD:
        got = await proxy.get(target, Authorization="Bearer secret")
        assert (target, got.status, got.error["code"]) == (target, 400, code)
        assert got.headers["Content-Length"] == str(len(got.data))
        assert got.headers["OCI-Namespace"] == REGISTRY
        assert len(got.data) < 1000
        head = await proxy.head(target)
        assert (target, head.status, head.headers["Content-Type"]) == (target, 400, "application/json")
    assert origin.requests == []
    assert mirror.requests == []
    assert files(tmp_path) == before


async def test_names_that_the_spec_allows(setup: Setup, mirror: FakeRegistry) -> None:
    proxy = setup.proxy(None, mirror)
    for name in "a", "0", "a.b", "a_b", "a__b", "a---b", "a/b/c/d/e", "a" * 255, "x" * 127 + "/" + "y" * 127:
        digest = mirror.content.put_blob(name, b"content")
        got = await proxy.get(blob(digest, name))
        assert (name, got.status, got.data) == (name, 200, b"content")


async def test_tags_that_the_spec_allows(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(None, mirror)
    for tag in "_", "a", "A.b-C_d", "0", "a" * 128:
        mirror.add(image, NAME, tag)
        got = await proxy.get(manifest(tag))
        assert (tag, got.status, got.data) == (tag, 200, image.manifest.data)


async def test_an_escaped_path_is_the_same_path(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    escaped = image.config.digest.replace(":", "%3A")
    for target in blob(escaped), blob(escaped, "library%2Fapp"), blob(image.config.digest) + "?ns=docker.io":
        assert (await proxy.get(target)).data == image.config.data
    assert [seen.path for seen in mirror.requests] == [blob(image.config.digest)]


async def test_a_pull_writes_nothing_but_the_cache(
    setup: Setup, mirror: FakeRegistry, image: Image, tmp_path: Path
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    await proxy.get(blob(image.config.digest))
    inside = proxy.cache.parent
    assert {path for path in files(tmp_path) if inside not in path.parents} <= {inside}
    names = {path.relative_to(proxy.cache).parts[0] for path in files(proxy.cache)}
    assert names == {"blobs", "partial", "oci-layout", "index.json", "mirrortap.sqlite"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", "a" * 1_000_000),
        ("Accept", ",;,;=,"),
        ("Accept", "\udcff\x7f"),
        ("Range", "bytes=" + "9" * 1000 + "-" + "9" * 1000),
        ("If-Range", "\udcff"),
        ("Authorization", "\udcff"),
        ("Authorization", ""),
    ],
    ids=["Accept long", "Accept empty parts", "Accept bytes", "Range", "If-Range", "Authorization bytes", "empty"],
)
async def test_an_absurd_header_is_no_fault_of_ours(
    name: str, value: str, setup: Setup, origin: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    unknown = sha256(b"not there")
    for target in TAG, blob(image.config.digest), blob(unknown), f"/v2/{NAME}/tags/list", "/v2/":
        for method in "GET", "HEAD":
            got = await proxy.fetch(method, target, [(name, value)])
            assert got.status != 500
    assert "a fault in mirrortap" not in caplog.text


@pytest.mark.parametrize(
    "target",
    ["*", "/v2/\udcff/tags/list", "/v2/é/tags/list", "/v2/a b", "/v2/a?b#c"],
    ids=["asterisk", "bytes", "not ASCII", "a space", "a fragment"],
)
async def test_an_absurd_target_is_no_fault_of_ours(
    target: str, setup: Setup, origin: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = setup.proxy(origin)
    for method in "GET", "OPTIONS", "POST":
        got = await proxy.fetch(method, target, {"Authorization": "Bearer secret"})
        assert 400 <= got.status < 600
        assert got.status != 500
    assert "a fault in mirrortap" not in caplog.text
