"""The facts of just now, put together once for however many look at them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.status.facts import Facts

# Seconds that they stay the facts of just now: less than the second after which a viewer looks again.
_FRESH = 0.9


class Latest:
    """`compute` blocks, and is called in a thread."""

    def __init__(self, compute: Callable[[], Facts]) -> None:
        self._compute = compute
        self._computing: asyncio.Task[Facts] | None = None
        self._begun = 0.0

    async def facts(self) -> Facts:
        if self._computing is None or (self._computing.done() and time.monotonic() - self._begun >= _FRESH):
            self._begun = time.monotonic()
            self._computing = asyncio.create_task(asyncio.to_thread(self._compute))
        # One viewer who leaves must not take the others' facts away.
        return await asyncio.shield(self._computing)
