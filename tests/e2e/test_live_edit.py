"""The configuration is edited again and again while clients pull: none of them notices, and each edit counts.

EDITS=200 makes it a day's worth of somebody who cannot decide.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from support.config import toml
from support.faults import Slow
from support.images import sha256
from support.proxy import exchange, serve
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPSConnection
    from pathlib import Path

    from support.proxy import Proxy
    from support.threads import LoopThread

EDITS = int(os.environ.get("EDITS", "5"))
# Of these, so many from the first on are found by the proxy itself; for the others it is told, which is faster.
UNTOLD = 1
WORKERS = (1, 2)
CLIENTS = 4
HOST = "registry.example"
APP = "library/app"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MIB = 1 << 20
BLOBS = [random.Random(number).randbytes(MIB) for number in range(40)]
LARGE = random.Random(99).randbytes(24 * MIB)
IN_USE = r"worker {} the configuration has changed, and is in use: {}"
REFUSED = r"worker {} the configuration is REFUSED, and the one before stays in use: "


class Registry:
    """One of two that have the same blobs, and whose tags tell which of them was asked."""

    def __init__(self, registry: FakeRegistry, name: str) -> None:
        self.fake = registry
        self._name = name
        for blob in (*BLOBS, LARGE):
            registry.content.put_blob(APP, blob)
        self.tag("latest")

    def tag(self, tag: str) -> None:
        manifest = f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","annotations":{{"of":"{self._name} {tag}"}}}}'
        self.fake.content.put_manifest(APP, tag, manifest.encode(), MANIFEST)

    def served(self, tag: str) -> bool:
        """Whether it was asked for that."""
        return bool(self.fake.seen(path=f"/{APP}/manifests/{tag}"))

    def manifest(self, tag: str) -> bytes:
        found = self.fake.content.manifest(APP, tag)
        assert found
        return found[2]

    def manifests(self) -> set[str]:
        return set(self.fake.content.repositories[APP].manifests)


def config(mirror: Registry, *hosts: str) -> str:
    # The cache is too small for all blobs, so that downloads go on to the end.
    settings = {"stall-timeout": "1h", "min-rate": "0B", "cache-size": "30MB", "min-free": "0%"}
    table = {"mirrors": [mirror.fake.endpoint], "fallback": False}
    return toml(dict.fromkeys((HOST, *hosts), table), settings)


class Clients:
    """They pull until the block ends: each on a connection that is kept, and on ever new ones."""

    def __init__(self, proxy: Proxy, registries: tuple[Registry, Registry]) -> None:
        self._client = proxy.client(HOST)
        self._registries = registries
        self._stopping = threading.Event()
        self._count = threading.Lock()
        self.pulls = 0

    @contextmanager
    def pulling(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(self._pull, random.Random(number)) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._stopping.set()
            for each in running:
                each.result()

    def _pull(self, chance: random.Random) -> None:
        with closing(self._client.connect()) as kept:
            while not self._stopping.is_set():
                for connection in (kept, self._client.connect()):
                    self._pull_on(connection, chance)
                    if connection is not kept:
                        connection.close()

    def _pull_on(self, connection: HTTPSConnection, chance: random.Random) -> None:
        known = self._registries[0].manifests() | self._registries[1].manifests()
        manifest = exchange(connection, "GET", f"/v2/{APP}/manifests/latest", {"Accept": MANIFEST})
        assert (manifest.status, sha256(manifest.body) in known) == (200, True), manifest
        blob = chance.choice(BLOBS)
        answer = exchange(connection, "GET", f"/v2/{APP}/blobs/{sha256(blob)}")
        assert (answer.status, answer.body == blob) == (200, True), (answer.status, len(answer.body), answer.headers)
        with self._count:
            self.pulls += 1


class Editor:
    """Writes the configuration, and waits until both workers have said what they make of it."""

    def __init__(self, proxy: Proxy, path: Path) -> None:
        self._proxy = proxy
        self._path = path
        self.edits = 0

    def write(self, text: str, told: str) -> None:
        seen = len(self._proxy.log)
        aside = self._path.with_suffix(".new")
        # In one go, as editors do, and in place, as shells do.
        (aside if self.edits % 2 else self._path).write_text(text)
        if aside.exists():
            aside.replace(self._path)
        if self.edits >= UNTOLD:
            self._proxy.program.signal(signal.SIGHUP)
        self.edits += 1
        for number in WORKERS:
            self._proxy.log.wait_for(told.format(number, ""), since=seen, timeout=30)


def test_the_configuration_is_edited_under_load(tmp_path: Path, loop_thread: LoopThread) -> None:
    registries = tuple(Registry(loop_thread.enter(FakeRegistry()), name) for name in ("one", "other"))
    one, other = registries
    path = tmp_path / "proxy" / "mirrortap.toml"
    gate = asyncio.Event()
    one.fake.inject(Slow(gate, after=MIB), path=f"*{sha256(LARGE)}", method="GET")
    with serve(tmp_path / "proxy", config(one), workers=len(WORKERS)) as proxy:
        editor, clients = Editor(proxy, path), Clients(proxy, (one, other))
        with closing(proxy.client(HOST).connect()) as patient:
            patient.timeout = 3600.0
            patient.request("GET", f"/v2/{APP}/blobs/{sha256(LARGE)}")
            answer = patient.getresponse()
            begun = answer.read(MIB // 2)
            with clients.pulling():
                refused = edit(editor, proxy, (one, other))

            async def go_on() -> None:
                gate.set()

            loop_thread.run(go_on())
            assert sha256(begun + answer.read()) == sha256(LARGE)
        # It began with the first configuration and its mirror, and ended after all others.
        assert other.fake.traffic.sent[sha256(LARGE)] == 0
        assert clients.pulls >= 2 * editor.edits
        assert all(any(registry.fake.traffic.sent[sha256(blob)] for blob in BLOBS) for registry in registries)
        for number in WORKERS:
            # Once more where it has seen one by itself before it was told to look.
            assert refused <= len(proxy.log.matching(REFUSED.format(number))) <= 2 * refused
        # No request of a client's failed that was not about a host that is none of ours.
        assert not proxy.log.matching(r" (blob|manifest) \S+ [45]\d\d ")
        assert not proxy.log.matching("a fault in mirrortap")


def edit(editor: Editor, proxy: Proxy, registries: tuple[Registry, Registry]) -> int:
    """Returns how many broken ones there were."""
    refused = 0
    for number in range(EDITS):
        mirror, unused = registries[(number + 1) % 2], registries[number % 2]
        added = [f"host-{number}.example"] if number % 4 == 1 else []
        editor.write(config(mirror, *added), IN_USE)
        tag = f"edit-{number}"
        for registry in registries:
            registry.tag(tag)
        check_in_force(proxy, HOST, tag, mirror, unused)
        for host in added:
            check_in_force(proxy, host, tag, mirror, unused)
        if number % 4 == 2:
            editor.write(f"{config(unused)}\n[registry.'broken.example']\nmirors = []\n", REFUSED)
            refused += 1
            for registry in registries:
                registry.tag(f"{tag}-still")
            check_in_force(proxy, HOST, f"{tag}-still", mirror, unused)
    return refused


def check_in_force(proxy: Proxy, host: str, tag: str, mirror: Registry, unused: Registry) -> None:
    """Whichever worker is asked, the tag is the new mirror's."""
    path = f"/v2/{APP}/manifests/{tag}"
    answers = {proxy.client(host).get(path, {"Accept": MANIFEST}).body for _ in range(4)}
    assert answers == {mirror.manifest(tag)}
    assert (mirror.served(tag), unused.served(tag)) == (True, False)
