"""Questions that many have at once: each is asked once, its answer is for all, and it outlives those who leave."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from addon.body import BodyCut
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger("mirrortap")


class Question[A]:
    """One that has been asked; `since` when, on the event loop's clock."""

    def __init__(self, ask: Coroutine[Any, Any, A]) -> None:
        self.since = asyncio.get_running_loop().time()
        self.task = asyncio.create_task(ask, name="question")

    async def answer(self) -> A:
        """The answer. Raises what asking raised, or BodyCut when the proxy stops."""
        # Not the task itself: one who leaves must not cancel it for the others.
        await asyncio.wait((self.task,))
        if self.task.cancelled():
            raise BodyCut("the proxy is stopping")
        return self.task.result()


class Questions[K, A]:
    """Those that have no answer yet, by what they are about."""

    def __init__(self) -> None:
        self._open: dict[K, Question[A]] = {}

    def put(self, key: K, ask: Callable[[], Coroutine[Any, Any, A]]) -> Question[A]:
        """The open question about `key`, or a new one."""
        question = self._open.get(key)
        if question is None:
            question = self._open[key] = Question(ask())
            question.task.add_done_callback(lambda task: self._ended(key, task))
        return question

    def _ended(self, key: K, task: asyncio.Task[A]) -> None:
        del self._open[key]
        # There may be nobody left to hear of it.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, NotFound):
            log.error("asking about %s: a fault in mirrortap", key, exc_info=error)

    async def close(self) -> None:
        tasks = [question.task for question in self._open.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
