"""What the log says: one line per request that a person can read; and of a lasting trouble, a few a minute."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from addon import oci
from addon.oci import Blob, Digest, Manifest, OciError

if TYPE_CHECKING:
    from addon.config.model import Rule
    from addon.reply import Reply


def to_stderr(whose: str = "") -> None:
    """Sends the log there; `whose` stands before each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(whose))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # No line says where in the program it is from ("Optimization" in the logging HOWTO of Python).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # mitmproxy has several lines for each connection, of which only what is wrong is news.
    logging.getLogger("mitmproxy").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.ERROR)


class Lines(logging.Formatter):
    """The time, to the second, and the message."""

    def __init__(self, whose: str) -> None:
        super().__init__(f"%(asctime)s {whose}%(message)s", "%Y-%m-%d %H:%M:%S")
        self._second = -1
        self._time = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        if self._second != int(record.created):
            self._time = super().formatTime(record, datefmt)
            self._second = int(record.created)
        return self._time


def line(rule: Rule, method: str, target: str, reply: Reply, sent: int, seconds: float, cut: str | None) -> str:
    """`target` is the path as asked; `sent` the body's bytes; `cut` why the transfer was broken off, if it was."""
    # Without its query, which may hold a secret (an upload's state, a token).
    path = target.partition("?")[0]
    what = f"{rule.registry}{path if path.isprintable() else ascii(path)}"
    try:
        match oci.understand(method, target):
            case Manifest(repository, reference) | Blob(repository, reference) as asked:
                shown = reference.short if isinstance(reference, Digest) else reference
                what = f"{rule.registry}/{repository} {type(asked).__name__.lower()} {shown}"
    except OciError:
        pass
    end = f" CUT: {cut}" if cut is not None else ""
    return f"{method} {what} {reply.status} {reply.served} {size(sent)} {duration(seconds)}{end}"


def size(count: int) -> str:
    """A number of bytes for people, in powers of ten."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


class Seldom:
    """Warnings of one kind, of which the log gets no more than `most` in so many seconds."""

    def __init__(self, log: logging.Logger, most: int = 1, seconds: float = 60.0) -> None:
        self._log = log
        self._most = most
        self._seconds = seconds
        self._told: deque[float] = deque()
        self._held = 0

    def warning(self, message: str, *args: object) -> None:
        now = time.monotonic()
        while self._told and self._told[0] <= now - self._seconds:
            self._told.popleft()
        if len(self._told) >= self._most:
            self._held += 1
            return
        more = f" (and {self._held} more like this in the last minutes)" if self._held else ""
        self._held = 0
        self._told.append(now)
        self._log.warning(message + more, *args)
