"""The lines by which a builder comes to use the proxy (docs/builders), for one proxy, as it is reached. Pure."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ca.trust import actions, buildkit
from ca.trust.plan import Wanted

if TYPE_CHECKING:
    from addon.counts.facts import Listening

Door = Literal["proxy", "mirror"]

# Where nobody else can put a file first.
_CA = "~/mirrortap.crt"
_DAEMON_CA = "/etc/ssl/mirrortap.crt"
# A DNS name or an address, and nothing that means something to a shell.
_HOST = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
SCHEMES = {"regular": "http", "transparent": "http", "socks5": "socks5"}
"""How clients name the proxy's port."""


@dataclass(frozen=True)
class Step:
    """What is to be done where, and the lines to copy."""

    what: str
    lines: str


@dataclass(frozen=True)
class Builder:
    """`id` is good for an id. `note`: what else there is to know."""

    id: str
    name: str
    steps: tuple[Step, ...]
    note: str = ""


@dataclass(frozen=True)
class Reach:
    """How builders reach the proxy. `place`: host:port; `mirror`: the URL of the mirror door, "" without one.

    `mode` as of `serve`; `login`: whether the proxy wants one. `alone`: it can be reached from its own machine only.
    """

    place: str
    mode: str = "regular"
    mirror: str = ""
    login: bool = False
    alone: bool = False

    @property
    def ca(self) -> str:
        return f"http://{self.place}/ca.crt"

    @property
    def proxy(self) -> str:
        """For HTTPS_PROXY; "" where clients know of no proxy."""
        if self.mode == "transparent":
            return ""
        return f"{SCHEMES[self.mode]}://{'USER:PASSWORD@' if self.login else ''}{self.place}"


def reach(listening: Listening, host: str | None, door: Door, *, login: bool = False) -> Reach:
    """`host`: the Host header of a visitor, who has come to a door by it. It counts when it can be a host's name."""
    address, _, port = listening.proxy.rpartition(":")
    mirror_scheme, _, mirror_place = listening.mirror.partition("://")
    mirror_address, _, mirror_port = mirror_place.rpartition(":")
    visited = named(host)
    if visited and door == "proxy":
        # Where a port is forwarded, it is another one than we listen on.
        port = visited[1] or "80"
    elif visited:
        mirror_port = visited[1] or mirror_port
    here = visited[0] if visited else os.uname().nodename
    mirror_host = here if (visited and door == "mirror") or _is_any(mirror_address) else mirror_address
    return Reach(
        place=f"{here if visited or _is_any(address) else address}:{port or 'PORT'}",
        mode=listening.mode,
        mirror=f"{mirror_scheme}://{mirror_host}:{mirror_port}" if listening.mirror else "",
        login=login,
        alone=_is_loopback(address),
    )


def named(host: str | None) -> tuple[str, str] | None:
    """The name or address in a Host header, and the port or "". None if it is nothing to be written into a shell."""
    if not host or not (found := _HOST.fullmatch(host)):
        return None
    name, port = found["name"], found["port"] or ""
    if name.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(name[1:-1])}]", port
        except ValueError:
            return None
    return name.lower(), port


def builders(at: Reach) -> tuple[Builder, ...]:
    return (
        _buildkit(at),
        _dockerd(at),
        _containerd(at),
        _podman(at),
        _ci(at),
        *((Builder("mirror", "No proxy", mirror(at.mirror), _MIRROR_NOTE),) if at.mirror else ()),
    )


_MIRROR_NOTE = (
    "For what cannot use a proxy or trust a CA: mirrortap as an ordinary registry mirror (docs/mirror-door.md)."
)


def shell(at: Reach) -> list[str]:
    """For a shell whose commands pull themselves."""
    proxy = [f"export HTTPS_PROXY={at.proxy}"] if at.proxy else []
    return [f"curl -fsS -o {_CA} {at.ca}", *proxy, f"export SSL_CERT_FILE={_CA}"]


def mirror(url: str) -> tuple[Step, ...]:
    """What clients that have no proxy are told."""
    place = url.partition("://")[2]
    insecure = "" if url.startswith("https:") else "\ninsecure = true"
    return (
        Step("dockerd, in /etc/docker/daemon.json", f'{{"registry-mirrors": ["{url}"]}}'),
        Step("containerd, in /etc/containerd/certs.d/_default/hosts.toml", f'[host."{url}"]'),
        Step(
            "podman, in /etc/containers/registries.conf.d/mirrortap.conf, for docker.io",
            f'[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "{place}/docker.io"{insecure}',
        ),
    )


