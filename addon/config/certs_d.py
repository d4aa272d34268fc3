"""Reads a containerd `certs.d` folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.config.model import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.reading import Reading


def read(path: Path) -> Reading:
    """What it says. Raises ConfigError."""
    raise ConfigError(f"{path}: cannot be read yet")
