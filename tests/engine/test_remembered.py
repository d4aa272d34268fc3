"""What is remembered of warm content is given up as soon as it does not hold any more, whoever has seen to that."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.access import Policy
from support.auth import BearerAuth

from addon.cli import main
from addon.config.model import Amount, Space
from addon.reply import Served
from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from pathlib import Path

    from support.images import Descriptor, Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy

OTHER = "library/other"
HIT = Served("hit")
STALE_TAG = {"tag-ttl": "1h"}


@pytest.fixture
async def origin(setup: Setup, image: Image) -> FakeRegistry:
    """Everybody may read it, until that is taken away."""
    registry = await setup.registry(auth=BearerAuth(Policy()))
    registry.add(image, NAME)
    return registry


def close(origin: FakeRegistry) -> None:
    assert isinstance(origin.auth, BearerAuth)
    origin.auth.policy.private[NAME] = set()
    origin.auth.tokens = {}


def targets(image: Image) -> dict[str, Descriptor]:
    parts = {blob(part.digest): part for part in image.blobs}
    return {TAG: image.manifest, manifest(image.manifest.digest): image.manifest, **parts}


async def warm(proxy: Proxy, image: Image) -> None:
    for _ in range(2):
        for target, part in targets(image).items():
            got = await proxy.get(target)
            assert (got.status, got.data) == (200, part.data)
        await proxy.settled(image.manifest.digest)
    for target, part in targets(image).items():
        got = await proxy.get(target)
        assert (got.served, got.data) == (HIT, part.data)


def path(proxy: Proxy, part: Descriptor) -> Path:
    return proxy.cache / "blobs" / part.digest.replace(":", "/")


def write(proxy: Proxy, statement: str) -> None:
    """In the database, as another process."""
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
    subprocess.run([sys.executable, "-c", program, proxy.cache / "mirrortap.sqlite", statement], check=True)


def missed(got: Got, part: Descriptor) -> bool:
    assert (got.status, got.data, got.cut) == (200, part.data, None)
    return got.served.how == "miss from"


# --- files ---


@pytest.mark.parametrize("damage", ["removed", "shorter", "other bytes", "empty"])
async def test_a_file_that_is_not_what_it_was_costs_a_miss(
    damage: str, setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(origin, settings=STALE_TAG)
    await warm(proxy, image)
    for target in targets(image):
        part = targets(image)[target]
        file = path(proxy, part)
        if damage == "removed":
            file.unlink()
        elif damage == "other bytes" and part is image.manifest:
            file.write_bytes(part.data[::-1])
        else:
            file.write_bytes(part.data[:-1] if damage == "shorter" else b"")
        assert missed(await proxy.get(target), part)
        assert (await proxy.get(target)).served == HIT
        if part is image.manifest:
            await proxy.settled(part.digest)
            assert (await proxy.get(target)).served == HIT


async def test_what_another_worker_evicts_is_gone(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(origin, settings=STALE_TAG)
    await warm(proxy, image)
    other = setup.beside(proxy, space=Space(Amount(bytes=1), Amount()))
    await other.janitor.make_room()
    assert proxy.cached() == set()
    for target, part in targets(image).items():
        if target != TAG:
            assert missed(await proxy.get(target), part)
    assert (await proxy.get(TAG)).served == HIT


async def test_what_the_command_removes_is_gone(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(origin, settings=STALE_TAG)
    await warm(proxy, image)
    layer = image.layers[0]
    for part in image.manifest, layer:
        path(proxy, part).write_bytes(part.data[::-1])
    result = CliRunner().invoke(main, ["cache", "verify", "--data", str(proxy.cache.parent)])
    assert "2 damaged" in result.output
    assert missed(await proxy.get(manifest(image.manifest.digest)), image.manifest)
    assert missed(await proxy.get(blob(layer.digest)), layer)


# --- what is known about it ---


async def test_another_worker_is_told_that_it_is_private_now(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(origin, settings=STALE_TAG)
    other = setup.beside(proxy)
    await warm(proxy, image)
    close(origin)
    write(proxy, "DELETE FROM tag")  # so that the other has to ask
    assert (await other.get(TAG)).status == 401
    for target in targets(image):
        assert (await proxy.get(target)).status == 401
        assert (await proxy.head(target)).status == 401


async def test_beliefs_that_another_process_takes_away(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """No turn of the event loop, even, is between that and the next request."""
    proxy = setup.proxy(origin, settings=STALE_TAG)
    await warm(proxy, image)
    close(origin)
    for target in targets(image):
        assert (await proxy.get(target)).served == HIT
    write(proxy, "DELETE FROM verdict")
    for target in targets(image):
        assert (await proxy.get(target)).status == 401


async def test_a_link_that_another_process_takes_away(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(origin)
    await warm(proxy, image)
    layer = image.layers[0]
    origin.requests.clear()
    write(proxy, "DELETE FROM link")
    assert (await proxy.get(blob(layer.digest))).data == layer.data
    assert [seen.method for seen in origin.requests if seen.kind != "token"] == ["HEAD"]


async def test_a_link_that_another_worker_finds(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """That there was none is remembered no longer than that there is one."""
    proxy = setup.proxy(origin)
    await warm(proxy, image)
    other = setup.beside(proxy)
    layer = image.layers[0]
    for _ in range(2):
        assert (await proxy.get(blob(layer.digest, OTHER))).status == 401
    origin.add(image, OTHER)
    assert (await other.get(blob(layer.digest, OTHER))).data == layer.data
    origin.requests.clear()
    assert (await proxy.get(blob(layer.digest, OTHER))).served == HIT
    assert origin.requests == []


async def test_a_tag_that_another_worker_has_seen_move(
    setup: Setup, origin: FakeRegistry, image: Image, other: Image
) -> None:
    proxy = setup.proxy(origin, settings=STALE_TAG)
    await warm(proxy, image)
    beside = setup.beside(proxy)
    origin.add(other, NAME)
    with closing(sqlite3.connect(proxy.cache / "mirrortap.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE tag SET checked = 0")
    assert (await beside.get(TAG)).data == other.manifest.data
    asked = len(origin.requests)
    got = await proxy.get(TAG)
    assert (got.served, got.data) == (HIT, other.manifest.data)
    assert len(origin.requests) == asked
