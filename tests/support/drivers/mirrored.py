"""The same clients, told of a mirror in their own configuration and of nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from support.drivers.containers import Buildah, Containers, Podman, Skopeo
from support.drivers.ctr import Ctr
from support.drivers.docker import BuildKit, Docker
from support.drivers.pull_through import PullThrough
from support.table import Column

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from support.drivers.driver import Machine

REGISTRIES = ("docker.io", "other.example")
_DAEMON_JSON = "`registry-mirrors` in daemon.json"
_IN_ITS_NAME = {Column.OTHER: "As part of the image's name: `MIRROR/ghcr.io/...`."}


class _RegistriesConf(Containers):
    """One table for each registry, with the mirror's path for it."""

    told = "`[[registry.mirror]]` in registries.conf"

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        tables = (
            f"[[registry]]\nlocation = {json.dumps(host)}\n"
            f"[[registry.mirror]]\nlocation = {json.dumps(f'{machine.mirror}/{host}')}\ninsecure = true\n"
            for host in REGISTRIES
        )
        (self.home / "registries.conf").write_text("\n".join(tables))


class MirroredSkopeo(_RegistriesConf, Skopeo):
    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        # It does not read CONTAINERS_REGISTRIES_CONF as the others do.
        return super().call(f"--registries-conf={self.home / 'registries.conf'}", *args)


class MirroredBuildah(_RegistriesConf, Buildah): ...


class MirroredPodman(_RegistriesConf, Podman): ...


class MirroredDocker(Docker):
    """Its daemon's mirrors are for Docker Hub."""

    told = _DAEMON_JSON
    notes: ClassVar[Mapping[Column, str]] = _IN_ITS_NAME

    def called(self, name: str) -> str:
        return f"{self.machine.mirror}/{name}"


class MirroredBuildKit(BuildKit):
    told = _DAEMON_JSON
    notes: ClassVar[Mapping[Column, str]] = _IN_ITS_NAME

    def called(self, name: str) -> str:
        return f"{self.machine.mirror}/{name}"


class MirroredCtr(Ctr):
    """It says which registry it means with `?ns=`."""

    told = "`hosts.toml` in `--hosts-dir`"

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        hosts = self.home / "certs.d"
        for host in REGISTRIES:
            (hosts / host).mkdir(parents=True)
            (hosts / host / "hosts.toml").write_text(f"[host.{json.dumps(f'http://{machine.mirror}')}]\n")
        self._options = ["--hosts-dir", str(hosts)]


class MirroredPullThrough(PullThrough):
    told = "`proxy.remoteurl`"
    notes: ClassVar[Mapping[Column, str]] = _IN_ITS_NAME

    def called(self, name: str) -> str:
        return f"docker.io/{name}"

    def remote(self, host: str) -> str:
        return f"http://{self.machine.mirror}"
