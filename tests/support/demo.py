"""A proxy with made-up registries, names and past, and pictures of its status page. As root: it is all on an island."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import shutil
import ssl
import threading
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import sync_playwright

from addon.counts.tally import Moved
from addon.oci import MANIFEST_TYPES
from addon.status.history import History
from support.certificates import Authority
from support.config import toml
from support.faults import Headers, Slow, Status
from support.images import make_image
from support.island import Island
from support.processes import run
from support.proxy import ROOT, serve
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from support.config import Table
    from support.proxy import Proxy

IMAGES = ROOT / "docs" / "images"
HOSTS = {
    "proxy.corp": "10.20.0.1",
    "mirror.corp": "10.20.0.2",
    "harbor.corp": "10.20.0.3",
    "registry-1.docker.io": "10.20.0.4",
    "quay.io": "10.20.0.5",
    "ghcr.io": "10.20.0.6",
    **{f"build-{n}.corp": f"10.20.1.{n}" for n in (7, 8, 12, 15)},
}
BUILDERS = [
    ("10.20.1.7", "buildkit/v0.17"),
    ("10.20.1.8", "docker/27.3.1"),
    ("10.20.1.12", "containerd/v2.0.1"),
    ("10.20.1.15", "containers/5.32.2"),
]
PULLS = [
    ("docker.io", "library/python", "3.13-slim"),
    ("quay.io", "prometheus/prometheus", "v3.0.1"),
    ("ghcr.io", "astral-sh/uv", "latest"),
    ("docker.io", "library/alpine", "3.20"),
]
ONLY_ORIGIN = "library/alpine"
RUNNING = [("docker.io", "library/golang", "1.23"), ("docker.io", "library/postgres", "17")]
FOLDER = Path("/srv/mirrortap")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


class Drip(asyncio.Event):
    """Is set again and again: a little later for each piece."""

    async def wait(self) -> Literal[True]:
        await asyncio.sleep(0.03)
        return True


def main() -> None:
    with TemporaryDirectory(prefix="screenshots-") as name, Island(Path(name), HOSTS) as island:
        folder = Path(name)
        authority = Authority(folder / "authority")
        island.do(run, ["mount", "-t", "tmpfs", "tmpfs", "/srv"], env=dict(os.environ))
        registries = _registries(island, folder, authority)
        island.do(_past)
        proxy = island.start(
            serve(FOLDER, _config(authority), "--mirror-listen", "0.0.0.0:5000", host="0.0.0.0", port=3128)
        )
        for _ in range(2):
            for number, pull in enumerate(PULLS):
                island.do(_pull, proxy, *BUILDERS[number], *pull)
        registries["harbor.corp"].inject(Status(503, {"Retry-After": "600"}))
        island.do(_pull, proxy, *BUILDERS[2], "docker.io", "library/node", "22")
        for number, pull in enumerate(RUNNING):
            # Daemons: nobody waits for their end.
            work = (_pull, proxy, *BUILDERS[number], *pull)
            threading.Thread(target=lambda work=work: island.do(*work), daemon=True).start()
        time.sleep(3)
        island.do(_take)


def _config(authority: Authority) -> str:
    trusted: Table = {"ca": [authority.file]}
    plain: Table = {"http": True}
    tables: dict[str, Table] = {
        "docker.io": {"mirrors": ["harbor.corp", "mirror.corp"], **trusted},
        "quay.io": trusted,
        "ghcr.io": trusted,
        "harbor.corp": plain,
        "mirror.corp": plain,
    }
    return toml(tables, {"cache-size": "400MB"})


def _registries(island: Island, folder: Path, authority: Authority) -> dict[str, FakeRegistry]:
    made = {}
    for name in "mirror.corp", "harbor.corp":
        made[name] = island.enter(FakeRegistry(at=(HOSTS[name], 80)))
    for name in "registry-1.docker.io", "quay.io", "ghcr.io":
        made[name] = island.enter(FakeRegistry(tls=authority, names=(name,), at=(HOSTS[name], 443)))
    hub = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
    made["registry-1.docker.io"].inject(Headers(hub), kind="manifest")
    images = [*PULLS, *RUNNING, ("docker.io", "library/node", "22")]
    for number, (registry, repository, tag) in enumerate(images):
        large = (registry, repository, tag) in RUNNING
        sizes = (60_000_000 - 25_000_000 * (number % 2),) if large else (3_000_000, 9_000_000, 400_000)
        image = make_image(folder / "layouts", tag, seed=number, layer_sizes=sizes)
        mirrors = [] if repository == ONLY_ORIGIN else ["mirror.corp", "harbor.corp"]
        for name in [*mirrors, "registry-1.docker.io"] if registry == "docker.io" else [registry]:
            made[name].add(image, repository, tag)
            if large:
                made[name].inject(Slow(Drip(), 14_000_000), kind="blob", path=f"*{image.layers[0].digest}")
    return made


def _past() -> None:
    """A month of it, more by day than by night, and little at weekends."""
    chance, now = random.Random(7), time.time()
    (FOLDER / "data").mkdir(parents=True)
    clock = [0.0]
    history = History(FOLDER / "data" / "statistics.sqlite", lambda: clock[0])
    moments = [now - hour * 3600 for hour in range(30 * 24, 1, -1)] + [now - minute * 60 for minute in range(59, 0, -1)]
    for at in moments:
        when = time.gmtime(at)
        awake = 1.0 if 7 <= when.tm_hour <= 18 else 0.4
        busy = awake * (0.6 if when.tm_wday > 4 else 1.0) * chance.uniform(0.6, 1.3)
        scale = 1.0 if at < now - 3600 else 1 / 60
        cached = int(38e9 * busy * scale)
        fetched = int(cached * chance.uniform(0.05, 0.3))
        hits = int(cached / 18e6) + 1
        clock[0] = at
        history.add(Moved(cached, fetched, hits, int(hits * chance.uniform(0.04, 0.2))))
    history.close()


def _pull(proxy: Proxy, address: str, agent: str, registry: str, repository: str, tag: str) -> None:
    """As the named builder would, from its address."""
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    context = ssl.create_default_context(cafile=str(proxy.ca))
    connection = http.client.HTTPSConnection(
        "proxy.corp", proxy.port, context=context, timeout=60, source_address=(address, 0)
    )
    connection.set_tunnel(host, 443)
    headers = {"User-Agent": agent, "Accept": ", ".join(MANIFEST_TYPES)}
    with closing(connection):
        connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers=headers)
        manifest = json.loads(connection.getresponse().read())
        for each in manifest["config"], *manifest["layers"]:
            connection.request("GET", f"/v2/{repository}/blobs/{each['digest']}", headers=headers)
            connection.getresponse().read()


def _take() -> None:
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto("http://proxy.corp:3128/")
        page.wait_for_selector("#connection.live")
        page.wait_for_selector("progress")
        for scheme in "light", "dark":
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=IMAGES / f"status-{scheme}.png")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 1180})
        page.screenshot(path=IMAGES / "status-phone.png")
        browser.close()
