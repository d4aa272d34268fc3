"""What builders' own files say of the proxy and of CAs, below the root of a machine or of a container."""

from __future__ import annotations

import json
import shlex
import tomllib
from typing import TYPE_CHECKING, Any

from addon.doctor.trusted import below, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# systemd.unit(5): of files with the same name the last folder's counts.
_UNITS = ("usr/lib/systemd/system", "lib/systemd/system", "run/systemd/system", "etc/systemd/system")
_DAEMON = {"https-proxy": "HTTPS_PROXY", "no-proxy": "NO_PROXY", "http-proxy": "HTTP_PROXY"}
_CLIENT = {"httpsProxy": "HTTPS_PROXY", "noProxy": "NO_PROXY", "httpProxy": "HTTP_PROXY"}


def of_unit(root: Path, unit: str) -> tuple[dict[str, str], list[Path]]:
    """The environment that systemd gives a service, and the files that say so (systemd.exec(5))."""
    folders = [root / folder for folder in _UNITS]
    units = [folder / f"{unit}.service" for folder in folders if (folder / f"{unit}.service").is_file()]
    drop_ins = {each.name: each for folder in folders for each in listed(folder / f"{unit}.service.d")}
    found: dict[str, str] = {}
    said: list[Path] = []
    for file in [*units[-1:], *(drop_ins[name] for name in sorted(drop_ins) if name.endswith(".conf"))]:
        before = dict(found)
        for key, value in _assignments(_text(file)):
            if key == "Environment":
                found = {**found, **dict(_variables(value))} if value else {}
            elif key == "EnvironmentFile":
                found |= dict(_assignments(_text(below(root, value.removeprefix("-"))), "\"'"))
        if found != before:
            said.append(file)
    return found, said


def of_daemon_json(file: Path) -> dict[str, str]:
    """What dockerd's `proxies` come to (since Docker 23)."""
    return _proxies(_json(file).get("proxies"), _DAEMON)


def of_docker_client(file: Path) -> dict[str, str]:
    """What config.json has the docker command give to containers, and to nobody else."""
    proxies = _json(file).get("proxies")
    return _proxies(proxies.get("default"), _CLIENT) if isinstance(proxies, dict) else {}


def of_containers_conf(files: list[Path]) -> dict[str, str]:
    """What `env` under [engine] sets for podman and buildah themselves (containers.conf(5)); the last file counts."""
    found: dict[str, str] = {}
    for file in files:
        engine = _toml(file).get("engine")
        env = engine.get("env") if isinstance(engine, dict) else None
        for each in env if isinstance(env, list) else []:
            if isinstance(each, str) and "=" in each:
                name, _, value = each.partition("=")
                found[name] = value
    return found


def cas_of_buildkitd(file: Path, registry: str) -> list[str]:
    """The files that `ca` of a registry's table names, as they are written."""
    registries = _toml(file).get("registry")
    table = registries.get(registry) if isinstance(registries, dict) else None
    cas = table.get("ca") if isinstance(table, dict) else None
    return [each for each in cas if isinstance(each, str)] if isinstance(cas, list) else []


def _assignments(text: str, quotes: str = "") -> Iterator[tuple[str, str]]:
    for line in text.replace("\\\n", " ").splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";")):
            yield key.strip(), value.strip().strip(quotes)


def _variables(value: str) -> Iterator[tuple[str, str]]:
    """Of one Environment=; `%%` is a percent sign."""
    try:
        words = shlex.split(value)
    except ValueError:
        return
    for word in words:
        name, equals, text = word.partition("=")
        if equals:
            yield name, text.replace("%%", "%")


def _proxies(table: Any, names: dict[str, str]) -> dict[str, str]:
    if not isinstance(table, dict):
        return {}
    return {names[key]: value for key, value in table.items() if key in names and isinstance(value, str) and value}


def _text(file: Path) -> str:
    """ "" for what is not there: what cannot be read is not this user's to see."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(file) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError:
        return {}
