"""Downloads that break off under real clients: mirrors that die, and a proxy that is killed.

LARGE_MIB=256 KILLS=20 makes the blob larger, and the kills more.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.config import toml
from support.images import make_image
from support.processes import needs
from support.programs import docker_registry
from support.proxy import serve
from support.waiting import until
from support.wire import Wire

from e2e.conftest import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.config import Table
    from support.images import Image
    from support.programs import RealRegistry
    from support.proxy import Proxy
    from support.threads import LoopThread

    from e2e.conftest import Serve

pytestmark = needs("skopeo", "docker-registry")

MIB = 1 << 20
LARGE = int(os.environ.get("LARGE_MIB", "32")) * MIB
KILLS = int(os.environ.get("KILLS", "6"))
HEAD = 2000  # bytes of an answer that are not the body, and the last byte of what is there, asked for again


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("large"), layer_sizes=(LARGE,), seed=3)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("many"), layer_sizes=(8 * MIB,) * KILLS, seed=4)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, large: Image, many: Image) -> Iterator[RealRegistry]:
    folder = tmp_path_factory.mktemp("large-registry")
    with docker_registry(folder / "registry") as registry:
        for tag, image in ("1.0", large), ("many", many):
            fill(Sandbox(folder / "home"), registry, image, f"library/app:{tag}")
        yield registry


def mirrors(*endpoints: str) -> str:
    tables: dict[str, Table] = {"docker.io": {"mirrors": list(endpoints), "fallback": False}}
    return toml({**tables, **{endpoint: {"http": True} for endpoint in endpoints}})


def through(proxy: Proxy, digest: str) -> str | None:
    """The sha256 of what a client gets that asks for a blob."""
    return proxy.client("registry-1.docker.io").digest_of(f"/v2/library/app/blobs/{digest}")


def reaches(part: Path, size: int) -> bool:
    """A download that is complete has no partial file any more, whenever one looks."""
    try:
        return part.stat().st_size >= size
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("shares", [(0.10,), (0.50,), (0.99,), (0.10, 0.50, 0.99)], ids=str)
def test_mirrors_that_die_in_the_middle(
    shares: tuple[float, ...], large: Image, registry: RealRegistry, loop_thread: LoopThread, start_proxy: Serve
) -> None:
    """The next one is asked for the rest alone; the client notices nothing."""
    (layer,) = large.layers
    wires = []
    begun = 0.0
    for share in shares:
        wires.append(loop_thread.enter(Wire(registry.endpoint, dies_after=int((share - begun) * layer.size))))
        begun = share
    last = loop_thread.enter(Wire(registry.endpoint))
    wires.append(last)
    proxy = start_proxy(mirrors(*(wire.endpoint for wire in wires)))
    assert through(proxy, layer.digest) == layer.digest
    assert [wire.dead for wire in wires] == [True] * len(shares) + [False]
    carried = sum(wire.carried for wire in wires)
    print(f"{carried / layer.size:.4f}x", [wire.carried / layer.size for wire in wires])
    assert layer.size <= carried <= 1.02 * layer.size
    # In order: each one had the next slice, and the last the end.
    assert all(wire.connections == 1 for wire in wires)


def test_a_proxy_that_is_killed_goes_on_where_it_was(
    many: Image, registry: RealRegistry, loop_thread: LoopThread, tmp_path: Path
) -> None:
    """At random points of a download; what comes after that is always right, and only what was missing is fetched."""
    wire = loop_thread.enter(Wire(registry.endpoint))
    cache = tmp_path / "proxy" / "data" / "cache"
    chance = random.Random(5)
    resumed = 0

    def goes_on(proxy: Proxy, digest: str, missing: int) -> None:
        before = wire.carried
        assert through(proxy, digest) == digest
        assert missing <= wire.carried - before <= missing + HEAD
        # A client need not wait until the disk has it too.
        until(lambda: not list((cache / "partial").iterdir()))

    cut_off, missing = "", 0
    for layer in many.layers:
        part = cache / "partial" / layer.digest.replace(":", "-")
        blob = cache / "blobs" / layer.digest.replace(":", "/")
        point = chance.randrange(layer.size)
        with serve(tmp_path / "proxy", mirrors(wire.endpoint)) as proxy:
            if cut_off:
                goes_on(proxy, cut_off, missing)
            with proxy.client("registry-1.docker.io").asking(f"/v2/library/app/blobs/{layer.digest}"):
                while not blob.exists() and not reaches(part, point):
                    pass
                proxy.kill()
        left = part.stat().st_size if part.exists() else layer.size
        assert blob.exists() or point <= left
        resumed += 0 < left < layer.size
        cut_off, missing = layer.digest, layer.size - left
    with serve(tmp_path / "proxy", mirrors(wire.endpoint)) as proxy:
        goes_on(proxy, cut_off, missing)
    assert resumed > KILLS // 2
