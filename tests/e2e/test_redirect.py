"""`redirect = "public"`: real clients, told of the proxy alone, have large blobs from the mirror door by plain http."""

from __future__ import annotations

import json
import shutil
import ssl
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.config import toml
from support.drivers import IF_THERE, Driver, Machine
from support.drivers.containers import Buildah, Skopeo
from support.drivers.ctr import Ctr
from support.drivers.docker import BuildKit, Docker
from support.processes import needs
from support.proxy import MIRROR, exchange, serve
from support.waiting import until

from addon.pulls.redirects import SMALLEST
from e2e.conftest import APP
from e2e.farm import slug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.config import Table
    from support.images import Image
    from support.programs import RealRegistry
    from support.proxy import Proxy, Response

# podman pulls by the library that buildah does.
CLIENTS: list[type[Driver]] = [
    *(Skopeo, Buildah, Docker, BuildKit, Ctr),
    *(driver for driver in IF_THERE if all(map(shutil.which, driver.programs))),
]


@dataclass(frozen=True)
class Farm:
    proxy: Proxy
    machine: Machine


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, mirror: RealRegistry, app: Image) -> Iterator[Farm]:
    """The image is cached, and there are two workers, of which one may be asked for what the other has signed."""
    folder = tmp_path_factory.mktemp("redirect")
    tables: dict[str, Table] = {
        "docker.io": {"mirrors": [mirror.endpoint], "fallback": False},
        mirror.endpoint: {"http": True},
    }
    config = toml(tables, {"redirect": "public", "tag-ttl": "1h"})
    with serve(folder, config, *MIRROR, host="0.0.0.0", workers=2) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        first = Sandbox(folder / "first", proxy=url, ca=proxy.ca)
        assert first.pull(APP).blobs().keys() == {blob.digest for blob in app.blobs}
        # A client need not wait until the disk has it too.
        for blob in app.blobs:
            until((proxy.cache / "blobs" / blob.digest.replace(":", "/")).exists)
        with Machine(folder / "machine", proxy=url, ca=proxy.ca) as machine:
            yield Farm(proxy, machine)


@pytest.mark.parametrize("driver", [pytest.param(each, id=slug(each), marks=needs(*each.programs)) for each in CLIENTS])
def test_it_follows(driver: type[Driver], farm: Farm, app: Image) -> None:
    since = len(farm.proxy.log)
    client = driver(farm.machine, "redirected")
    held = client.pull(APP)
    assert client.holds(app) <= held
    client.forget()
    large = [layer for layer in app.layers if layer.size >= SMALLEST]
    assert large
    for layer in app.layers:
        asked = f"GET docker.io/library/app blob {layer.digest[:19]}"
        farm.proxy.log.wait_for(rf"{asked} 200 hit", since=since)
        if layer in large:
            farm.proxy.log.wait_for(rf"{asked} 307 redirected 0 B", since=since)
        else:
            assert not farm.proxy.log.matching(rf"{asked} 307", since)


def test_nobody_is_sent_where_the_door_does_not_listen(farm: Farm, app: Image) -> None:
    layer = max(app.layers, key=lambda each: each.size)
    context = ssl.create_default_context(cafile=str(farm.proxy.ca))

    def ask(proxy: str) -> Response:
        with closing(HTTPSConnection(proxy, farm.proxy.port, context=context, timeout=30)) as connection:
            connection.set_tunnel("registry-1.docker.io", 443)
            return exchange(connection, "GET", f"/v2/library/app/blobs/{layer.digest}")

    sent_on = ask("127.0.0.1")
    assert (sent_on.status, sent_on.body) == (307, b"")
    assert sent_on.headers["Location"].startswith(f"http://{farm.proxy.mirror}/blob/{layer.digest}?")
    got = ask("127.0.0.2")
    assert (got.status, got.body) == (200, layer.data)
    farm.proxy.log.wait_for(
        r"127\.0\.0\.1 is not redirected: it comes to 127\.0\.0\.2, where the mirror door does not listen"
    )


def test_whose_http_proxy_is_this_one_too(farm: Farm, app: Image) -> None:
    """It asks the proxy for what is at the door."""
    layer = max(app.layers, key=lambda each: each.size)
    context = ssl.create_default_context(cafile=str(farm.proxy.ca))
    with closing(HTTPSConnection("127.0.0.1", farm.proxy.port, context=context, timeout=30)) as connection:
        connection.set_tunnel("registry-1.docker.io", 443)
        location = exchange(connection, "GET", f"/v2/library/app/blobs/{layer.digest}").headers["Location"]

    def ask(source: str, url: str) -> Response:
        with closing(
            HTTPConnection("127.0.0.1", farm.proxy.port, timeout=30, source_address=(source, 0))
        ) as connection:
            return exchange(connection, "GET", url)

    got = ask("127.0.0.1", location)
    assert (got.status, got.body) == (200, layer.data)
    stolen = ask("127.0.0.2", location)
    assert (stolen.status, json.loads(stolen.body)["errors"][0]["code"]) == (403, "DENIED")
    forged = ask("127.0.0.1", location[:-2] + ("01" if location.endswith("00") else "00"))
    assert (forged.status, json.loads(forged.body)["errors"][0]["code"]) == (403, "DENIED")
    # Nothing else there is reached through the proxy.
    assert ask("127.0.0.1", f"http://{farm.proxy.mirror}/v2/").status == 403
