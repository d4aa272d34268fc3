"""Connections that mitmproxy has open."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from mitmproxy import ctx

if TYPE_CHECKING:
    from mitmproxy.addons.proxyserver import Proxyserver
    from mitmproxy.connection import Client

log = logging.getLogger("mirrortap")


def proxyserver() -> Proxyserver:
    server: Proxyserver = ctx.master.addons.get("proxyserver")
    return server


def listening() -> list[tuple[str, int]]:
    """Where this proxy listens."""
    return [(host, port) for host, port, *_ in proxyserver().listen_addrs()]


async def sent() -> None:
    """Until all that was written to clients is on its way."""
    for connection in list(proxyserver().connections.values()):
        for stream in list(connection.transports.values()):
            if isinstance(stream.writer, asyncio.StreamWriter):
                # Else a buffer that is not full counts as empty.
                stream.writer.transport.set_write_buffer_limits(high=0)
                with suppress(OSError):
                    await stream.writer.drain()


def writer(client: Client) -> asyncio.StreamWriter:
    """The client's connection. Raises KeyError when it is gone."""
    found = proxyserver().connections[client.id].transports[client].writer
    assert isinstance(found, asyncio.StreamWriter)
    return found


def transport(client: Client) -> asyncio.Transport:
    """The same, as something whose reading can be held back. Raises KeyError."""
    found = writer(client).transport
    assert isinstance(found, asyncio.Transport)
    return found


def take(client: Client) -> socket.socket | None:
    """The connection, which mitmproxy believes to be at its end from now on; None when it has read of it what is not
    in its layers yet."""
    stream = proxyserver().connections[client.id].transports[client]
    assert isinstance(stream.reader, asyncio.StreamReader)
    # There is no public way to ask.
    if stream.reader._buffer:  # type: ignore[attr-defined]
        return None
    leaving = transport(client)
    leaving.pause_reading()
    taken = socket.socket(fileno=os.dup(leaving.get_extra_info("socket").fileno()))
    taken.setblocking(False)
    leaving.abort()
    return taken


def led_on(client: str) -> bool:
    """Whether the client of this id has a connection to somewhere else, or gets one."""
    found = proxyserver().connections.get(client)
    return found is not None and len(found.transports) > 1


def close(client: str) -> None:
    """Ends the connection of the client of this id, when all is sent."""
    with suppress(KeyError):
        found = proxyserver().connections[client]
        if stream := found.transports[found.client].writer:
            stream.close()


def close_all(client: str) -> None:
    """Ends all that mitmproxy has open for the client of this id, and is through with. It does so itself, but not where
    it was told to close a connection just as more came of it: its task ends then before it comes to that."""
    found = proxyserver().connections.get(client)
    for stream in found.transports.values() if found else ():
        if isinstance(stream.writer, asyncio.StreamWriter):
            stream.writer.close()


def hold(client: Client) -> None:
    """Nothing more is read of it until `release`."""
    with suppress(KeyError):
        transport(client).pause_reading()


def release(client: Client) -> None:
    with suppress(KeyError):
        transport(client).resume_reading()


def hang_up(client: Client, reason: str) -> None:
    log.error("%s %s", peer(client), reason)
    with suppress(KeyError):
        writer(client).transport.abort()


def peer(client: Client) -> str:
    return client.peername[0] if client.peername else "a client"
