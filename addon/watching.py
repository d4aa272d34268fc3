"""The configuration's files, looked at again and again: what changes in them is read and taken over, or refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from typing import TYPE_CHECKING

from addon.config.difference import differences, shortened
from addon.config.model import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from addon.config.model import Config

log = logging.getLogger("mirrortap")

# Seconds between two looks, and between the two that must see the same before a change is read: who writes a file in
# pieces pauses for less than that.
_INTERVAL = 1.0
# The share of one core's time that looking may take, however many files there are, and reading what was refused.
_SHARE = 0.02
# Seconds after which what was refused is tried again, though nothing has changed: it may be for something that is not
# watched (a file that was missing, a variable, the root's key).
_AGAIN = 10.0
# Seconds before a read: what was changed in them may change again, and look the same by the clock of a file system.
_RECENT = 0.5

Signature = tuple[int, ...]


def signature(path: Path) -> Signature:
    """What changes with what is there: another file, other bytes, other rights, other entries of a folder, nothing."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Watch:
    """Of the files that one configuration is read from, by one thread at a time.

    `read` reads it anew, and `adopt` takes it into use; both raise ConfigError, and then all stays as it is.
    """

    def __init__(self, read: Callable[[], Config], paths: Sequence[Path]) -> None:
        """Reads it for the first time. Raises ConfigError. Nobody is told of changes until there is an `adopt`."""
        self._read = read
        begun = time.time()
        before = _signatures(paths)
        self.config = read()
        """What was adopted last."""
        self.adopt: Callable[[Config], None] = lambda _: None
        self.quiet = False
        """Whether the log hears nothing of it."""
        # None: what was read of the file need not be what is there.
        self._known = _known(self.config.files, before, begun)
        self._unsettled: Mapping[Path, Signature] = {}
        self._refusal: str | None = None
        self._again = math.inf  # when to read once more what was refused, on the monotonic clock

    @property
    def refusal(self) -> str:
        """Why what the files say now is not in use; "" if it is."""
        return self._refusal or ""

    def remind(self) -> None:
        """What was refused is tried again, and told again."""
        if self._refusal is not None:
            self._refusal, self._again = "", 0.0

    def look(self, *, settled: bool = False, anyway: bool = False) -> float:
        """Reads and adopts what has changed, if it seems complete, or is said to be `settled`. Never raises.

        `anyway`: even if nothing has changed. Returns the seconds until it should be called again.
        """
        begun = time.thread_time()
        found = _signatures(self._known)
        pause = max(_INTERVAL, (time.thread_time() - begun) / _SHARE)
        changed = found != self._known
        if anyway or (changed and (settled or found == self._unsettled)) or time.monotonic() >= self._again:
            self._take_over(found, anyway=anyway)
        elif changed:
            self._unsettled = found
        return pause

    def _take_over(self, found: Mapping[Path, Signature], *, anyway: bool) -> None:
        changed = sorted(path for path, was in self._known.items() if was not in (None, found[path]))
        begun, spent = time.time(), time.thread_time()
        config, refusal = None, ""
        try:
            new = self._read()
            if _signatures(found) == found:
                self.adopt(new)
                config = new
        except ConfigError as error:
            refusal = str(error)
        except Exception:
            log.exception("the configuration cannot be changed: a fault in mirrortap")
            refusal = "a fault in mirrortap"
        if config:
            self._adopted(config, changed, anyway=anyway)
            self._known = _known(config.files, found, begun)
            self._refusal, self._again = None, math.inf
        elif not refusal or _signatures(found) != found:
            self._unsettled = {}  # what was read may be half of what was, and half of what is
        else:
            # Which files it names now is not known: the same as before are watched.
            self._known = _known(found, found, begun)
            if changed or anyway or refusal != self._refusal:
                self._say(logging.ERROR, "the configuration is REFUSED, and the one before stays in use: %s", refusal)
            self._refusal = refusal
            self._again = time.monotonic() + max(_AGAIN, (time.thread_time() - spent) / _SHARE)

    def _adopted(self, config: Config, changed: list[Path], *, anyway: bool) -> None:
        old, self.config = self.config, config
        if said := differences(old, config):
            self._say(logging.INFO, "the configuration has changed, and is in use: %s", "; ".join(said))
        elif self._refusal is not None:
            self._say(logging.INFO, "the configuration is good again, and says what the one in use says")
        elif changed or anyway:
            what = shortened([str(path) for path in changed]) or "no file"
            self._say(logging.INFO, "the configuration was read again, and says the same; changed: %s", what)
        for warning in config.warnings:
            if warning not in old.warnings:
                self._say(logging.WARNING, "%s", warning)

    def _say(self, level: int, message: str, *args: str) -> None:
        if not self.quiet:
            # What is wrong with a file may take several lines to say.
            log.log(level, message, *("; ".join(arg.splitlines()) for arg in args))


def _signatures(paths: Iterable[Path]) -> dict[Path, Signature]:
    return {path: signature(path) for path in paths}


def _known(paths: Iterable[Path], before: Mapping[Path, Signature], begun: float) -> dict[Path, Signature | None]:
    """Of what was read from `begun` on (seconds since the epoch), when signatures were as `before`."""
    known: dict[Path, Signature | None] = {}
    for path in paths:
        found = before.get(path) or signature(path)
        # What was not there when it was looked at afterwards alone may have been read all the same.
        sure = found[-1] < (begun - _RECENT) * 1e9 if len(found) > 1 else path in before
        known[path] = found if sure else None
    return known


class Watching:
    """Looks now and then, in a thread."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._asked = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="watch the configuration")

    def ask(self) -> None:
        """To read what is there at once, as it is."""
        self._asked.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            pause = await asyncio.to_thread(self._watch.look, anyway=asked)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), pause)
