"""A build farm's traffic, without its pauses: nothing grows that should not.

SOAK_ROUNDS=10 makes it an hour's worth.
"""

from __future__ import annotations

import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.bulk import Bulk
from support.config import toml
from support.faults import Status, Truncate
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from support.images import Image
    from support.proxy import Proxy
    from support.threads import LoopThread

    from e2e.conftest import Serve

MIB = 1 << 20
REQUESTS = 300  # a round
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "2"))  # before it is looked at, and then again as many
CLIENTS = 6
CACHE_SIZE = 100_000_000


@dataclass(frozen=True)
class State:
    """Of one process: open descriptors, resident memory in MiB; of its folders, the files that are not content."""

    descriptors: int
    memory: int
    files: set[str]


def state(proxy: Proxy) -> State:
    pid = proxy.program.pid
    status = Path(f"/proc/{pid}/status").read_text()
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert memory
    kept = {
        str(file.relative_to(proxy.data))
        for file in proxy.data.rglob("*")
        if file.is_file() and "blobs" not in file.parts
    }
    return State(len(os.listdir(f"/proc/{pid}/fd")), int(memory[1]) // 1024, kept)


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    size = 0
    for file in folder.rglob("*"):
        # What is being evicted may go in between.
        with suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size


class Farm:
    """Builders that ask for all kinds of things, in an order that is the same each time."""

    def __init__(self, proxy: Proxy, bulk: Bulk, image: Image) -> None:
        self._hub = proxy.client("registry-1.docker.io")
        self._quay = proxy.client("quay.io")
        self._bulk = bulk
        self._image = image

    def round(self, seed: int) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in pool.map(self._ask, (random.Random(seed * REQUESTS + number) for number in range(REQUESTS))):
                pass

    def _ask(self, chance: random.Random) -> None:
        # Some are popular, most are asked for once in a while.
        digest = self._bulk.digests[int(len(self._bulk.digests) * chance.random() ** 3)]
        path = f"/v2/library/app/blobs/{digest}"
        match chance.randrange(10):
            case 0 | 1 | 2 | 3:
                assert self._hub.digest_of(path) == digest
            case 4:
                self._leave_early(path, chance.randrange(self._bulk.size))
            case 5:
                begin = chance.randrange(self._bulk.size - 100)
                got = self._hub.get(path, {"Range": f"bytes={begin}-{begin + 99},-5"})
                assert got.status == 206
            case 6:
                assert self._hub.request("HEAD", path).status == 200
            case 7:
                assert self._hub.get(f"/v2/library/app/blobs/sha256:{chance.randbytes(32).hex()}").status == 404
            case 8:
                assert self._quay.get("/v2/team/app/manifests/1.0").body == self._image.manifest.data
            case 9:
                layer = self._image.layers[-1]
                assert self._quay.digest_of(f"/v2/team/app/blobs/{layer.digest}") == layer.digest

    def _leave_early(self, path: str, after: int) -> None:
        with closing(self._hub.connect()) as connection:
            connection.request("GET", path)
            connection.getresponse().read(after)


def test_nothing_grows(app: Image, loop_thread: LoopThread, start_proxy: Serve) -> None:
    bulk = loop_thread.enter(Bulk(count=150, size=2 * MIB))
    faulty, good = loop_thread.enter(FakeRegistry()), loop_thread.enter(FakeRegistry())
    for registry in faulty, good:
        registry.add(app, "team/app", "1.0")
    faulty.inject(Status(503), kind="manifest")
    faulty.inject(Truncate(100_000), kind="blob")
    endpoints = [bulk.endpoint, faulty.endpoint, good.endpoint]
    proxy = start_proxy(
        toml(
            {
                "docker.io": {"mirrors": [bulk.endpoint], "fallback": False},
                "quay.io": {"mirrors": [faulty.endpoint, good.endpoint], "fallback": False},
                **{endpoint: {"http": True} for endpoint in endpoints},
            },
            # A third of what is asked for fits.
            {"cache-size": f"{CACHE_SIZE}B"},
        )
    )
    farm = Farm(proxy, bulk, app)
    # Allocators take some rounds until they have what they need.
    trace = []
    for seed in range(2 * ROUNDS):
        farm.round(seed)
        trace.append(state(proxy))
    before = trace[ROUNDS - 1]
    # Connections end a moment after their clients have gone, and room is made a moment after the last download.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        after, cached = state(proxy), size_of(proxy.cache / "blobs")
        if after.descriptors <= before.descriptors and cached <= CACHE_SIZE:
            break
        time.sleep(0.2)
    print("MiB after each round:", *(each.memory for each in trace))
    print("descriptors:", *(each.descriptors for each in trace), after.descriptors)
    assert after.descriptors <= before.descriptors + CLIENTS
    assert after.memory <= before.memory * 1.25
    assert cached <= CACHE_SIZE
    strange = {name for name in after.files if not name.startswith("cache/partial/")} - before.files
    assert strange == set()
    assert size_of(proxy.cache / "partial") <= CACHE_SIZE
    assert proxy.log.matching(r"a fault in mirrortap|Traceback|never retrieved|Unclosed") == []
