"""A digest in the cache is shown for a repository only when an endpoint has said that this repository holds it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.faults import Close, Slow, Status

from engine.harness import NAME, blob, manifest, read

if TYPE_CHECKING:
    from support.faults import Fault
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup

OTHER = "team/other"


def targets(image: Image, name: str) -> list[str]:
    return [blob(image.config.digest, name), manifest(image.manifest.digest, name)]


async def test_what_another_repository_brought_is_not_shown(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    """Not even to HEAD: a client that pushes would skip an upload which its repository needs."""
    origin.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    for known, unknown in zip(targets(image, NAME), targets(image, OTHER), strict=True):
        assert (await proxy.get(known)).status == 200
        for _ in range(2):
            for got in await proxy.head(unknown), await proxy.get(unknown):
                assert got.status == 404
                assert "Docker-Content-Digest" not in got.headers
        # The way of a push: the HEAD is 404, the upload is made, the HEAD is 200.
        origin.content.put_blob(OTHER, image.config.data)
    assert (await proxy.head(blob(image.config.digest, OTHER))).status == 200


async def test_one_head_upstream_is_enough_to_show_it(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    for name in NAME, OTHER:
        origin.add(image, name)
    proxy = setup.proxy(origin)
    for known, unknown in zip(targets(image, NAME), targets(image, OTHER), strict=True):
        data = (await proxy.get(known)).data
        origin.requests.clear()
        for _ in range(2):
            got = await proxy.get(unknown)
            assert (got.status, got.data, got.headers["Cache-Status"]) == (200, data, "mirrortap; hit")
            assert (await proxy.head(unknown)).headers["Cache-Status"] == "mirrortap; hit"
        assert [(seen.method, seen.path) for seen in origin.requests] == [("HEAD", unknown)]


@pytest.mark.parametrize("fault", [Close(), Status(503), Status(429)], ids=["closes", "503", "429"])
async def test_when_nobody_can_say_it_is_an_error(
    fault: Fault, setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    for name in NAME, OTHER:
        origin.add(image, name)
    proxy = setup.proxy(origin)
    for target in targets(image, NAME):
        assert (await proxy.get(target)).status == 200
    origin.inject(fault)
    for target in targets(image, OTHER):
        for got in await proxy.get(target), await proxy.head(target):
            assert got.status in (502, 429)
            assert image.config.data not in got.data
    # What is known is served as before.
    for target in targets(image, NAME):
        assert (await proxy.get(target)).headers["Cache-Status"] == "mirrortap; hit"


async def test_a_download_that_runs_for_another_repository_is_not_shown_either(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    layer, gate = image.layers[1], asyncio.Event()
    mirror.inject(Slow(gate, after=1000), kind="blob", path=f"/v2/{NAME}/*")
    proxy = setup.proxy(None, mirror)
    downloading = await proxy.ask("GET", blob(layer.digest))
    for got in await proxy.get(blob(layer.digest, OTHER)), await proxy.head(blob(layer.digest, OTHER)):
        assert got.status == 404
    mirror.add(image, OTHER)
    head = await proxy.head(blob(layer.digest, OTHER))
    assert (head.status, head.headers["Content-Length"]) == (200, str(layer.size))
    joined = await proxy.ask("GET", blob(layer.digest, OTHER))
    assert joined.status == 200
    gate.set()
    for reply in downloading, joined:
        assert (await read(reply)).data == layer.data
    assert [seen.path for seen in mirror.seen(method="GET")] == [blob(layer.digest)]


async def test_a_download_that_another_repository_could_not_open_is_not_the_answer(setup: Setup, image: Image) -> None:
    """Both repositories ask at once; the one that asked first may not have it."""
    gate = asyncio.Event()
    mirror = await setup.registry(auth=BearerAuth(Policy()))
    mirror.add(image, OTHER)
    mirror.inject(Slow(gate), kind="token", times=1)
    proxy = setup.proxy(None, mirror)
    digest = image.config.digest
    first = asyncio.create_task(proxy.get(blob(digest)))
    await mirror.wait_for(lambda: bool(mirror.seen("token")))
    second = asyncio.create_task(proxy.get(blob(digest, OTHER)))
    await mirror.wait_for(lambda: any(seen.status == 200 for seen in mirror.seen("blob", f"/{OTHER}/")))
    gate.set()
    assert (await first).status == 404
    got = await second
    assert (got.status, got.data) == (200, image.config.data)


async def test_the_same_name_at_another_registry_is_another_repository(
    setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    second = await setup.registry()
    origin.add(image, NAME)
    more = [f'[registry."other.test"]\nserver = "https://{second.endpoint}"\nca = ["{setup.ca_file}"]\n']
    proxy = setup.proxy(origin, more=more)
    for target in targets(image, NAME):
        assert (await proxy.get(target)).status == 200
        assert (await proxy.get(target, registry="other.test")).status == 404
    second.add(image, NAME)
    got = await proxy.get(blob(image.config.digest), registry="other.test")
    assert (got.data, got.headers["Cache-Status"]) == (image.config.data, "mirrortap; hit")
    assert got.headers["OCI-Namespace"] == "other.test"


async def test_public_content_is_no_key_to_a_private_repository(setup: Setup, image: Image) -> None:
    """Both hold the blob. Who may not read the private one gets its challenge, whatever is in the cache."""
    auth = BearerAuth(Policy(private={OTHER: {"alice"}}))
    origin = await setup.registry(auth=auth)
    auth.tokens["alices"] = {OTHER: {"pull"}}
    for name in NAME, OTHER:
        origin.add(image, name)
    proxy = setup.proxy(origin)
    for known, private in zip(targets(image, NAME), targets(image, OTHER), strict=True):
        data = (await proxy.get(known)).data
        for got in await proxy.get(private), await proxy.head(private):
            assert got.status == 401
            assert data not in got.data
        assert (await proxy.get(private, Authorization="Bearer alices")).data == data
        assert (await proxy.get(private)).status == 401


async def test_links_survive_a_restart(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    for target in targets(image, NAME):
        await proxy.get(target)
    origin.inject(Status(503))
    second = await setup.restart(proxy)
    for target in targets(image, NAME):
        assert (await second.get(target)).headers["Cache-Status"] == "mirrortap; hit"
    for target in targets(image, OTHER):
        assert (await second.get(target)).status == 502
