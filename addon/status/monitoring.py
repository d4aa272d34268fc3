"""What machines ask the proxy about itself: is it alive, is it ready, and what does it do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from addon.status import health, metrics

if TYPE_CHECKING:
    from addon.counts.facts import Facts

_TEXT = "text/plain; charset=utf-8"

# Status, Content-Type and body.
Said = tuple[int, str, bytes]


class Told(Protocol):
    """Of the service, what is looked at."""

    @property
    def trial(self) -> health.Trial: ...
    @property
    def stopping(self) -> bool: ...
    async def facts(self) -> Facts: ...


class Monitoring:
    """`accept`, wherever it is asked for: the Accept header."""

    def __init__(self, service: Told) -> None:
        self._service = service

    async def alive(self, accept: str) -> Said:
        """Who gets to say this is."""
        return 200, _TEXT, b"ok\n"

    async def ready(self, accept: str) -> Said:
        facts = await self._service.facts()
        checks = health.ready(
            stopping=self._service.stopping,
            unwritable=await self._service.trial.problem(),
            offline=facts.offline,
            endpoints=facts.endpoints,
        )
        return health.answer(checks, accept)

    async def metrics(self, accept: str) -> Said:
        facts = await self._service.facts()
        body, media_type = await asyncio.to_thread(metrics.exposition, facts, accept)
        return 200, media_type, body
