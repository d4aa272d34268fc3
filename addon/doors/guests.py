"""One client's connection, as the proxy door knows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from addon.admission.gate import Refusal
    from addon.config.model import Config


class Guest:
    """`address` is where it comes from; `ways` where mitmproxy may connect to for it, as looked at by the gate;
    `inside` whether it is in a tunnel, which it has been let into, and `config` what held when it asked for that;
    `refused` what it gets for whatever is not meant for the proxy itself."""

    def __init__(self, address: str, patience: float, late: Callable[[], None]) -> None:
        """`late` is called when something is awaited for more than `patience` seconds."""
        self.address = address
        self.ways: set[tuple[str, int]] = set()
        self.inside = False
        self.config: Config | None = None
        self.refused: Refusal | None = None
        self._patience = patience
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self.answers = 0
        """How many it has had."""
        self._asked: set[str] = set()

    def asks(self, request: str) -> None:
        """It has sent the head of this one."""
        self._asked.add(request)

    def answered(self, request: str) -> None:
        self._asked.discard(request)
        self.answers += 1

    @property
    def idle(self) -> bool:
        """Whether neither it nor we have anything to say now."""
        return not self._asked and (self._timer is None or self._timer.cancelled())

    def let_in(self, config: Config) -> None:
        """It is in a tunnel from now on, as this configuration allows."""
        self.inside, self.config = True, config

    def watched(self, watch: Coroutine[None, None, None]) -> None:
        """Runs until it leaves."""
        self._watch = asyncio.create_task(watch)

    def left(self) -> None:
        self.heard()
        if self._watch:
            self._watch.cancel()

    def awaited(self) -> None:
        """It has to say something now."""
        self.heard()
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._late)

    def heard(self) -> None:
        """It has said what it had to."""
        if self._timer:
            self._timer.cancel()
