"""A miss, then hits: the bytes, the headers, and what it costs upstream."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from support.images import INDEX, MANIFEST

from engine.harness import NAME, REGISTRY, TAG, blob, manifest

if TYPE_CHECKING:
    from support.faults import Seen
    from support.images import Image, MultiArch
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got


def methods(requests: list[Seen]) -> list[str]:
    return [request.method for request in requests]


def check_marks(got: Got, digest: str, size: int, media_type: str) -> None:
    """The headers that clients rely on; containerd asks again, by a counted GET, when HEAD lacks any."""
    assert got.status == 200
    assert got.headers["Docker-Content-Digest"] == digest
    assert got.headers["Content-Length"] == str(size)
    assert got.headers["Content-Type"] == media_type
    assert got.headers["OCI-Namespace"] == REGISTRY
    for name in ("Docker-Content-Digest", "Content-Length", "Content-Type", "OCI-Namespace", "Cache-Status"):
        assert len(got.headers.getall(name)) == 1, f"{name} is there twice"


def fresh(source: FakeRegistry) -> str:
    return f'mirrortap; fwd=miss; detail="{source.endpoint}"'


@pytest.mark.parametrize("kind", ["config", "layer", "manifest", "index", "child"])
async def test_by_digest_is_a_miss_then_a_hit(
    kind: str, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    proxy = setup.proxy(origin, mirror)
    first = multi.images[0]
    descriptor = {
        "config": first.config,
        "layer": first.layers[1],
        "manifest": first.manifest,
        "index": multi.index,
        "child": multi.images[1].manifest,
    }[kind]
    is_blob = kind in ("config", "layer")
    target = blob(descriptor.digest) if is_blob else manifest(descriptor.digest)
    media_type = "application/octet-stream" if is_blob else descriptor.media_type

    for expected in (fresh(mirror), "mirrortap; hit", "mirrortap; hit"):
        got = await proxy.get(target)
        check_marks(got, descriptor.digest, descriptor.size, media_type)
        assert got.headers["Cache-Status"] == expected
        assert (got.data, got.cut) == (descriptor.data, None)
    assert methods(mirror.seen(path=descriptor.digest)) == ["GET"]
    assert origin.requests == []
    assert (proxy.cache / "blobs" / descriptor.digest.replace(":", "/")).read_bytes() == descriptor.data


async def test_head_by_digest_is_answered_alike_on_a_miss_and_on_a_hit(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    for target, descriptor, media_type in (
        (blob(image.layers[0].digest), image.layers[0], "application/octet-stream"),
        (manifest(image.manifest.digest), image.manifest, MANIFEST),
    ):
        got = await proxy.head(target)
        check_marks(got, descriptor.digest, descriptor.size, media_type)
        assert got.headers["Cache-Status"] == fresh(mirror)
        assert methods(mirror.seen(path=descriptor.digest)) == ["HEAD"], "a client's HEAD became something else"
        await proxy.get(target)
        got = await proxy.head(target)
        check_marks(got, descriptor.digest, descriptor.size, media_type)
        assert got.headers["Cache-Status"] == "mirrortap; hit"
        assert methods(mirror.seen(path=descriptor.digest)) == ["HEAD", "GET"]


async def test_by_tag_a_head_each_time_and_one_get_of_the_content(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    proxy = setup.proxy(origin, mirror)
    for expected in (fresh(mirror), "mirrortap; hit", "mirrortap; hit"):
        got = await proxy.get(TAG)
        check_marks(got, multi.index.digest, multi.index.size, INDEX)
        assert (got.data, got.headers["Cache-Status"]) == (multi.index.data, expected)
    # A manifest's GET is a counted pull at Docker Hub, a HEAD is free.
    assert methods(mirror.seen(path="/manifests/1.0")) == ["HEAD"] * 3
    assert methods(mirror.seen(path=multi.index.digest)) == ["GET"]
    assert len(mirror.requests) == 4


async def test_head_by_tag_never_becomes_a_get(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    for expected in (fresh(mirror), fresh(mirror)):
        got = await proxy.head(TAG)
        check_marks(got, image.manifest.digest, image.manifest.size, MANIFEST)
        assert got.headers["Cache-Status"] == expected
    assert methods(mirror.requests) == ["HEAD", "HEAD"]
    # Known to be in this repository now, and still not here.
    head = await proxy.head(manifest(image.manifest.digest))
    check_marks(head, image.manifest.digest, image.manifest.size, MANIFEST)
    assert methods(mirror.requests) == ["HEAD"] * 3
    await proxy.get(TAG)
    got = await proxy.head(TAG)
    check_marks(got, image.manifest.digest, image.manifest.size, MANIFEST)
    assert got.headers["Cache-Status"] == "mirrortap; hit"
    assert methods(mirror.requests) == ["HEAD", "HEAD", "HEAD", "HEAD", "GET", "HEAD"]


async def test_a_whole_image_is_asked_for_once(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    proxy = setup.proxy(origin, mirror)
    expected = {part.digest for image in multi.images for part in (image.manifest, *image.blobs)} | {multi.index.digest}
    for _ in range(2):
        index = await proxy.get(TAG)
        for entry in json.loads(index.data)["manifests"]:
            child = await proxy.get(manifest(entry["digest"]))
            document = json.loads(child.data)
            for part in (document["config"], *document["layers"]):
                got = await proxy.get(blob(part["digest"]))
                assert (got.digest, len(got.data)) == (part["digest"], part["size"])
    asked = [request.path.rpartition("/")[2] for request in mirror.requests if request.method == "GET"]
    assert sorted(asked) == sorted(expected), "something was asked twice, or not at all"
    assert proxy.cached() == expected
    assert proxy.unfinished() == []


async def test_what_is_upstream_is_asked_for_as_it_is_stored(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    """Uncompressed, named by the registry at mirrors alone (distribution-spec, "Registry Proxying")."""
    origin.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get(blob(image.config.digest), Accept_Encoding="gzip")
    assert got.headers["Cache-Status"] == f'mirrortap; fwd=miss; detail="{origin.endpoint}"'
    (at_mirror,), (at_origin,) = mirror.requests, origin.requests
    assert (at_mirror.query, at_origin.query) == ({"ns": REGISTRY}, {})
    for request in (at_mirror, at_origin):
        assert request.headers.getall("Accept-Encoding") == ["identity"]


async def test_a_mirror_with_a_path_is_asked_below_it(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    """As BuildKit does it: /v2/<path>/<repository>, Harbor's proxy projects."""
    mirror.add(image, f"proxy/hub/{NAME}")
    proxy = setup.proxy(None, f"{mirror.endpoint}/proxy/hub")
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)
    assert got.headers["Cache-Status"] == f'mirrortap; fwd=miss; detail="{mirror.endpoint}/proxy/hub"'


