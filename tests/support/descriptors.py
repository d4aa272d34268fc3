"""The files and sockets that this process has open."""

from __future__ import annotations

import gc
import os


def descriptors() -> int:
    """How many; without those of what earlier tests have left to the garbage collector, which may come at any time."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
