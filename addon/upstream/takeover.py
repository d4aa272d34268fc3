"""The rest of a long body, read by a thread straight from its connection.

aiohttp and asyncio have had the head of the answer; of the body they would make pieces of fresh memory, on the event
loop: twice the CPU time. This is the one file that knows how a connection is taken from them.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

import aiohttp

from addon.loop import TlsTransport

if TYPE_CHECKING:
    import asyncio

# Bytes that must be left to come: a shorter body is not worth a thread, and a connection that could be used again.
_WORTH = 1 << 20
# While data keeps coming, a reader is woken for so many bytes, or after so many seconds for what there is.
_ENOUGH, _MOMENT = 256 << 10, 0.01


class Taken:
    """The rest of a body, `left` bytes of it. All but `stop` is for one thread at a time."""

    def __init__(self, connection: socket.socket, begun: bytes, left: int, stall: float | None) -> None:
        """`begun`: what has been read already of those `left` bytes. `stall`: seconds without any, at most."""
        self.left = left
        self._connection = connection
        self._begun = memoryview(begun)
        self._stall = stall
        self._stopped = False
        self._enough = 1  # bytes that make the socket readable
        self._flowing = True  # whether the last look found something
        self._latest = time.monotonic()  # when it did
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def fill(self, buffer: memoryview) -> int:
        """How many bytes are at hand and now in the buffer, from its beginning. Does not wait.

        Raises aiohttp.ClientPayloadError when no more will come, though there should.
        """
        if self._begun:
            count = min(len(buffer), len(self._begun))
            buffer[:count], self._begun = self._begun[:count], self._begun[count:]
        else:
            count = self._receive(buffer[: self.left])
        self.left -= count
        self._flowing = count > 0
        if count:
            self._latest = time.monotonic()
        return count

    def _receive(self, buffer: memoryview) -> int:
        count = 0
        while count < len(buffer):
            try:
                # Of TLS, a record of at most 16 KiB.
                received = self._connection.recv_into(buffer[count:])
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            except OSError:
                received = 0
            if not received and not count:
                raise aiohttp.ClientPayloadError
            if not received or self._stopped:
                break
            count += received
        return count

    def wait(self) -> float:
        """Until there may be more; how many seconds that took. Raises aiohttp.SocketTimeoutError after `stall`."""
        begun = time.monotonic()
        if self._flowing:
            self._wake_for(min(_ENOUGH, self.left))
            self._poll.poll(_MOMENT * 1000)
        else:
            self._wake_for(1)
            patience = None if self._stall is None else max(0.0, self._latest + self._stall - begun) * 1000
            if not self._poll.poll(patience):
                raise aiohttp.SocketTimeoutError
        return time.monotonic() - begun

    def stop(self) -> None:
        """From any thread: nothing more will come, which also ends a `wait`."""
        self._stopped = True
        # Not SSLSocket's own, which makes it a plain socket under the eyes of who reads from it.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _wake_for(self, count: int) -> None:
        """Lets `poll` wait for so many bytes, or that there will be no more: SO_RCVLOWAT of socket(7)."""
        if count != self._enough:
            self._enough = count
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def take_over(response: aiohttp.ClientResponse) -> Taken | None:
    """What is left of the body; None where there is too little, or no way to it but aiohttp's.

    The connection is then nobody else's. It will be closed after this one body: asyncio cannot be given it back.
    """
    content, connection = response.content, response.connection
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length) or content.exception():
        return None
    if int(length) - content.total_bytes < _WORTH:
        return None
    # A protocol with no message in its queue is false.
    if connection is None or connection.protocol is None or connection.transport is None:
        return None
    if not _can_let_go(connection.transport):
        return None
    begun = b""
    # Reading makes aiohttp parse more of what it has received.
    while piece := content.read_nowait():
        begun += piece
    left = int(length) - content.total_bytes + len(begun)
    taken = Taken(_let_go(connection.transport), begun, left, connection.protocol.read_timeout)
    response.close()
    return taken


def _can_let_go(transport: asyncio.Transport) -> bool:
    """Whether no more has been read from the socket than was passed on: asyncio's own TLS reads ahead."""
    bare = isinstance(transport, TlsTransport) or transport.get_extra_info("sslcontext") is None
    return bare and not transport.is_closing()


def _let_go(transport: asyncio.Transport) -> socket.socket:
    """The connection, non-blocking. The transport has still to be closed."""
    if isinstance(transport, TlsTransport):
        return transport.take()
    transport.pause_reading()
    taken: socket.socket = transport.get_extra_info("socket").dup()
    return taken
