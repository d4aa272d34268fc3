"""Clients that give up by themselves at one 503 notice nothing of it (a cut: test_client_table.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.faults import Status
from support.processes import needs
from support.programs import containerd
from support.registry import FakeRegistry

from e2e.conftest import APP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.clients import Sandbox
    from support.images import Image
    from support.programs import RealRegistry
    from support.threads import LoopThread

    from e2e.conftest import Builder, Serve

    Client = Callable[[Sandbox, Path], str]

pytestmark = needs("docker-registry")


def skopeo(machine: Sandbox, folder: Path) -> str:
    return machine.pull(APP).digest


def podman(machine: Sandbox, folder: Path) -> str:
    return machine.podman_pull(APP)


def ctr(machine: Sandbox, folder: Path) -> str:
    with containerd(folder) as daemon:
        daemon.ctr("images", "pull", "--snapshotter", "native", APP, env=machine.env)
        # NAME TYPE sha256:...
        return daemon.ctr("images", "ls", f"name=={APP}", env=machine.env).stdout.splitlines()[1].split()[2]


CLIENTS = [
    pytest.param(skopeo, id="skopeo", marks=needs("skopeo")),
    pytest.param(podman, id="podman", marks=needs("podman", "runc")),
    pytest.param(ctr, id="ctr", marks=needs("ctr", "containerd")),
]


def mirrors(*endpoints: str) -> str:
    tables = {endpoint: {"http": True} for endpoint in endpoints}
    return toml({"docker.io": {"mirrors": list(endpoints), "fallback": False}, **tables})


@pytest.mark.parametrize("client", CLIENTS)
def test_503(
    client: Client,
    app: Image,
    mirror: RealRegistry,
    loop_thread: LoopThread,
    start_proxy: Serve,
    builder: Builder,
    tmp_path: Path,
) -> None:
    broken = loop_thread.enter(FakeRegistry())
    broken.add(app, "library/app")
    injection = broken.inject(Status(503), kind="blob")
    proxy = start_proxy(mirrors(broken.endpoint, mirror.endpoint))
    assert client(builder(proxy), tmp_path / "client") == app.manifest.digest
    assert injection.hits
