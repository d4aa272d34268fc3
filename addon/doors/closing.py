"""The end of everything: the doors first, all at once, then what is behind them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.service import Service


# Seconds that what runs may take to its end when another process has taken over: nobody waits for this one to end.
# No pull takes so long; a tunnel may, and old processes must not pile up.
_LONGEST = 3600.0

log = logging.getLogger("mirrortap")


class Door(Protocol):
    """A way in for clients."""

    def busy(self) -> int:
        """Transfers that are running."""

    async def leave(self) -> None:
        """Lets nobody in any more, and returns when all have gone: each after one more answer, or when it has nothing
        to ask."""

    async def close(self) -> None:
        """Lets nobody in any more, and returns when running transfers are through, or have had their time."""


class Closing:
    """A mitmproxy addon."""

    def __init__(self, service: Service, doors: Sequence[Door]) -> None:
        self._service = service
        self._doors = doors

    def busy(self) -> int:
        """Transfers that are running."""
        return sum(door.busy() for door in self._doors)

    async def leave(self) -> None:
        """For when another process has the ports, too. Returns when whoever came here before that has gone."""
        await self._service.pages.close()
        log.info("another process has taken over: %d running transfers are finished here", self.busy())
        await self._service.succeeded()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST):
                await asyncio.gather(*(door.leave() for door in self._doors))

    async def done(self) -> None:
        self._service.stopping = True
        await self._service.pages.close()
        await asyncio.gather(*(door.close() for door in self._doors))
        await self._service.close()
