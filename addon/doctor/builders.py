"""Each kind of builder on this machine: the environment that its pulling process has, and the CAs that it reads."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from addon.config import wellknown
from addon.doctor import environment, logins, remedies, settings, trusted
from addon.doctor.findings import failed, ok, warning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from addon.doctor.findings import Finding
    from addon.doctor.processes import Process
    from addon.doctor.remedies import Kind

STEP = "builder"
_PROGRAMS = {"dockerd": "dockerd", "containerd": "containerd", "buildkit": "buildkitd"}


@dataclass(frozen=True)
class Builder:
    """Who pulls: `environment` and the `files` of CAs are its own."""

    who: str
    kind: Kind | None
    environment: Mapping[str, str]
    files: Sequence[Path]
    findings: Sequence[Finding] = ()
    elsewhere: bool = False
    """It has a network of its own, as containers do: 127.0.0.1 is another machine there."""


@dataclass(frozen=True)
class Machine:
    """What there is to look at. `environment`, `home` (None: there is none) and `network`: of whoever looks."""

    environment: Mapping[str, str]
    home: Path | None
    root: Path = Path("/")
    processes: Sequence[Process] = ()
    network: str = ""


def shell(machine: Machine) -> Builder:
    """Whatever is started from where this is."""
    return Builder("this shell", None, machine.environment, trusted.files(machine.root, machine.environment))


def look(kind: Kind, machine: Machine, registry: str, url: str) -> Builder:
    """`registry`: that pulls are from, as image names say it. `url`: of the proxy, for remedies."""
    if kind == "podman":
        return _podman(machine, registry)
    program = _PROGRAMS[kind]
    found = [each for each in machine.processes if each.name == program]
    seen = [each for each in found if each.environment is not None]
    # One that lacks what the others have is the one to look at.
    process = next((each for each in seen if not _has_proxy(each.environment or {})), seen[0] if seen else None)
    unit, said = settings.of_unit(machine.root, remedies.UNITS[kind])
    root = process.root if process else machine.root
    own = process.environment if process and process.environment is not None else unit
    if kind == "dockerd":
        own = {**own, **_of_dockerd(process, root)}
    who = f"{program} (pid {process.pid})" if process else program
    findings: list[Finding] = []
    if process:
        findings.append(ok(STEP, f"{who} runs here"))
    elif found:
        told = f"{program} runs (pid {found[0].pid}), and this user may not see its environment"
        findings.append(warning(STEP, "not-seen", told, f"Look as root:\n  sudo mirrortap doctor --builder {kind}"))
        return replace(shell(machine), kind=kind, findings=findings)
    else:
        findings.append(_not_here(kind, program))
        if not own:
            return replace(shell(machine), kind=kind, findings=findings)
    if not _has_proxy(own):
        findings.append(_without(kind, who, own, unit, said, machine, url))
    elsewhere = bool(process and process.network and machine.network and process.network != machine.network)
    return Builder(who, kind, own, _files(kind, root, own, process, registry), findings, elsewhere)


def _podman(machine: Machine, registry: str) -> Builder:
    """There is no daemon: what counts is the environment of the command, and what its own settings add."""
    root = machine.root
    home = [machine.home / ".config/containers"] if machine.home else []
    folders = (root / "usr/share/containers", root / "etc/containers", *home)
    named = machine.environment.get("CONTAINERS_CONF")
    files = [Path(named)] if named else [file for folder in folders for file in _with_drop_ins(folder)]
    own = {**machine.environment, **settings.of_containers_conf(files)}
    certs = [each / "certs.d" for each in (*home, root / "etc/containers", root / "etc/docker")]
    # The first that has a folder for the host is the only one that is read (containers/image, dockerCertDir).
    folder = next((each / registry for each in certs if os.path.isdir(each / registry)), None)
    anchors = [each for each in trusted.listed(folder) if each.suffix == ".crt"] if folder else []
    findings = [ok(STEP, "podman and buildah pull themselves, in this environment")]
    return Builder("podman here", "podman", own, [*anchors, *trusted.files(root, own)], findings)


def _with_drop_ins(folder: Path) -> list[Path]:
    return [folder / "containers.conf", *trusted.listed(folder / "containers.conf.d")]


def _of_dockerd(process: Process | None, root: Path) -> dict[str, str]:
    """Its settings count for more than its environment."""
    file = (process and process.option("--config-file")) or "/etc/docker/daemon.json"
    told = settings.of_daemon_json(trusted.below(root, file))
    for option, name in ("--https-proxy", "HTTPS_PROXY"), ("--no-proxy", "NO_PROXY"):
        if process and (value := process.option(option)):
            told[name] = value
    return told


def _files(kind: Kind, root: Path, own: Mapping[str, str], process: Process | None, registry: str) -> list[Path]:
    """Those of CAs that it reads for a registry."""
    found = trusted.files(root, own)
    match kind:
        case "dockerd" if wellknown.canonical(registry) != "docker.io":
            # For Docker Hub it does not look there.
            return [
                *(each for each in trusted.listed(root / "etc/docker/certs.d" / registry) if each.suffix == ".crt"),
                *found,
            ]
        case "containerd":
            folder = root / "etc/containerd/certs.d" / registry
            return [*(each for each in trusted.listed(folder) if each.suffix in (".crt", ".pem")), *found]
        case "buildkit":
            file = (process and process.option("--config")) or "/etc/buildkit/buildkitd.toml"
            cas = settings.cas_of_buildkitd(trusted.below(root, file), registry)
            return [*(trusted.below(root, ca) for ca in cas), *found]
    return found


def _not_here(kind: Kind, program: str) -> Finding:
    told = f"{program} does not run here, or not where this can be seen"
    if kind == "buildkit":
        remedy = (
            "A builder of buildx runs in a container, maybe elsewhere; there, look at what it has:\n"
            "  docker buildx inspect --bootstrap\n"
            "  docker exec buildx_buildkit_mirrortap0 env"
        )
        return warning(STEP, "not-seen", told, remedy)
    remedy = f"Start it, or look on the machine where it runs:\n  systemctl start {remedies.UNITS[kind]}"
    return warning(STEP, "not-seen", told, remedy)


def _without(
    kind: Kind,
    who: str,
    own: Mapping[str, str],
    unit: Mapping[str, str],
    said: Sequence[Path],
    machine: Machine,
    url: str,
) -> Finding:
    """It has no proxy variable; others may have it, where it is of no use."""
    if name := environment.variable(unit):
        told = f"{who} has no {name}, though {', '.join(map(str, said))} sets it: it was started before that"
        lines = f"  systemctl daemon-reload\n  systemctl restart {remedies.UNITS[kind]}"
        return failed(STEP, "not-restarted", told, f"Restart it:\n{lines}")
    places = [f"this shell ({name})"] if (name := environment.variable(machine.environment)) else []
    client = logins.of_docker(machine.environment, machine.home)
    if client and _has_proxy(settings.of_docker_client(client)):
        places.append(f"{client} (for what runs in containers)")
    remedy = remedies.proxy(kind, url)
    if places:
        told = f"{who} pulls, and has {environment.without(own)}: only {' and '.join(places)} names a proxy"
        return failed(STEP, "not-the-daemon", told, remedy)
    return failed(STEP, "no-variable", f"{who} has {environment.without(own)}", remedy)


def _has_proxy(found: Mapping[str, str]) -> bool:
    return environment.variable(found) is not None
