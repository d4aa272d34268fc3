"""Whether the proxy is ready for clients, for what routes them to it: load balancers, Kubernetes, Docker.

Who asks needs no login, so nothing is said that not everybody may know: no names, and no paths.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from addon.counts.facts import EndpointFacts

# Seconds for which it is believed whether the cache can be written; and how much is written to find out.
_BELIEVED, _BYTES = 5.0, 4096


@dataclass(frozen=True)
class Check:
    """`said`: in words."""

    name: str
    ok: bool
    said: str


def ready(*, stopping: bool, unwritable: str, offline: bool, endpoints: Sequence[EndpointFacts]) -> list[Check]:
    """What was looked at; the proxy is ready when all of it is well.

    `unwritable`: why the cache cannot be written, "" if it can. `endpoints`: all that are configured or were asked.
    """
    return [_door(stopping), _store(unwritable), _endpoints(offline, endpoints)]


def _door(stopping: bool) -> Check:
    return Check("door", not stopping, "is being stopped" if stopping else "listens")


def _store(unwritable: str) -> Check:
    said = f"cannot be written: {unwritable}; images are served past it" if unwritable else "can be written"
    return Check("store", not unwritable, said)


def _endpoints(offline: bool, endpoints: Sequence[EndpointFacts]) -> Check:
    down = sum(each.state == "down" for each in endpoints)
    if offline:
        said = "not asked: the proxy is offline"
    elif not endpoints:
        said = "none known yet"
    elif down:
        said = f"{down} of {len(endpoints)} down: mirrortap status says why"
    else:
        said = f"none of {len(endpoints)} down"
    return Check("endpoints", offline or not endpoints or down < len(endpoints), said)


def answer(checks: Sequence[Check], accept: str = "") -> tuple[int, str, bytes]:
    """Status, Content-Type and body: a line for each check, or JSON for who names that in its Accept header."""
    well = all(check.ok for check in checks)
    status = 200 if well else 503
    if "application/json" in accept.lower():
        told = {"ready": well, "checks": [asdict(check) for check in checks]}
        return status, "application/json", json.dumps(told).encode()
    lines = [f"{'ok' if check.ok else 'NOT OK'}: {check.name} {check.said}\n" for check in checks]
    return status, "text/plain; charset=utf-8", "".join(lines).encode()


class Trial:
    """Finds out whether a folder can be written, for any number who ask. `clock` gives seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._trying = asyncio.Lock()
        self._tried: float | None = None
        self._problem = ""

    async def problem(self) -> str:
        """Why it could not be written lately, "" if it could."""
        async with self._trying:
            if self._tried is None or self._clock() - self._tried >= _BELIEVED:
                self._problem = await asyncio.to_thread(self._try)
                self._tried = self._clock()
            return self._problem

    def _try(self) -> str:
        try:
            # Without a name, where the system knows such files: nothing is left of it, whatever happens.
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(bytes(_BYTES))
        except OSError as error:
            return error.strerror or "unknown error"
        return ""
