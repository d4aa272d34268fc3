"""The mirror door: the engine as an ordinary registry, for clients that name it as a mirror (docs/mirror-door.md)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import web

from addon import addresses, journal
from addon.doors.exchanges import Exchange
from addon.doors.server_names import ServerNames
from addon.doors.visitors import Visitor
from ca.authority import AuthorityError

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Sequence

    from addon.doors.listening import Listener
    from addon.service import Service

log = logging.getLogger("mirrortap")

# Seconds that running transfers get to finish when the proxy is told to stop.
_DRAIN = 30.0
# Lines that the log gets a minute about clients of one kind.
_LINES = 60
# Seconds that a client gets to say farewell in TLS; and between two tries to accept when that fails.
_FAREWELL, _PAUSE = 1.0, 1.0


class MirrorDoor:
    """A mitmproxy addon that has nothing of mitmproxy but its beginning. `service` is what it leads to.

    It serves what connects to `listeners`: plain http, or TLS with leaves of the CA for `names`, if there are any.
    """

    def __init__(self, service: Service, listeners: Sequence[Listener], names: Sequence[str] = ()) -> None:
        self._service = service
        self._listeners = listeners
        self._names = ServerNames(names) if names else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._visitors: set[Visitor] = set()
        self._busy = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._late = journal.Seldom(log, _LINES)

    def running(self) -> None:
        _ = self._service.engine
        self._server = web.Server(self._answer, handler_cancellation=True)
        for listener in self._listeners:
            listener.setblocking(False)
            self._start(self._accept(listener))

    async def close(self) -> None:
        """Stops listening, and lets running transfers finish."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        if self._busy:
            log.info("stopping when %d running transfers are through, at most %g s", self._busy, _DRAIN)
        self._server.pre_shutdown()
        begun = time.monotonic()
        await self._server.shutdown(_DRAIN)
        try:
            async with asyncio.timeout(_DRAIN - (time.monotonic() - begun)):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d transfers were cut", len(self._visitors))
            for visitor in list(self._visitors):
                visitor.abort("stopped")

    # Connections.

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                # One at a time: the others in the queue are for whichever process is idle.
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.error("the mirror door cannot take a connection: %s", error.strerror)
                await asyncio.sleep(_PAUSE)
            else:
                self._start(self._welcome(connection))

    async def _welcome(self, connection: socket.socket) -> None:
        """Counts it from now on, TLS included, until it leaves."""
        try:
            address = str(addresses.parse(connection.getpeername()[0]))
        except OSError:
            connection.close()
            return
        if not self._service.gate.enter(address):
            connection.close()
            return
        limits = self._service.config.admission
        visitor = Visitor(self._server, address, limits, log, lambda: self._too_late(address), self._gone)
        self._visitors.add(visitor)
        self._empty.clear()
        try:
            context = self._names.context(await self._service.valid_authority()) if self._names else None
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: visitor,
                connection,
                ssl=context,
                ssl_handshake_timeout=limits.header if context else None,
                ssl_shutdown_timeout=_FAREWELL if context else None,
            )
        except (OSError, AuthorityError) as error:
            if isinstance(error, AuthorityError):
                log.error("%s cannot be shown a certificate: %s", address, error)
            elif isinstance(error, ConnectionAbortedError):
                self._too_late(address)
            else:
                self._broke_off(address, error)
            connection.close()
            self._gone(visitor)
        except asyncio.CancelledError:
            connection.close()
            self._gone(visitor)
            raise

    def _gone(self, visitor: Visitor) -> None:
        # A handshake that fails late may tell it twice.
        if visitor in self._visitors:
            self._visitors.remove(visitor)
            self._service.gate.leave(visitor.address)
            if not self._visitors:
                self._empty.set()

    def _too_late(self, address: str) -> None:
        self._late.warning(
            "%s was hung up on: no complete request, or no TLS, within %g s (header-timeout)",
            address,
            self._service.config.admission.header,
        )

    def _broke_off(self, address: str, error: OSError) -> None:
        root = self._service.authority.root_path
        self._late.warning(
            "%s broke off TLS at the mirror door (%s); if it does not trust the CA yet, install %s there",
            address,
            getattr(error, "reason", None) or error.strerror or "it hung up",
            root,
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        visitor = request.protocol
        assert isinstance(visitor, Visitor)
        visitor.asked(request.content)
        self._busy += 1
        try:
            return await Exchange(self._service, request, visitor).answer()
        finally:
            self._busy -= 1
            visitor.answered()
