"""systemd's unit files, as far as ours go (systemd.syntax(7)): no lines that are continued, no quotes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_unit(path: Path) -> Mapping[tuple[str, str], list[str]]:
    """Each setting's values in their order, by section and name; none for what is not set."""
    settings: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings[section, name].append(value)
    return settings
