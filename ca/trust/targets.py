"""All targets, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ca.trust import actions, buildkit, containerd, containers, docker, kubernetes, system

if TYPE_CHECKING:
    from collections.abc import Callable

    from ca.trust.plan import Plan, Wanted


@dataclass(frozen=True)
class Target:
    name: str
    summary: str
    plan: Callable[[Wanted], Plan]
    per_host: bool = False
    """Trust is given for single registries."""
    together: bool = False
    """All its registries are in one file."""
    per_user: bool = False
    """A user other than root can have it for himself."""
    elsewhere: bool = False
    """For other machines: nothing is put on this one."""


ALL = (
    Target("system", "the operating system's store: all programs, all hosts", system.plan),
    Target("docker", "dockerd, for registries other than Docker Hub", docker.plan, per_host=True),
    Target("containers", "podman, buildah and skopeo", containers.plan, per_host=True, per_user=True),
    Target("buildkit", "buildx builders and buildkitd", buildkit.plan, per_host=True, together=True, per_user=True),
    Target("containerd", "containerd, and ctr with --hosts-dir", containerd.plan, per_host=True),
    Target("kubernetes", "a DaemonSet for a cluster's nodes", kubernetes.plan, elsewhere=True),
    Target("github-actions", "steps for a workflow", actions.plan, elsewhere=True),
)
ALIASES = {"podman": "containers", "buildah": "containers", "skopeo": "containers", "buildx": "buildkit"}


def find(name: str) -> Target | None:
    name = ALIASES.get(name, name)
    return next((target for target in ALL if target.name == name), None)
