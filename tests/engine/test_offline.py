"""Offline: what is cached is served, all else is refused by name, and no endpoint hears of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.images import INDEX, sha256

from engine.harness import NAME, REGISTRY, TAG, blob, manifest
from engine.test_tags import NEW_CLIENT, OLD_CLIENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.images import Image, MultiArch
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy

OTHER = "library/other"


async def pull(proxy: Proxy, image: Image, name: str = NAME) -> None:
    assert (await proxy.get(manifest("1.0", name))).digest == image.manifest.digest
    for each in image.blobs:
        assert (await proxy.get(blob(each.digest, name))).digest == each.digest


async def offline(setup: Setup, proxy: Proxy) -> Proxy:
    """The same proxy, started again with offline = true."""
    file = proxy.cache.parent / "mirrortap.toml"
    file.write_text(file.read_text().replace("[mirrortap]", "[mirrortap]\noffline = true"))
    return await setup.restart(proxy)


def refused(got: Got, what: str, registry: str = REGISTRY) -> None:
    assert (got.status, got.error["code"]) == (504, "UNAVAILABLE")
    assert what in got.error["message"]
    assert f"mirrortap is offline for {registry}" in got.error["message"]
    assert "--offline" in got.error["message"]


async def test_what_was_pulled_is_served_and_nobody_is_asked(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image, other: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    await pull(proxy, image)
    asked = len(mirror.requests), len(origin.requests)
    mirror.add(other, NAME)

    proxy = await offline(setup, proxy)
    for got in await proxy.get(TAG), await proxy.head(TAG):
        assert (got.status, got.headers["Docker-Content-Digest"]) == (200, image.manifest.digest)
        assert got.headers["Cache-Status"].startswith("mirrortap; hit; ttl=-")
        assert got.headers["Cache-Status"].endswith("; detail=stale")
    assert (await proxy.get(TAG)).data == image.manifest.data
    for each in image.blobs:
        got = await proxy.get(blob(each.digest))
        assert (got.data, got.headers["Cache-Status"]) == (each.data, "mirrortap; hit")
        assert (await proxy.head(blob(each.digest))).headers["Content-Length"] == str(each.size)
    got = await proxy.get(manifest(image.manifest.digest))
    assert (got.data, got.headers["Cache-Status"]) == (image.manifest.data, "mirrortap; hit")
    got = await proxy.get(blob(image.layers[0].digest), Range="bytes=10-19")
    assert (got.status, got.data) == (206, image.layers[0].data[10:20])
    assert (len(mirror.requests), len(origin.requests)) == asked


async def test_what_is_missing_is_named(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = await offline(setup, setup.proxy(None, mirror))
    digest = image.manifest.digest
    for target, what in (
        (TAG, f"manifest {REGISTRY}/{NAME}:1.0 is not in the cache"),
        (manifest(digest), f"manifest {REGISTRY}/{NAME}@{digest} is not in the cache"),
        (blob(digest), f"blob {REGISTRY}/{NAME}@{digest} is not in the cache"),
    ):
        refused(await proxy.get(target), what)
        assert (await proxy.head(target)).status == 504
    assert mirror.requests == []


async def test_an_image_that_was_pulled_in_part(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    proxy = await offline(setup, proxy)
    assert (await proxy.get(TAG)).data == image.manifest.data
    refused(await proxy.get(blob(image.config.digest)), f"blob {REGISTRY}/{NAME}@{image.config.digest}")


async def test_content_of_another_repository(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    """What nobody has shown a repository to hold is not served for it, cached or not."""
    mirror.add(image, NAME)
    mirror.add(image, OTHER)
    proxy = setup.proxy(None, mirror)
    await pull(proxy, image)
    proxy = await offline(setup, proxy)
    layer = image.layers[0].digest
    refused(await proxy.get(blob(layer, OTHER)), f"blob {REGISTRY}/{OTHER}@{layer}")
    refused(await proxy.get(manifest("1.0", OTHER)), f"manifest {REGISTRY}/{OTHER}:1.0")
    assert (await proxy.head(blob(layer, OTHER))).status == 504


async def test_a_client_that_does_not_accept_what_is_cached(
    setup: Setup, mirror: FakeRegistry, multi: MultiArch
) -> None:
    mirror.add(multi, NAME)
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG, Accept=NEW_CLIENT)
    proxy = await offline(setup, proxy)
    refused(await proxy.get(TAG, Accept=OLD_CLIENT), "only as a type that the client does not accept")
    got = await proxy.get(TAG, Accept=INDEX)
    assert (got.status, got.data) == (200, multi.index.data)


async def test_the_ping_is_answered_here(setup: Setup, origin: FakeRegistry) -> None:
    proxy = await offline(setup, setup.proxy(origin))
    got = await proxy.get("/v2/")
    assert (got.status, got.data, got.served.how) == (200, b"{}", "in place of")
    assert (await proxy.head("/v2/")).status == 200
    assert origin.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v2/{NAME}/tags/list"),
        ("GET", f"/v2/{NAME}/referrers/{sha256(b'x')}"),
        ("GET", f"/v2/{NAME}/blobs/sha1:0123"),
        ("GET", "/v2/_catalog"),
        ("POST", f"/v2/{NAME}/blobs/uploads/"),
        ("PUT", f"/v2/{NAME}/manifests/1.0"),
        ("DELETE", f"/v2/{NAME}/manifests/1.0"),
    ],
)
async def test_what_only_the_origin_can_answer(method: str, path: str, setup: Setup, origin: FakeRegistry) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"content"

    proxy = await offline(setup, setup.proxy(origin))
    got = await proxy.fetch(method, f"{path}?state=secret", body=body() if method in ("POST", "PUT") else None)
    refused(got, f"{method} {path} is")
    assert "secret" not in got.error["message"]
    assert origin.requests == []


async def test_one_registry_offline(setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image) -> None:
    """The other one goes on as before, and may even hold the same content."""
    for registry in origin, mirror:
        registry.add(image, NAME)
    online = f'[registry."online.test"]\nserver = "{mirror.url}"\nca = ["{setup.ca_file}"]\n'
    proxy = setup.proxy(origin, more=[online], mode="offline")
    refused(await proxy.get(TAG), f"manifest {REGISTRY}/{NAME}:1.0")
    await _pull_of("online.test", proxy, image)
    refused(await proxy.get(blob(image.config.digest)), f"blob {REGISTRY}/{NAME}@{image.config.digest}")
    assert origin.requests == []


async def _pull_of(registry: str, proxy: Proxy, image: Image) -> None:
    assert (await proxy.get(TAG, registry)).digest == image.manifest.digest
    assert (await proxy.get(blob(image.config.digest), registry)).digest == image.config.digest
    assert (await proxy.get(f"/v2/{NAME}/tags/list", registry)).status == 200


@pytest.mark.parametrize("registry", ["quay.io", "me.azurecr.io"])
async def test_public_registries_without_a_table(registry: str, setup: Setup, origin: FakeRegistry) -> None:
    proxy = await offline(setup, setup.proxy(origin))
    refused(await proxy.get(TAG, registry), f"manifest {registry}/{NAME}:1.0", registry)
    assert (await proxy.get("/v2/", registry)).status == 200
