"""Several endpoints asked at once: whose answer is taken wins, the others' come to nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from addon.config.model import Endpoint


class Closable(Protocol):
    async def close(self) -> None: ...


class Race[Answer: Closable]:
    """Leaving the block ends whoever still runs, and closes every answer that was neither told nor taken.

    That holds when the one who waits is cancelled, too: then what was taken is closed as well.
    """

    def __init__(self, ask: Callable[[Endpoint], Awaitable[Answer]]) -> None:
        """`ask` may raise EndpointError."""
        self._ask = ask
        self._running: dict[asyncio.Task[Answer | EndpointError], Endpoint] = {}  # in the order of their start
        self._taken: Answer | None = None

    @property
    def running(self) -> list[Endpoint]:
        """Who has not ended, in the order of their start."""
        return list(self._running.values())

    def start(self, endpoint: Endpoint) -> None:
        self._running[asyncio.create_task(self._run(endpoint), name=f"ask {endpoint.name}")] = endpoint

    async def ended(self, within: float | None) -> list[tuple[Endpoint, Answer | EndpointError]]:
        """Who has ended, in the order of their start; nobody when none has `within` so many seconds."""
        if not self._running:
            return []
        done, _ = await asyncio.wait(self._running, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        told = [(task, endpoint, task.result()) for task, endpoint in self._running.items() if task in done]
        for task, _, _ in told:
            del self._running[task]
        return [(endpoint, answer) for _, endpoint, answer in told]

    def take(self, answer: Answer) -> Answer:
        """The answer is the caller's, to be closed by them, once the block has been left in good order."""
        self._taken = answer
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        try:
            # When this is cancelled itself, it still waits for all of them.
            await asyncio.gather(*self._running, return_exceptions=True)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            raise
        finally:
            for task in self._running:
                # What had ended, or came all the same.
                if not task.cancelled() and not task.exception() and not isinstance(answer := task.result(), Exception):
                    await answer.close()
            if error and self._taken:
                await self._taken.close()

    async def _run(self, endpoint: Endpoint) -> Answer | EndpointError:
        try:
            return await self._ask(endpoint)
        except EndpointError as error:
            return error
