"""The mirror door: the engine as an ordinary registry, for clients that name it as a mirror (docs/mirror-door.md)."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from addon import addresses
from addon.doors.mirror_exchanges import MirrorExchange
from addon.doors.reception import Reception, Way
from addon.doors.server_names import ServerNames
from ca.authority import AuthorityError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from addon.doors.listening import Listener
    from addon.service import Service

log = logging.getLogger("mirrortap")

# Seconds between two tries to accept when that fails.
_PAUSE = 1.0


class MirrorDoor:
    """A mitmproxy addon that has nothing of mitmproxy but its beginning. `service` is what it leads to.

    It serves what connects to `listeners`: plain http, or TLS with leaves of the CA for `names`, if there are any.
    """

    def __init__(self, service: Service, listeners: Sequence[Listener], names: Sequence[str] = ()) -> None:
        self._service = service
        self._listeners = listeners
        self._names = ServerNames(names) if names else None

    def running(self) -> None:
        _ = self._service.engine
        self._reception = Reception(self._service)
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen(listener)

    def busy(self) -> int:
        return self._reception.busy

    async def leave(self) -> None:
        self._stop_listening()
        await self._reception.leave()

    async def close(self) -> None:
        """Stops listening, and lets running transfers finish."""
        self._stop_listening()
        await self._reception.close()

    def _listen(self, listener: Listener) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            if listener.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(listener)
                listener.close()

    def _accept(self, listener: Listener) -> None:
        """Takes one connection: the others in the queue are for whichever process is idle. What is taken is served,
        whenever listening ends."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was quicker, or the client has left
        except OSError as error:
            log.error("the mirror door cannot take a connection: %s", error.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_PAUSE, self._listen, listener)
        else:
            connection.setblocking(False)
            self._reception.start(self._welcome(connection))

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            address = str(addresses.parse(connection.getpeername()[0]))
        except OSError:
            connection.close()
            return
        if not self._service.gate.enter(address):
            connection.close()
            return
        try:
            context = self._names.context(await self._service.valid_authority()) if self._names else None
        except (AuthorityError, asyncio.CancelledError) as error:
            if isinstance(error, AuthorityError):
                log.error("%s cannot be shown a certificate: %s", address, error)
            self._service.gate.leave(address)
            connection.close()
            return
        way = Way(partial(MirrorExchange, self._service), context, "at the mirror door")
        await self._reception.take_in(connection, address, way)
