"""Every kind of client, as the table of clients drives it.

`ALWAYS` from Debian and PyPI, `IF_THERE` from PATH; `MIRRORED`: told of the mirror door instead of the proxy.
"""

from __future__ import annotations

from support.drivers.containers import Buildah, Podman, Skopeo
from support.drivers.ctr import Ctr
from support.drivers.docker import BuildKit, Docker
from support.drivers.driver import Driver, Login, Machine
from support.drivers.mirrored import (
    MirroredBuildah,
    MirroredBuildKit,
    MirroredCtr,
    MirroredDocker,
    MirroredPodman,
    MirroredPullThrough,
    MirroredSkopeo,
)
from support.drivers.oras import Oras
from support.drivers.others import Crane, Regctl
from support.drivers.pull_through import PullThrough

ALWAYS: tuple[type[Driver], ...] = (Skopeo, Buildah, Podman, Docker, BuildKit, Ctr, PullThrough, Oras)
MIRRORED: tuple[type[Driver], ...] = (
    MirroredSkopeo,
    MirroredBuildah,
    MirroredPodman,
    MirroredDocker,
    MirroredBuildKit,
    MirroredCtr,
    MirroredPullThrough,
)
IF_THERE: tuple[type[Driver], ...] = (Crane, Regctl)

__all__ = ["ALWAYS", "IF_THERE", "MIRRORED", "Driver", "Login", "Machine"]
