"""A cache that forgets: what was evicted, damaged or lost costs a miss, never an error, and never a wrong byte."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest
from support.config import QUICK
from support.faults import NoDigest, Slow, Status

from addon.cache.reference import Reference
from addon.cache.store import Store
from addon.config.model import Amount, Space
from addon.oci import Digest
from addon.reply import Served
from engine.harness import NAME, REGISTRY, TAG, blob, manifest, read

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from support.images import Descriptor, Image, MultiArch
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

NOTHING = Space(Amount(), Amount())


def limit(count: int) -> Space:
    return Space(Amount(bytes=count), Amount())


async def pull(proxy: Proxy, image: Image | MultiArch, how: str | None = None) -> None:
    """All of it, by tag; `how` it must have been served."""
    got = await proxy.get(TAG)
    assert (got.status, got.data) == (200, image.top.data)
    assert how in (None, got.served.how)
    for each in image.images:
        got = await proxy.get(manifest(each.manifest.digest))
        assert (got.status, got.data) == (200, each.manifest.data)
    for part in image.blobs:
        got = await proxy.get(blob(part.digest))
        assert (got.status, got.data, got.cut) == (200, part.data, None)
        assert how in (None, "stale", got.served.how)


def path(proxy: Proxy, part: Descriptor) -> Path:
    return proxy.cache / "blobs" / part.digest.replace(":", "/")


def evict(proxy: Proxy, parts: Iterable[Descriptor]) -> None:
    for part in parts:
        assert Store(proxy.cache).evict(Digest.parse(part.digest))


def size(proxy: Proxy) -> int:
    return sum(file.stat().st_size for file in proxy.cache.glob("blobs/*/*"))


def listed(proxy: Proxy) -> list[str]:
    index = json.loads((proxy.cache / "index.json").read_bytes())
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]


# --- evicted ---


async def test_a_manifest_whose_blobs_are_gone_costs_a_miss(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    evict(proxy, image.blobs)
    assert (await proxy.get(TAG)).served == Served("hit")
    for part in image.blobs:
        head = await proxy.head(blob(part.digest))
        assert (head.status, head.headers["Content-Length"]) == (200, str(part.size))
        got = await proxy.get(blob(part.digest))
        assert (got.status, got.data, got.served.how) == (200, part.data, "miss from")
        assert (await proxy.get(blob(part.digest))).served == Served("hit")


async def test_blobs_whose_manifest_is_gone(setup: Setup, mirror: FakeRegistry, image: Image, other: Image) -> None:
    mirror.add(image, NAME)
    mirror.add(other, "other")
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    evict(proxy, [image.manifest])
    # Which is when index.json is written next.
    await proxy.get(manifest("1.0", "other"))
    await proxy.close()
    assert listed(proxy) == [f"{REGISTRY}/other:1.0"]
    proxy = setup.beside(proxy)
    got = await proxy.get(TAG)
    assert (got.data, got.served.how) == (image.manifest.data, "miss from")
    assert (await proxy.get(blob(image.config.digest))).served == Served("hit")


async def test_what_was_evicted_without_any_endpoint_left(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    """The manifest is served, for what is cached of it; the rest is an error that says so."""
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    evict(proxy, [image.layers[0]])
    mirror.inject(Status(503))
    assert (await proxy.get(TAG)).served.how == "stale"
    assert (await proxy.get(blob(image.layers[1].digest))).data == image.layers[1].data
    got = await proxy.get(blob(image.layers[0].digest))
    assert got.status >= 500
    assert mirror.endpoint in got.error["message"]


async def test_a_cache_that_is_too_small_serves_everything(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, space=NOTHING)
    for _ in range(3):
        await pull(proxy, image)
        await proxy.janitor.make_room()
        assert proxy.cached() == set()


async def test_the_cache_stays_within_its_limit(setup: Setup, mirror: FakeRegistry, image: Image, other: Image) -> None:
    mirror.add(image, NAME)
    mirror.add(other, "other")
    proxy = setup.proxy(None, mirror, space=limit(250_000))
    await pull(proxy, image)
    await proxy.janitor.make_room()
    assert {part.digest for part in image.blobs} < proxy.cached()
    await proxy.get(manifest("1.0", "other"))
    for part in other.blobs:
        await proxy.get(blob(part.digest, "other"))
    await proxy.janitor.make_room()
    assert size(proxy) <= 250_000
    assert {part.digest for part in other.blobs} < proxy.cached()
    assert image.layers[1].digest not in proxy.cached()
    await pull(proxy, image)


async def test_what_is_used_stays(setup: Setup, mirror: FakeRegistry, image: Image, other: Image) -> None:
    mirror.add(image, NAME)
    mirror.add(other, "other")
    proxy = setup.proxy(None, mirror, space=limit(420_000))
    await pull(proxy, image)
    await proxy.get(blob(other.layers[1].digest, "other"))
    await pull(proxy, image, "hit")
    await proxy.get(blob(other.layers[0].digest, "other"))
    await proxy.janitor.make_room()
    assert {part.digest for part in (image.manifest, *image.blobs, other.layers[0])} == proxy.cached()


async def test_a_download_that_fills_the_cache_is_noticed_at_once(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror, space=NOTHING)
    proxy.janitor.start()
    got = await proxy.get(blob(image.layers[1].digest))
    assert got.data == image.layers[1].data
    while proxy.cached():  # noqa: ASYNC110 (on a file)
        await asyncio.sleep(0.01)


async def test_what_a_client_reads_is_not_evicted(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    layer = image.layers[1]
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(blob(layer.digest))
    tight = setup.beside(proxy)
    for each in proxy, tight:
        reply = await each.ask("GET", blob(layer.digest), {"Range": "bytes=100-"})
        assert proxy.cached() == {layer.digest}
        evicting = setup.beside(proxy, space=NOTHING)
        await evicting.janitor.make_room()
        assert proxy.cached() == {layer.digest}
        assert (await read(reply)).data == layer.data[100:]
    await evicting.janitor.make_room()
    assert proxy.cached() == set()
    assert (await proxy.get(blob(layer.digest))).data == layer.data


async def test_what_is_being_downloaded_is_not_evicted(setup: Setup, image: Image) -> None:
    layer = image.layers[1]
    gate = asyncio.Event()
    mirror = await setup.registry()
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    evicting = setup.beside(proxy, space=NOTHING)
    mirror.inject(Slow(gate), kind="blob", times=1)
    downloading = asyncio.create_task(proxy.get(blob(layer.digest)))
    await mirror.wait_for(lambda: bool(mirror.seen("blob")))
    await evicting.janitor.make_room()
    gate.set()
    got = await downloading
    assert (got.data, got.cut) == (layer.data, None)
    assert len(mirror.seen("blob", method="GET")) == 1


async def test_a_pinned_tag_stays(setup: Setup, mirror: FakeRegistry, multi: MultiArch, other: Image) -> None:
    mirror.add(multi, NAME)
    mirror.add(other, "other")
    proxy = setup.proxy(None, mirror, space=NOTHING)
    # As the command does, in another process, and before it is cached.
    setup.beside(proxy).pins.add(Reference(REGISTRY, NAME, "1.0"))
    await pull(proxy, multi)
    await proxy.get(manifest("1.0", "other"))
    pinned = proxy.cached() - {other.manifest.digest}
    await proxy.janitor.make_room()
    assert proxy.cached() == pinned
    await pull(proxy, multi, "hit")


async def test_a_tag_whose_registry_names_no_digest_counts(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    mirror.inject(NoDigest())
    proxy = setup.proxy(None, mirror, space=NOTHING)
    assert (await proxy.get(TAG)).data == image.manifest.data
    assert proxy.cached() == {image.manifest.digest}
    await proxy.janitor.make_room()
    assert proxy.cached() == set()


# --- damaged ---


@pytest.mark.parametrize("damage", [b"", b"short", None], ids=["empty", "shorter", "longer"])
async def test_a_file_of_the_wrong_size_is_downloaded_anew(
    damage: bytes | None, setup: Setup, mirror: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    for part in (image.manifest, *image.blobs):
        path(proxy, part).write_bytes(part.data + b"\0" if damage is None else damage)
    await pull(proxy, image, "miss from")
    for part in (image.manifest, *image.blobs):
        assert path(proxy, part).read_bytes() == part.data
        assert f"{path(proxy, part)} was damaged" in caplog.text
    await pull(proxy, image, "hit")


async def test_a_manifest_with_a_wrong_byte_is_downloaded_anew(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    path(proxy, image.manifest).write_bytes(image.manifest.data.replace(b"sha256", b"sha265"))
    got = await proxy.get(TAG)
    assert (got.data, got.served.how) == (image.manifest.data, "miss from")


# --- a lost database ---


def lose_database(proxy: Proxy) -> None:
    for file in proxy.cache.glob("mirrortap.sqlite*"):
        file.unlink()


def damage_database(proxy: Proxy) -> None:
    file = proxy.cache / "mirrortap.sqlite"
    file.write_bytes(os.urandom(file.stat().st_size))


@pytest.mark.parametrize("lose", [lose_database, damage_database])
async def test_a_warm_image_needs_neither_database_nor_endpoint(
    lose: object, setup: Setup, mirror: FakeRegistry, multi: MultiArch, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(lose)
    mirror.add(multi, NAME)
    proxy = setup.proxy(None, mirror, settings=dict(QUICK))
    await pull(proxy, multi)
    await proxy.close()
    lose(proxy)
    mirror.inject(Status(503))
    proxy = setup.beside(proxy)
    assert "the database did not know what is cached" in caplog.text
    before = len(mirror.seen("blob"))
    await pull(proxy, multi, "stale")
    assert len(mirror.seen("blob")) == before
    await proxy.close()
    assert listed(proxy) == [f"{REGISTRY}/{NAME}:1.0"]


async def test_no_database_and_no_index_is_a_colder_cache(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    await proxy.close()
    lose_database(proxy)
    (proxy.cache / "index.json").write_bytes(b"[" * 100_000)
    proxy = setup.beside(proxy)
    await pull(proxy, image, "hit")
    assert len(mirror.seen("blob", method="GET")) == len(image.blobs), "asked by HEAD whether it may be served"


async def test_a_lost_database_opens_no_door(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    """A digest is known for the repositories whose tags reach it, and no others."""
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    await proxy.close()
    lose_database(proxy)
    proxy = setup.beside(proxy)
    assert (await proxy.get(blob(image.config.digest, "other/app"))).status == 404
    assert (await proxy.head(blob(image.config.digest, "other/app"))).status == 404
