"""Whose a data folder is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from addon.cache.store import StoreError

if TYPE_CHECKING:
    from pathlib import Path


def check(data: Path) -> None:
    """To be called before content is put into its cache. Raises StoreError."""
    try:
        owner = data.stat().st_uid
    except OSError:
        return  # whoever opens it says so
    if os.geteuid() == 0 and owner != 0:
        raise StoreError(
            f"{data}: is uid {owner}'s, who could not use what root writes there; run this as that user:"
            " docs/deploy/systemd.md says how for a service"
        )
