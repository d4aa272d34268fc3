"""The home folder of whoever runs this. There need be none: containers and services have uids without an entry."""

from __future__ import annotations

import os
from pathlib import Path


class NoHome(Exception):
    """There is none; the message says why."""


def home_folder() -> Path:
    """Raises NoHome."""
    try:
        return Path.home()
    except RuntimeError:
        raise NoHome(
            f"no home folder is known (HOME is not set, and uid {os.getuid()} has no entry in /etc/passwd)"
        ) from None


def home_if_any() -> Path | None:
    """For what is merely looked at there."""
    try:
        return home_folder()
    except NoHome:
        return None