async def test_content_behind_a_cdn_is_followed_inside(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    mirror = await setup.registry(cdn=True)
    mirror.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    layer = image.layers[1]
    head = await proxy.head(blob(layer.digest))
    assert (head.status, head.headers["Content-Length"]) == (200, str(layer.size))
    got = await proxy.get(blob(layer.digest))
    check_marks(got, layer.digest, layer.size, "application/octet-stream")
    assert (got.data, "Location" in got.headers) == (layer.data, False)
    again = await proxy.get(blob(layer.digest))
    assert (again.data, again.headers["Cache-Status"]) == (layer.data, "mirrortap; hit")
    assert methods(mirror.seen("cdn")) == ["HEAD", "GET"]


async def test_an_empty_blob_is_a_blob(setup: Setup, mirror: FakeRegistry) -> None:
    digest = mirror.content.put_blob(NAME, b"")
    proxy = setup.proxy(None, mirror)
    for _ in range(2):
        got = await proxy.get(blob(digest))
        check_marks(got, digest, 0, "application/octet-stream")
        assert (got.data, got.cut) == (b"", None)


async def test_a_blob_by_sha512_is_cached_too(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    data = image.layers[0].data
    digest = "sha512:" + hashlib.sha512(data).hexdigest()
    mirror.content.repositories[NAME].blobs[digest] = data
    proxy = setup.proxy(None, mirror)
    for expected in (fresh(mirror), "mirrortap; hit"):
        got = await proxy.get(blob(digest))
        check_marks(got, digest, len(data), "application/octet-stream")
        assert (got.data, got.headers["Cache-Status"]) == (data, expected)
    assert proxy.cached() == {digest}