def _buildkit(at: Reach) -> Builder:
    # One registry's table is enough to have buildx copy the CA; SSL_CERT_FILE then makes it count for all.
    table = buildkit.registries(("docker.io",), "%s").replace("\n", "\\n")
    options = [
        "docker buildx create --name mirrortap --use --bootstrap --driver docker-container",
        "--buildkitd-config ~/buildkitd.toml",
        *([f"--driver-opt env.HTTPS_PROXY={at.proxy}"] if at.proxy else []),
        f"--driver-opt env.SSL_CERT_FILE={buildkit.in_builder(('docker.io',), 'mirrortap.crt')}",
    ]
    return Builder(
        "buildkit",
        "BuildKit, buildx",
        (
            Step(
                "Make a builder of buildx, whose container has the CA and the proxy",
                "\n".join(
                    [
                        f"curl -fsS -o {_CA} {at.ca}",
                        f"printf '{table}' {_CA} > ~/buildkitd.toml",
                        " \\\n    ".join(options),
                    ]
                ),
            ),
            Step("In the shell that builds: the docker command fetches tokens itself", "\n".join(shell(at)[1:])),
        ),
        "The builder is a container: 127.0.0.1 would be itself. docs/builders/buildkit.md",
    )


def _dockerd(at: Reach) -> Builder:
    return Builder(
        "dockerd",
        "dockerd",
        (
            Step("As root, under systemd; Docker is restarted", _drop_in(at, "docker")),
            Step("With BuildKit (docker build), in the shell that builds too", _daemon_shell(at)),
            Step(
                "See that it works", "docker info --format '{{.HTTPSProxy}}'\ndocker pull docker.io/library/alpine:3.20"
            ),
        ),
        "docs/builders/docker.md",
    )


def _containerd(at: Reach) -> Builder:
    return Builder(
        "containerd",
        "containerd",
        (
            Step("Kubelets and ctr 2.x, as root on the node; running containers stay", _drop_in(at, "containerd")),
            Step(
                "ctr 1.6 and nerdctl pull themselves",
                "\n".join([*shell(at), "ctr images pull docker.io/library/alpine:3.20"]),
            ),
        ),
        "Put what lies inside a cluster into NO_PROXY (.svc,.cluster.local). docs/builders/containerd.md",
    )


def _podman(at: Reach) -> Builder:
    return Builder(
        "podman",
        "podman",
        (
            Step(
                "podman, buildah and skopeo pull themselves",
                "\n".join([*shell(at), "podman pull docker.io/library/alpine:3.20"]),
            ),
        ),
        "docs/builders/containers.md",
    )


def _ci(at: Reach) -> Builder:
    steps = actions.plan(Wanted(None, proxy=at.proxy)).document if at.proxy else ""
    gitlab = "\n".join(["before_script:", *(f"  - {line}" for line in shell(at))])
    github = (
        Step(
            "GitHub Actions: the CA as a variable of the repository, once",
            f"curl -fsS {at.ca} | gh variable set {actions.VARIABLE}",
        ),
        Step("Then, first among the steps of a job", steps.rstrip("\n")),
    )
    return Builder(
        "ci",
        "CI",
        (*(github if steps else ()), Step("GitLab CI and others whose jobs are a shell", gitlab)),
        "The runner must be able to reach the proxy. docs/builders",
    )


def _drop_in(at: Reach, unit: str) -> str:
    proxy = f"HTTPS_PROXY={at.proxy} " if at.proxy else ""
    folder = f"/etc/systemd/system/{unit}.service.d"
    return "\n".join(
        [
            f"mkdir -p {folder}",
            f"curl -fsS -o {_DAEMON_CA} {at.ca}",
            f"printf '[Service]\\nEnvironment=%s\\n' '{proxy}SSL_CERT_FILE={_DAEMON_CA}' \\",
            f"    > {folder}/mirrortap.conf",
            f"systemctl daemon-reload && systemctl restart {unit}",
        ]
    )


def _daemon_shell(at: Reach) -> str:
    proxy = f"HTTPS_PROXY={at.proxy} " if at.proxy else ""
    return f"export {proxy}SSL_CERT_FILE={_DAEMON_CA}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_any(host: str) -> bool:
    """Whether it is all interfaces."""
    return host.strip("[]") in ("", "0.0.0.0", "::")
