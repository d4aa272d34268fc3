"""Tags: asked each time or believed for a while, seen to move, and each kind of client answered in its own terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.clock import Clock
from support.faults import Answer, HeadRefused, NoDigest, Seen, Status
from support.images import INDEX, MANIFEST

from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from support.images import Image, MultiArch
    from support.registry import FakeRegistry

    from engine.conftest import Setup

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
NEW_CLIENT = f"{INDEX}, {MANIFEST}, {DOCKER}"
OLD_CLIENT = f"{MANIFEST}, {DOCKER}"


class OneImageForOldClients:
    """As Docker Hub does: a tag is an index for those who accept one, and one of its images for the others."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def apply(self, answer: Answer, request: Seen) -> None:
        if INDEX in ",".join(request.headers.getall("Accept", [])):
            return
        answer.body = self._image.manifest.data
        answer.headers["Content-Type"] = MANIFEST
        answer.headers["Docker-Content-Digest"] = self._image.manifest.digest


class SaysDigest:
    def __init__(self, text: str) -> None:
        self._text = text

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.headers["Docker-Content-Digest"] = self._text


async def test_a_tag_that_moves_is_seen_at_once(setup: Setup, mirror: FakeRegistry, image: Image, other: Image) -> None:
    proxy = setup.proxy(None, mirror)
    for each in image, other, image:
        mirror.add(each, NAME)
        assert (await proxy.head(TAG)).headers["Docker-Content-Digest"] == each.manifest.digest
        got = await proxy.get(TAG)
        assert (got.data, got.headers["Docker-Content-Digest"]) == (each.manifest.data, each.manifest.digest)
    gets = [request.path for request in mirror.seen(method="GET")]
    assert gets == [manifest(image.manifest.digest), manifest(other.manifest.digest)]


async def test_within_its_ttl_a_tag_is_not_asked_for(
    setup: Setup, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    clock = Clock()
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, clock=clock, settings={"tag-ttl": "5m"})
    await proxy.get(TAG)
    asked = len(mirror.requests)
    mirror.add(other, NAME)
    clock.now += 299
    for got in await proxy.get(TAG), await proxy.head(TAG):
        assert got.headers["Docker-Content-Digest"] == image.manifest.digest
        assert got.headers["Cache-Status"] == "mirrortap; hit"
    assert len(mirror.requests) == asked
    clock.now += 1
    assert (await proxy.get(TAG)).data == other.manifest.data


async def test_a_registrys_own_ttl_is_the_one_that_counts(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, settings={"tag-ttl": "5m"}, **{"tag-ttl": "0s"})
    for _ in range(2):
        await proxy.get(TAG)
    assert len(mirror.seen(path="/manifests/1.0")) == 2


async def test_a_clock_set_back_does_not_make_a_tag_good_for_ever(
    setup: Setup, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    clock = Clock()
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, clock=clock, settings={"tag-ttl": "5m"})
    await proxy.get(TAG)
    mirror.add(other, NAME)
    clock.now -= 86400
    assert (await proxy.get(TAG)).data == other.manifest.data


async def test_a_ttl_counts_from_the_answer_even_when_the_content_came_later(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    """A HEAD says where the tag points; the content is not here yet when the tag is believed."""
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, settings={"tag-ttl": "5m"})
    await proxy.head(TAG)
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)


async def test_the_same_types_in_another_order_are_the_same_question(
    setup: Setup, mirror: FakeRegistry, multi: MultiArch
) -> None:
    """dockerd sends its Accept types in random order."""
    mirror.add(multi, NAME)
    proxy = setup.proxy(None, mirror, settings={"tag-ttl": "5m"})
    await proxy.get(TAG, Accept=f"{INDEX}, {MANIFEST}")
    asked = len(mirror.requests)
    got = await proxy.fetch("GET", TAG, [("Accept", f"{MANIFEST};q=0.5"), ("accept", INDEX.upper())])
    assert (got.data, got.headers["Cache-Status"]) == (multi.index.data, "mirrortap; hit")
    assert len(mirror.requests) == asked


