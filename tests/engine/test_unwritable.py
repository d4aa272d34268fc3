"""A cache that cannot be written, or not any more: clients are served straight from upstream."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.faults import Corrupt, Slow

from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy


def replace_by_a_file(proxy: Proxy, name: str) -> None:
    """Unlike access rights, this stops root too."""
    shutil.rmtree(proxy.cache / name, ignore_errors=True)
    (proxy.cache / name).write_bytes(b"")


@pytest.mark.parametrize("folder", ["partial", "blobs"])
async def test_everything_is_still_served(
    folder: str, setup: Setup, mirror: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    replace_by_a_file(proxy, folder)
    for _ in range(2):
        for target, part in (TAG, image.manifest), (manifest(image.manifest.digest), image.manifest):
            head = await proxy.head(target)
            assert (head.status, head.headers["Docker-Content-Digest"]) == (200, part.digest)
            got = await proxy.get(target)
            assert (got.status, got.data, got.cut) == (200, part.data, None)
            assert got.headers["Content-Type"] == part.media_type
            assert got.headers["Cache-Status"] == f'mirrortap; fwd=miss; detail="{mirror.endpoint}"'
        for part in image.blobs:
            got = await proxy.get(blob(part.digest))
            assert (got.status, got.data, got.cut) == (200, part.data, None)
            assert got.headers["Content-Length"] == str(part.size)
    assert str(proxy.cache) in caplog.text, "the operator is not told"


async def test_what_is_cached_is_served_from_there(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(blob(image.config.digest))
    replace_by_a_file(proxy, "partial")
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.headers["Cache-Status"]) == (image.config.data, "mirrortap; hit")


async def test_many_at_once_are_all_served(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    replace_by_a_file(proxy, "partial")
    replies = await asyncio.gather(*(proxy.get(blob(image.layers[1].digest)) for _ in range(10)))
    assert {(got.status, got.data, got.cut) for got in replies} == {(200, image.layers[1].data, None)}


async def test_ranges_leave_no_connection_open(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    """The whole is asked for first, to know its size: nobody reads that when only a part is wanted, or none exists."""
    mirror.add(image, NAME)
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=1000), kind="blob", times=3)
    layer = image.layers[1]
    proxy = setup.proxy(None, mirror)
    replace_by_a_file(proxy, "partial")
    begun = len(os.listdir("/proc/self/fd"))
    for asked, status in (f"{layer.size}-", 416), ("0-4", 206), ("1-5,9-9", 206):
        got = await proxy.get(blob(layer.digest), Range=f"bytes={asked}")
        assert (got.status, got.cut) == (status, None)
        # Two ends of at most one kept connection: a body that nobody reads would hold another pair.
    gate.set()
    assert len(os.listdir("/proc/self/fd")) <= begun + 4


async def test_wrong_bytes_are_cut_all_the_same(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    mirror.inject(Corrupt(), kind="blob")
    proxy = setup.proxy(None, mirror)
    replace_by_a_file(proxy, "partial")
    for part in image.blobs:
        got = await proxy.get(blob(part.digest))
        assert got.cut
        assert len(got.data) < part.size


async def test_what_is_not_there_is_404(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(None, mirror)
    replace_by_a_file(proxy, "partial")
    assert (await proxy.get(blob(image.config.digest))).status == 404


async def test_private_content_is_as_private(setup: Setup, image: Image) -> None:
    auth = BearerAuth(Policy(private={NAME: {"alice"}}))
    origin = await setup.registry(auth=auth)
    auth.tokens["alices"] = {NAME: {"pull"}}
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    replace_by_a_file(proxy, "partial")
    assert (await proxy.get(blob(image.config.digest))).status == 401
    got = await proxy.get(blob(image.config.digest), Authorization="Bearer alices")
    assert (got.status, got.data) == (200, image.config.data)


async def test_a_head_beside_a_download_does_not_become_one(setup: Setup, image: Image) -> None:
    """The download that it waits for cannot be stored: that is no reason for a GET of its own."""
    gate = asyncio.Event()
    mirror = await setup.registry(auth=BearerAuth(Policy()))
    mirror.add(image, NAME)
    mirror.inject(Slow(gate), kind="token", times=1)
    proxy = setup.proxy(None, mirror)
    replace_by_a_file(proxy, "partial")
    downloading = asyncio.create_task(proxy.get(blob(image.config.digest)))
    await mirror.wait_for(lambda: bool(mirror.seen("token")))
    asking = asyncio.create_task(proxy.ask("HEAD", blob(image.config.digest)))
    gate.set()
    assert (await downloading).data == image.config.data
    head = await asking
    assert (head.status, head.body) == (200, b"")
    assert dict(head.headers)["Content-Length"] == str(image.config.size)
    # Without a token, with one for the store, with one past it.
    assert len(mirror.seen("blob", method="GET")) <= 3


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files end at 100 kB, for root too: what is larger fails in the middle of writing, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
async def test_a_disk_that_gets_full_does_not_keep_clients_from_pulling(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    """Neither the one whose download filled it, nor those beside it, nor the next ones."""
    mirror.add(image, NAME)
    layer = image.layers[1]
    proxy = setup.proxy(None, mirror)
    beside = await asyncio.gather(*(proxy.get(blob(layer.digest)) for _ in range(5)))
    for got in (*beside, *[await proxy.get(blob(layer.digest)) for _ in range(3)]):
        assert (got.cut, got.digest) == (None, layer.digest)
    assert proxy.cached() == set()


@pytest.mark.usefixtures("full_disk")
async def test_the_rest_that_goes_past_a_full_disk_is_verified(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    mirror.inject(Corrupt(), kind="blob")
    layer = image.layers[1]
    got = await setup.proxy(None, mirror).get(blob(layer.digest))
    assert got.cut
    assert len(got.data) < layer.size


async def test_a_database_that_cannot_be_written_costs_no_pull(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    proxy.make_database_read_only()
    for _ in range(2):
        assert (await proxy.get(TAG)).data == image.manifest.data
        for part in image.blobs:
            assert (await proxy.get(blob(part.digest))).data == part.data
