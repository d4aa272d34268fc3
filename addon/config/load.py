"""One configuration from the files and folders that the operator names, each in a format that builders have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from addon.config.formats import buildkit, certs_d, daemon_json, documents, registries_conf
from addon.config.merging import merge
from addon.config.model import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from addon.config.model import Config
    from addon.config.reading import Reading


def load(paths: Sequence[Path]) -> Config:
    """What all of them say together; what is built in when there is none. Raises ConfigError."""
    readings = [_read(path) for path in paths]
    if not any(reading.standby for reading in readings):
        readings.append(buildkit.nothing())
    return merge(readings)


def _read(path: Path) -> Reading:
    """In the format that its name shows."""
    if path.name == certs_d.HOSTS:
        return certs_d.read(path)
    if os.path.isdir(path):  # what cannot be looked at is told of by whoever reads it
        if path.name.endswith(".conf.d"):
            beside = path.with_name(path.name.removesuffix(".d"))
            raise ConfigError(f"{path}: holds drop-ins, which are read with the file beside it; name {beside} instead")
        return certs_d.read(path)
    match path.suffix:
        case ".json":
            return daemon_json.read(path)
        case ".conf":
            return registries_conf.read(path)
        case _ if registries_conf.is_one(documents.parse_toml(path)):
            return registries_conf.read(path)
        case _:
            return buildkit.read(path)
