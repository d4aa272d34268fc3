"""Who is in: connections that aiohttp serves, whichever door they came through, from when they are taken in until they
have gone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from addon import journal
from addon.doors.visitors import Visitor

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Coroutine

    from addon.doors.exchanges import Exchange
    from addon.service import Service

log = logging.getLogger("mirrortap")

# Lines that the log gets a minute about clients of one kind.
_LINES = 60
# Seconds that a client gets to say farewell in TLS.
_FAREWELL = 1.0


@dataclass(frozen=True)
class Way:
    """How a connection has come: what makes its requests' exchanges, in whose name it is served TLS, if it is, and
    `told`, for the log, where. `spare`: once it is there, it need not ask anything soon."""

    exchange: Callable[[web.BaseRequest, Visitor], Exchange]
    context: ssl.SSLContext | None
    told: str
    spare: bool = False


class Reception:
    """Serves connections that the gate has let in. Made inside a running event loop; `close` it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._visitors: dict[Visitor, Way] = {}
        self._leaving = False
        self._answering = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._late = journal.Seldom(log, _LINES)

    @property
    def busy(self) -> int:
        """Requests whose answers will come to an end: who looks on is none of them."""
        return self._answering - sum(visitor.looks_on for visitor in self._visitors)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Runs until it ends, or the reception closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take_in(self, connection: socket.socket, address: str, way: Way) -> None:
        """Counted at the gate already, it is from now on counted here, TLS included, until it leaves."""
        limits = self._service.config.admission
        visitor = Visitor(
            self._server,
            address,
            limits,
            log,
            lambda: self.too_late(address),
            lambda what: self._late.warning(f"%s {what}", address, way.told),
            self._gone,
            spare=way.spare,
        )
        self._visitors[visitor] = way
        self._empty.clear()
        if self._leaving:
            visitor.leave()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: visitor,
                connection,
                ssl=way.context,
                ssl_handshake_timeout=limits.header if way.context else None,
                ssl_shutdown_timeout=_FAREWELL if way.context else None,
            )
        except OSError as error:
            if isinstance(error, ConnectionAbortedError):
                self.too_late(address)
            else:
                self._broke_off(address, way, error)
            connection.close()
            self._gone(visitor)
        except asyncio.CancelledError:
            connection.close()
            self._gone(visitor)
            raise

    def _gone(self, visitor: Visitor) -> None:
        # A handshake that fails late may tell it twice.
        if self._visitors.pop(visitor, None):
            self._service.gate.leave(visitor.address)
            if not self._visitors:
                self._empty.set()

    def too_late(self, address: str) -> None:
        self._late.warning(
            "%s was hung up on: no complete request, or no TLS, within %g s (header-timeout)",
            address,
            self._service.config.admission.header,
        )

    def _broke_off(self, address: str, way: Way, error: OSError) -> None:
        self._service.tally.broke_off_tls(address, way.told)
        root = self._service.authority.root_path
        self._late.warning(
            "%s broke off TLS %s (%s); if it does not trust the CA yet, install %s there",
            address,
            way.told,
            getattr(error, "reason", None) or error.strerror or "it hung up",
            root,
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        visitor = request.protocol
        assert isinstance(visitor, Visitor)
        visitor.asked(request.content)
        self._answering += 1
        try:
            return await self._visitors[visitor].exchange(request, visitor).answer()
        finally:
            self._answering -= 1
            visitor.answered()

    async def leave(self) -> None:
        """Returns when all have gone, each after one more answer or when it has nothing to ask."""
        self._leaving = True
        for visitor in self._visitors:
            visitor.leave()
        while self._tasks or self._visitors:
            # Whom a task is about becomes a visitor, or goes.
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._empty.wait()

    async def close(self) -> None:
        """Lets running transfers finish."""
        drain = self._service.config.admission.drain
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.busy:
            log.info("stopping when %d running transfers are through, at most %g s", self.busy, drain)
        # They do not take what we send: the others have gone.
        for onlooker in [visitor for visitor in self._visitors if visitor.looks_on]:
            onlooker.abort("stopped")
        self._server.pre_shutdown()
        try:
            # aiohttp takes the time that it gets twice: once until it cancels the handler, once until that has ended.
            async with asyncio.timeout(drain):
                await self._server.shutdown(drain)
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d transfers were cut", len(self._visitors))
            for visitor in list(self._visitors):
                visitor.abort("stopped")
