"""One request at aiohttp's side of a door, and its answer: what all doors do alike."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from addon import journal, reply
from addon.counts import answered
from addon.doors.sending import Sending
from addon.doors.visitors import MAX_HEAD, too_long
from addon.oci import OciError
from addon.reply import OFFLINE_REASON, OFFLINE_STATUS, Reply, Served

if TYPE_CHECKING:
    from aiohttp import web

    from addon.doors.visitors import Visitor
    from addon.reply import Request
    from addon.service import Service

log = logging.getLogger("mirrortap")

REFUSED = Served("refused")
_closing: set[asyncio.Future[None]] = set()  # else they could be collected before they are through


class Exchange(ABC):
    """See `answer`."""

    def __init__(self, service: Service, request: web.BaseRequest, visitor: Visitor) -> None:
        self._service = service
        self._request = request
        self._visitor = visitor
        self._begun = time.monotonic()

    @abstractmethod
    async def _asked(self) -> Request | Reply:
        """What the engine is asked, or the answer. Raises OciError."""

    def _shown(self, answer: Reply) -> Reply:
        """The engine's answer as clients of this door get it."""
        return answer

    async def answer(self) -> web.StreamResponse:
        """Sends the answer, whatever it is."""
        try:
            if sum(len(name) + len(value) for name, value in self._request.raw_headers) > MAX_HEAD:
                raise too_long()
            asked = await self._asked()
        except OciError as problem:
            return await self._send(_error(problem))
        if isinstance(asked, Reply):
            return await self._send(asked)
        with self._visitor.waiting():
            answer = await self._ask(asked)
        return await self._send(self._shown(answer), asked)

    async def _ask(self, asked: Request) -> Reply:
        """The engine's answer; when the client leaves meanwhile, what it would have got is closed."""
        answering = asyncio.ensure_future(self._service.engine.answer(asked))
        if answering.done():
            return answering.result()  # tasks are eager here
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            answering.add_done_callback(_drop)
            raise

    async def _send(self, answer: Reply, asked: Request | None = None) -> web.StreamResponse:
        """`asked` of the engine, if it was."""
        sending = Sending(self._request, self._visitor)
        offline = asked is not None and asked.rule.offline and answer.status == OFFLINE_STATUS
        try:
            return await sending.send(answer, OFFLINE_REASON if offline else None)
        finally:
            if asked:
                seconds = time.monotonic() - self._begun
                told = answered.of(
                    asked,
                    answer,
                    at=time.time() - seconds,
                    client=self._visitor.address,
                    sent=sending.sent,
                    seconds=seconds,
                    cut=sending.failure,
                )
                self._service.tally.answered(told)
                log.info("%s", journal.Entry(told, answer.served))


def _drop(answering: asyncio.Future[Reply]) -> None:
    """Nobody is there to get it."""
    body = answering.result().body
    if not isinstance(body, bytes):
        closing = asyncio.ensure_future(body.close())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


def _error(problem: OciError) -> Reply:
    headers = (("Content-Type", "application/json"), reply.API_VERSION, *problem.headers)
    return Reply(problem.status, headers, problem.body(), REFUSED)
