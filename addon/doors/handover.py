"""Tunnels to registries, out of mitmproxy's hands as soon as it has let them in: what is in them is for us alone.

mitmproxy's layers are paid for with each request and each piece of a body, several times in a tunnel.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from addon.doors import live
from addon.doors.leaves import Contexts, new_context
from addon.doors.reception import Reception, Way
from addon.doors.tunnel_exchanges import TunnelExchange
from addon.journal import Seldom
from addon.reply import PlainDoor
from addon.tickets import door_at
from ca.authority import AuthorityError

if TYPE_CHECKING:
    import ssl

    from mitmproxy.connection import Client

    from addon.doors.guests import Guest
    from addon.service import Service

log = logging.getLogger("mirrortap")

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_HANDSHAKE = b"\x16"  # what TLS begins with (RFC 8446, 5.1)


@dataclass(frozen=True)
class Tunnel:
    """Where a client wants to be connected to."""

    host: str
    port: int


class Handover:
    """Made inside a running event loop; `close` it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reception = Reception(service)
        self._contexts = Contexts(new_context)
        self._apart = Seldom(log)

    def take(self, client: Client, guest: Guest, tunnel: Tunnel) -> bool:
        """Whether the connection is ours from now on; not when mitmproxy has read into the tunnel already.

        It stays counted at the gate, until it has gone.
        """
        connection = live.take(client)
        if connection is None:
            return False
        self._reception.start(self._serve(connection, guest, tunnel))
        return True

    async def _serve(self, connection: socket.socket, guest: Guest, tunnel: Tunnel) -> None:
        way = None
        try:
            async with asyncio.timeout(self._service.config.admission.header):
                await asyncio.get_running_loop().sock_sendall(connection, _ESTABLISHED)
                tls = await _first_byte(connection) == _HANDSHAKE
            context = await self._context(tunnel.host) if tls else None
            door = self._plain_door(connection, guest.address)
            exchange = partial(TunnelExchange, self._service, tunnel, guest.config, door)
            # Clients open connections that they may come to need: the handshake has shown that it is one of those.
            way = Way(exchange, context, f"for {tunnel.host}", spare=tls)
        except TimeoutError:
            self._reception.too_late(guest.address)
        except AuthorityError as error:
            log.error("%s cannot be shown a certificate: %s", guest.address, error)
        except OSError:
            pass  # it has left
        finally:
            if way is None:
                connection.close()
                self._service.gate.leave(guest.address)
        if way:
            await self._reception.take_in(connection, guest.address, way)

    def _plain_door(self, connection: socket.socket, client: str) -> PlainDoor | None:
        """As the client reaches it, which has reached us here. Raises OSError."""
        listening = self._service.plain_doors
        if not listening:
            return None
        local = connection.getsockname()[0]
        url = door_at(local, listening)
        if url is None and self._service.config.redirects:
            self._apart.warning(
                "%s is not redirected: it comes to %s, where the mirror door does not listen; see --mirror-listen",
                client,
                local,
            )
        return PlainDoor(url, client) if url else None

    async def _context(self, host: str) -> ssl.SSLContext:
        """Raises AuthorityError."""
        return self._contexts.of(await self._service.valid_authority(), host)

    @property
    def busy(self) -> int:
        """Requests that are being answered."""
        return self._reception.busy

    async def leave(self) -> None:
        await self._reception.leave()

    async def close(self) -> None:
        await self._reception.close()


async def _first_byte(connection: socket.socket) -> bytes:
    """What the client begins with, left where it is; b"" when it has left. Raises OSError."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK)
