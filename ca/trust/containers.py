"""podman, buildah and skopeo: certs.d of containers-certs.d(5)."""

from __future__ import annotations

from pathlib import PurePosixPath

from ca.trust.plan import Hides, Plan, Put, Wanted

_MACHINE = PurePosixPath("/etc/containers/certs.d")
_DOCKER = PurePosixPath("/etc/docker/certs.d")


def plan(wanted: Wanted) -> Plan:
    # The first of these that has a folder for the host is the only one that is read (containers/image, dockerCertDir).
    home = [wanted.home / ".config/containers/certs.d"] if wanted.home else []
    order = [*home, _MACHINE, _DOCKER]
    own, others = order[0], order[1:]
    puts = []
    for host in wanted.hosts:
        folder = own / host
        remedy = f"copy what is there into {folder}, and run this again"
        hides = Hides(folder, tuple(other / host for other in others), remedy)
        puts.append(Put(folder / "mirrortap.crt", wanted.pem, host, hides))
    return Plan(
        puts=tuple(puts),
        next=(
            "podman, buildah and skopeo now trust the CA for these registries, from their next command on.\n"
            f"They also need the proxy: export HTTPS_PROXY={wanted.proxy}"
        ),
        undone="If you set HTTPS_PROXY for them: unset HTTPS_PROXY",
    )
