"""With this folder in PYTHONPATH, Python sends itself a SIGTERM as it ends: when it has given up its own handlers."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial


class _Late:
    # All that it needs is its own: modules may be gone by then.
    def __init__(self, send: Callable[[], None]) -> None:
        self.send = send

    def __del__(self) -> None:
        self.send()


# Where it is let go of last, and not by the garbage collector, which may have been told to leave it alone.
sys.late = _Late(partial(os.kill, os.getpid(), signal.SIGTERM))  # type: ignore[attr-defined]
