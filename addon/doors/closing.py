"""The end of everything: the doors first, all at once, then what is behind them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.service import Service


class Door(Protocol):
    """A way in for clients."""

    async def close(self) -> None:
        """Lets nobody in any more, and returns when running transfers are through, or have had their time."""


class Closing:
    """A mitmproxy addon."""

    def __init__(self, service: Service, doors: Sequence[Door]) -> None:
        self._service = service
        self._doors = doors

    async def done(self) -> None:
        await asyncio.gather(*(door.close() for door in self._doors))
        await self._service.close()
