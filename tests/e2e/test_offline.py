"""Offline: a warm image is pulled as before, a cold one is refused by name, and the proxy connects to nothing."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.processes import Program, needs
from support.proxy import ROOT, Proxy, proxy_env

from e2e.conftest import APP, fill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.clients import Sandbox
    from support.images import Image
    from support.programs import RealRegistry

    from e2e.conftest import Builder, Registries, Serve

pytestmark = needs("skopeo", "docker-registry", "strace")

SERVE = (sys.executable, "-m", "addon.cli", "serve", "--offline", "--listen", "127.0.0.1:0")
MITMDUMP = (
    *(str(Path(sys.executable).parent / "mitmdump"), "-s", str(ROOT / "addon" / "mirrortap.py")),
    *("--set", "mirrortap_offline=true", "--listen-host", "127.0.0.1", "-p", "0"),
)


@contextmanager
def traced(argv: tuple[str, ...], warm: Proxy, trace: Path) -> Iterator[Proxy]:
    """A proxy on the data of `warm`, whose every way to reach another host is written to `trace`."""
    config, data = warm.data.parent / "mirrortap.toml", warm.data
    if "serve" in argv:
        options = ["--config", str(config), "--data", str(data)]
    else:
        options = ["--set", f"mirrortap_config={config}", "--set", f"mirrortap_data={data}"]
    # -D: the proxy, not strace, is what signals go to.
    strace = ["strace", "-D", "-f", "-qq", "-s", "0", "-o", str(trace)]
    strace += ["-e", "trace=connect,sendto,sendmsg,sendmmsg,exit_group"]
    with Program([*strace, *argv, *options], env=proxy_env(data.parent), cwd=ROOT) as program:
        found = program.out.wait_for(r"listening (?:on|at) (?:http://)?([^\s:]+):(\d+)", timeout=60)
        yield Proxy(program, found[1], int(found[2]), data)
        assert program.stop() == 0, program.output()


def reached(trace: Path) -> list[str]:
    """The calls that named an address of the internet's families, once the trace is complete."""
    deadline = time.monotonic() + 20
    while not re.search(r"exit_group\(", text := trace.read_text()):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    assert "sendto(" in text, "nothing was traced"
    return [line for line in text.splitlines() if "AF_INET" in line]


@pytest.mark.parametrize("argv", [SERVE, MITMDUMP], ids=["serve", "mitmdump"])
def test_a_warm_image_offline(
    argv: tuple[str, ...],
    app: Image,
    registries: Registries,
    start_proxy: Serve,
    builder: Builder,
    direct: Sandbox,
    tmp_path: Path,
) -> None:
    """The registry stays up: it is the proxy that must not ask it."""
    registry = registries("mirror")
    for name in "library/app:1.0", "library/cold:1.0":
        fill(direct, registry, app, name)
    online = start_proxy(from_mirror(registry))
    builder(online).pull(APP)
    online.program.stop()

    trace = tmp_path / "trace"
    with traced(argv, online, trace) as proxy:
        machine = builder(proxy, "offline")
        pulled = machine.pull(APP)
        assert pulled.digest == app.manifest.digest
        assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}
        for cold in "docker.io/library/cold:1.0", "not-intercepted.example/app:1.0":
            told, _ = machine.pull_refused(cold)
            assert "mirrortap is offline" in told
        answer = proxy.client("registry-1.docker.io").get("/v2/library/cold/manifests/1.0")
        assert answer.status == 504
        message = json.loads(answer.body)["errors"][0]["message"]
        assert "manifest docker.io/library/cold:1.0 is not in the cache" in message
        assert "mirrortap is offline for docker.io" in message
    assert reached(trace) == []


def from_mirror(registry: RealRegistry) -> str:
    # With an origin that is nowhere, so that asking it would show.
    docker_io = {"mirrors": [registry.endpoint], "server": "https://192.0.2.1"}
    return toml({"docker.io": docker_io, registry.endpoint: {"http": True}})
