"""Reads containerd's `certs.d`: a folder per registry, with a `hosts.toml`, or certificates as Docker wants them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from addon.config.formats import hosts_toml, tls
from addon.config.formats.hosts_tables import HostTable
from addon.config.formats.source import Source, registry_of, shown, why
from addon.config.model import ConfigError, Tls, origin_of
from addon.config.reading import Draft, Reading

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.model import Endpoint

HOSTS = "hosts.toml"
_DEFAULT = "_default"  # for registries without a folder


def read(path: Path) -> Reading:
    """What a certs.d folder says, or one `hosts.toml` in it. Raises ConfigError."""
    reader = _Reader()
    if not path.is_dir():
        folder = path.absolute().parent
        reader.hosts(folder, path, _registry(folder))
        return reader.reading(path)
    names = _names(path)
    if HOSTS in names:
        raise ConfigError(
            f"{path}: is the folder of one registry: name {path / HOSTS}, or the folder that has this one in it"
        )
    # What has no registry's name is nothing to containerd either: links that ConfigMaps are made of, say.
    folders = [path / name for name in names if not name.startswith(".") and (path / name).is_dir()]
    if not folders:
        raise ConfigError(f"{path}: has no folder that is named like a registry, as in docker.io/{HOSTS}")
    reader.files.add(path)
    for folder in folders:
        reader.folder(folder, _registry(folder))
    return reader.reading(path)


class _Reader:
    def __init__(self) -> None:
        self.files: set[Path] = set()
        self._drafts: dict[str, tuple[Path, Draft]] = {}
        self._tls: dict[str, Tls] = {}
        self._warnings: list[str] = []

    def reading(self, path: Path) -> Reading:
        drafts = tuple(draft for _, draft in self._drafts.values())
        return Reading(path, drafts, self._tls, files=frozenset(self.files), warnings=tuple(self._warnings))

    def folder(self, folder: Path, registry: str) -> None:
        self.files.add(folder)
        names = _names(folder)
        # containerd takes an empty one for none.
        if HOSTS in names and _size(folder / HOSTS):
            self.hosts(folder, folder / HOSTS, registry)
        else:
            self._certificates(folder, names, registry)

    def hosts(self, folder: Path, path: Path, registry: str) -> None:
        source = Source(path)
        self._add(folder, hosts_toml.read(source, path, registry, self._warnings))
        self.files |= source.files

    def _certificates(self, folder: Path, names: list[str], registry: str) -> None:
        """*.crt are CAs, X.cert goes with X.key, which may be in it."""
        source = Source(folder)
        ca = [tls.authority(source, folder / name, name) for name in names if name.endswith(".crt")]
        pairs = []
        for name in names:
            if name.endswith(".cert"):
                key = f"{name.removesuffix('.cert')}.key"
                pairs.append(tls.keypair(source, folder / name, folder / (key if key in names else name), name))
        table = HostTable(ca=[str(path) for path in ca], client=[(str(p.certificate), str(p.key)) for p in pairs])
        verified = Tls(tuple(ca), tuple(pairs))
        origins: tuple[Endpoint, ...] | None = hosts_toml.itself(registry, source.place(), table, verified)
        if registry != "*" and origins == (replace(origin_of(registry), tls=verified),):
            # However a file comes to name that host.
            self._tls[registry], origins = verified, None
        self._add(folder, Draft(registry, origins=origins, place=source.place()))
        self.files |= source.files

    def _add(self, folder: Path, draft: Draft) -> None:
        if draft.registry in self._drafts:
            other, _ = self._drafts[draft.registry]
            raise ConfigError(f"{other} and {folder}: are for the same registry; keep one of them")
        self._drafts[draft.registry] = folder, draft


def _registry(folder: Path) -> str:
    """The registry that a folder is named like. Raises ConfigError."""
    if folder.name == _DEFAULT:
        return "*"
    name = re.sub(r"_([0-9]+)_$", r":\1", folder.name)
    try:
        authority = Source(folder).authority(name, "its name")
    except ConfigError:
        raise ConfigError(
            f"{shown(folder)}: is not named like a registry (host, host:port, host_port_ or {_DEFAULT}), so that"
            " containerd never looks there; rename it, or move it away"
        ) from None
    return registry_of(authority)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"{shown(folder)}: cannot be read: {why(error)}") from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{shown(path)}: cannot be read: {why(error)}") from None
