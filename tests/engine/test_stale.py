"""When no endpoint answers, the cache says what a tag last pointed at; when one says no, it does not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.clock import Clock
from support.config import QUICK
from support.faults import Close, Hang, Status
from support.registry import FakeRegistry

from engine.harness import NAME, TAG, closed_port, manifest
from engine.test_tags import NEW_CLIENT, OLD_CLIENT, OneImageForOldClients

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.faults import Fault
    from support.images import Image, MultiArch

    from engine.conftest import Setup


async def test_stale_when_nobody_listens_any_more(setup: Setup, authority: Authority, image: Image) -> None:
    clock = Clock()
    async with FakeRegistry(tls=authority) as origin:
        origin.add(image, NAME)
        proxy = setup.proxy(origin, closed_port(), clock=clock, settings={"tag-ttl": "30s"})
        await proxy.get(TAG)
    clock.now += 100
    for got in await proxy.get(TAG), await proxy.head(TAG):
        assert got.status == 200
        assert got.headers["Cache-Status"] == "mirrortap; hit; ttl=-70; detail=stale"
        assert got.headers["Docker-Content-Digest"] == image.manifest.digest
        assert got.headers["Content-Length"] == str(image.manifest.size)
        assert got.headers["Content-Type"] == image.manifest.media_type
    assert (await proxy.get(TAG)).data == image.manifest.data
    assert (await proxy.get(manifest("2.0"))).status == 502, "a tag that was never seen"


@pytest.mark.parametrize(
    "fault", [Status(500), Status(503), Status(429), Close(), Hang()], ids=["500", "503", "429", "closes", "hangs"]
)
async def test_stale_when_every_endpoint_fails(
    fault: Fault, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(origin, mirror, settings=dict(QUICK))
    await proxy.get(TAG)
    mirror.inject(Status(503))
    origin.inject(fault)
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)
    assert got.headers["Cache-Status"].endswith("detail=stale")


@pytest.mark.parametrize("mirror_says", [404, 401, 403])
async def test_stale_when_a_mirror_has_nothing_and_the_origin_fails(
    mirror_says: int, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    """Only the origin can say that a tag is gone."""
    origin.add(image, NAME)
    mirror.inject(Status(mirror_says))
    proxy = setup.proxy(origin, mirror)
    await proxy.get(TAG)
    origin.inject(Status(503))
    assert (await proxy.get(TAG)).data == image.manifest.data


@pytest.mark.parametrize("status", [404, 403, 401])
@pytest.mark.parametrize("mirror_says", [404, 503])
async def test_not_stale_when_the_origin_says_no(
    status: int, mirror_says: int, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    await proxy.get(TAG)
    mirror.inject(Status(mirror_says))
    origin.inject(Status(status))
    for got in await proxy.get(TAG), await proxy.head(TAG):
        assert got.status == status
        assert "hit" not in got.headers["Cache-Status"]


async def test_not_stale_when_the_only_mirrors_say_no(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    mirror.inject(Status(404))
    assert (await proxy.get(TAG)).status == 404


async def test_fresh_again_when_the_endpoint_is_back(
    setup: Setup, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    mirror.inject(Status(503))
    assert (await proxy.get(TAG)).headers["Cache-Status"].endswith("detail=stale")
    mirror.traffic.injections.clear()
    mirror.add(other, NAME)
    assert (await proxy.get(TAG)).data == other.manifest.data


async def test_the_last_that_arrived_when_the_newest_never_did(
    setup: Setup, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    mirror.add(other, NAME)
    await proxy.head(TAG)  # the tag is known to have moved, its content is not here
    mirror.inject(Status(503))
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)


async def test_the_newest_that_arrived_when_a_tag_moved_often(
    setup: Setup, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    clock = Clock()
    proxy = setup.proxy(None, mirror, clock=clock)
    for each in image, other, image:
        mirror.add(each, NAME)
        await proxy.get(TAG)
        clock.now += 1
    mirror.inject(Status(503))
    assert (await proxy.get(TAG)).data == image.manifest.data


async def test_a_client_is_given_no_type_that_it_does_not_accept(
    setup: Setup, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    fault = mirror.inject(OneImageForOldClients(multi.images[0]), path=TAG)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG, Accept=NEW_CLIENT)
    down = mirror.inject(Status(503))
    assert (await proxy.get(TAG, Accept=OLD_CLIENT)).status == 502
    mirror.traffic.injections.remove(down)
    await proxy.get(TAG, Accept=OLD_CLIENT)
    assert fault.hits
    mirror.traffic.injections.append(down)
    assert (await proxy.get(TAG, Accept=OLD_CLIENT)).data == multi.images[0].manifest.data
    assert (await proxy.get(TAG, Accept=NEW_CLIENT)).data == multi.index.data


async def test_what_another_kind_of_client_pulled_is_better_than_nothing(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    """Even within the ttl, which is of the other client's question: Cache-Status stays a valid header (RFC 9211)."""
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, settings={"tag-ttl": "1h"})
    await proxy.get(TAG, Accept=NEW_CLIENT)
    mirror.inject(Status(503))
    got = await proxy.get(TAG, Accept=OLD_CLIENT)
    assert (got.status, got.data) == (200, image.manifest.data)
    assert re.fullmatch(r"mirrortap; hit(; ttl=-?\d{1,15})?(; detail=stale)?", got.headers["Cache-Status"])


async def test_stale_survives_a_restart(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    mirror.inject(Status(503))
    got = await (await setup.restart(proxy)).get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)