@pytest.mark.parametrize("ttl", ["0s", "5m"])
@pytest.mark.parametrize("old_first", [True, False])
async def test_clients_that_accept_different_types_do_not_get_each_others_manifest(
    ttl: str, old_first: bool, setup: Setup, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    mirror.inject(OneImageForOldClients(multi.images[0]), path=TAG)
    proxy = setup.proxy(None, mirror, settings={"tag-ttl": ttl})
    expected = {NEW_CLIENT: multi.index, OLD_CLIENT: multi.images[0].manifest}
    for accept in sorted([NEW_CLIENT, OLD_CLIENT] * 2, key=lambda accept: (accept == NEW_CLIENT) == old_first):
        for got in await proxy.head(TAG, Accept=accept), await proxy.get(TAG, Accept=accept):
            assert got.headers["Docker-Content-Digest"] == expected[accept].digest
            assert got.headers["Content-Type"] == expected[accept].media_type
        assert got.data == expected[accept].data
    for request in mirror.seen(path="/manifests/1.0"):
        assert request.headers["Accept"] in expected, "the client's own types are what upstream is asked for"


async def test_by_digest_the_first_clients_types_do_not_matter(
    setup: Setup, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    mirror.inject(OneImageForOldClients(multi.images[0]))
    proxy = setup.proxy(None, mirror)
    got = await proxy.get(manifest(multi.index.digest), Accept=OLD_CLIENT)
    assert (got.data, got.cut) == (multi.index.data, None)


async def test_a_registry_that_says_no_digest(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    mirror.inject(NoDigest())
    proxy = setup.proxy(None, mirror)
    for _ in range(2):
        got = await proxy.get(TAG)
        assert (got.status, got.data) == (200, image.manifest.data)
        assert got.headers["Docker-Content-Digest"] == image.manifest.digest
        assert (got.headers["Content-Type"], got.headers["Content-Length"]) == (MANIFEST, str(image.manifest.size))
    asked = len(mirror.seen(method="GET"))
    head = await proxy.head(TAG)
    assert (head.status, head.headers["Content-Type"]) == (200, MANIFEST)
    assert head.headers["Content-Length"] == str(image.manifest.size)
    assert len(mirror.seen(method="GET")) == asked, "a client's HEAD became a GET"
    # What it is made of is cached as ever.
    for expected in f'mirrortap; fwd=miss; detail="{mirror.endpoint}"', "mirrortap; hit":
        assert (await proxy.get(blob(image.config.digest))).headers["Cache-Status"] == expected


@pytest.mark.parametrize(
    "said", ["", "sha256:../../../etc/passwd", "sha256:ABCDEF", "md5:" + "0" * 32, "latest", "sha256:" + "0" * 63]
)
async def test_a_digest_that_is_none_is_no_digest(said: str, setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    mirror.inject(SaysDigest(said))
    proxy = setup.proxy(None, mirror)
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)
    assert got.headers["Docker-Content-Digest"] == image.manifest.digest


async def test_a_registry_that_does_not_know_head(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    origin.inject(HeadRefused())
    proxy = setup.proxy(origin)
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)
    assert got.headers["Docker-Content-Digest"] == image.manifest.digest
    origin.requests.clear()
    head = await proxy.head(TAG)
    assert head.status == 405
    assert {request.method for request in origin.requests} == {"HEAD"}, "a client's HEAD became a GET"
    for expected in f'mirrortap; fwd=miss; detail="{origin.endpoint}"', "mirrortap; hit":
        got = await proxy.get(blob(image.config.digest))
        assert (got.data, got.headers["Cache-Status"]) == (image.config.data, expected)


async def test_a_mirror_that_does_not_know_head_does_not_hide_the_origin(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    origin.add(image, NAME)
    mirror.inject(HeadRefused())
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)
    assert (await proxy.head(TAG)).status == 200


async def test_the_same_tag_in_other_repositories_is_another_tag(
    setup: Setup, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    mirror.add(image, NAME)
    mirror.add(other, "library/second")
    proxy = setup.proxy(None, mirror, settings={"tag-ttl": "5m"})
    for _ in range(2):
        assert (await proxy.get(TAG)).data == image.manifest.data
        assert (await proxy.get(manifest("1.0", "library/second"))).data == other.manifest.data
        assert (await proxy.get(manifest("2.0"))).status == 404


async def test_a_manifest_get_that_is_limited_says_when_to_come_back(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    """Docker Hub's limit: the HEAD is free and works, the GET is counted and refused."""
    mirror.add(image, NAME)
    mirror.inject(Status(429, {"Retry-After": "21600"}), method="GET")
    proxy = setup.proxy(None, mirror)
    got = await proxy.get(TAG)
    assert (got.status, got.headers["Retry-After"]) == (429, "21600")
    assert got.error["code"] == "TOOMANYREQUESTS"
