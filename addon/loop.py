"""An event loop whose TLS works on the socket itself.

asyncio's own keeps TLS between two buffers in memory, which costs a large body three copies and a Python call or two a
record. Here OpenSSL reads and writes the socket itself, files are sent from a buffer that is small enough to stay in
the processor (`TlsTransport.write_file`), and a connection can be handed over to a thread (`TlsTransport.take`).

Every TLS connection that is made by way of the loop is such a one, but for those that `start_tls` makes of others.
tests/unit/test_loop.py fails when a new Python moves what is used here of asyncio's inside.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from asyncio.transports import _FlowControlMixin
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Bytes that one connection reads or writes before it is another's turn.
_READ, _WRITE = 256 << 10, 1 << 20
# Bytes given to OpenSSL at once: what of it did not fit into the socket is only known when all of it did.
_PIECE = 256 << 10
# Bytes of a file that are read at once.
_FILE_PIECE = 128 << 10
# Bytes up to which pieces are written as one: each would get a record, and a system call, of its own.
_JOINED = 64 << 10
# Seconds as in asyncio, where nothing is said.
_HANDSHAKE, _FAREWELL = 60.0, 30.0


class Loop(asyncio.SelectorEventLoop):
    """For asyncio.Runner's `loop_factory`."""

    def __init__(self) -> None:
        super().__init__()
        # For all: what was read is copied out of it at once. Memory that was never touched is dear.
        self.buffer = memoryview(bytearray(_READ))

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, object] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        call_connection_made: bool = True,
    ) -> TlsTransport:
        """Where asyncio makes its own."""
        assert isinstance(protocol, asyncio.Protocol)
        assert call_connection_made
        transport = TlsTransport(self, protocol, waiter, server, ssl_shutdown_timeout or _FAREWELL)
        transport.start(rawsock, sslcontext, server_side, server_hostname, ssl_handshake_timeout or _HANDSHAKE)
        return transport


class TlsTransport(_FlowControlMixin, asyncio.Transport):
    """A TLS connection."""

    _loop: Loop
    _sock: ssl.SSLSocket
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]

    def __init__(
        self,
        loop: Loop,
        protocol: asyncio.Protocol,
        waiter: asyncio.Future[None] | None,
        server: Any,
        farewell: float,
    ) -> None:
        """`waiter` hears of the end of the handshake; `farewell`: seconds that the other side gets to say it."""
        super().__init__(None, loop)
        self._protocol = protocol
        self._waiter = waiter
        self._server = server
        # Servers count their connections; from Python 3.13 on they know which.
        self._as_counted = (self,) if sys.version_info >= (3, 13) else ()
        self._farewell = farewell
        self._unsent: deque[memoryview] = deque()
        self._paused = False
        self._open = False
        self._closing = False
        self._lost = False
        self._timer: asyncio.TimerHandle | None = None

    # The handshake.

    def start(
        self, sock: socket.socket, context: ssl.SSLContext, server_side: bool, hostname: str | None, patience: float
    ) -> None:
        """Takes the socket over; errors go to the waiter. `patience`: seconds for the handshake."""
        try:
            peer = sock.getpeername()
            # As asyncio's own: small bodies must not wait for an acknowledgement of their heads.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock = context.wrap_socket(
                sock,
                server_side=server_side,
                do_handshake_on_connect=False,
                server_hostname=None if server_side else hostname,
            )
        except (OSError, ValueError) as error:
            sock.close()
            self._lost = self._closing = True
            self._tell_waiter(error)
            return
        # As long as they can be had.
        self._names = {"sockname": self._sock.getsockname(), "peername": peer}
        if self._server is not None:
            self._server._attach(*self._as_counted)
        self._timer = self._loop.call_later(patience, self._too_late, patience)
        self._shake_hands()

    def _shake_hands(self) -> None:
        fd = self._sock.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.add_reader(fd, self._shake_hands)
        except ssl.SSLWantWriteError:
            self._loop.add_writer(fd, self._shake_hands)
        except ssl.SSLEOFError:
            self._break(ConnectionResetError())
        except (OSError, ValueError) as error:
            self._break(error)
        else:
            self._cancel_timer()
            self._open = True
            self._protocol.connection_made(self)
            self._tell_waiter(None)
            if not self._paused and not self._closing:
                self._loop.add_reader(fd, self._read)
                # The first request may have come with the end of the handshake.
                self._loop.call_soon(self._read)

    def _too_late(self, patience: float) -> None:
        self._break(ConnectionAbortedError(f"the TLS handshake took longer than {patience:g} s"))

    def _tell_waiter(self, error: Exception | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if error:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)

    # Reading.

    def _read(self) -> None:
        if self._paused or self._closing:
            return
        count, buffer = 0, self._loop.buffer
        end = False
        try:
            while count < _READ and not end:
                got = self._sock.recv_into(buffer[count:])
                count += got
                end = not got
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._deliver(count)
            self._break(error)
            return
        else:
            if not end:
                # OpenSSL may have more that the selector does not know of.
                self._loop.call_soon(self._read)
        self._deliver(count)
        if end and not self._closing:
            # TLS ends in both directions at once (RFC 8446, 6.1, lets us): there is nothing to be kept open.
            self._protocol.eof_received()
            self.close()

    def _deliver(self, count: int) -> None:
        if count:
            try:
                self._protocol.data_received(bytes(self._loop.buffer[:count]))
            except BaseException as error:
                self._break(error if isinstance(error, Exception) else None)
                raise

    def pause_reading(self) -> None:
        if not self._paused and not self._closing:
            self._paused = True
            self._loop.remove_reader(self._sock.fileno())

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._loop.add_reader(self._sock.fileno(), self._read)
            self._loop.call_soon(self._read)

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """What cannot be sent at once is copied, unless it is bytes: a buffer may be used again."""
        if self._closing or not data:
            return
        idle = not self._unsent
        view = memoryview(data)
        self._unsent.append(view if view.itemsize == 1 and view.ndim == 1 else view.cast("B"))
        if idle and self._open:
            self._send(_WRITE)
            if self._unsent and not self._lost:
                self._loop.add_writer(self._sock.fileno(), self._write)
        if self._unsent and not isinstance(data, bytes):
            # A write that is tried again may be of the same bytes in another place: Python's ssl has allowed that.
            self._unsent.append(memoryview(bytes(self._unsent.pop())))
        self._maybe_pause_protocol()

    def write_file(self, fd: int, offset: int, count: int) -> int:
        """Writes what can be read of the file without waiting for the disk, and sent at once or nearly. How much."""
        written = 0
        # One buffer that stays in the processor's own memory: half as dear as a large one.
        buffer = self._loop.buffer[:_FILE_PIECE]
        while written < min(count, _WRITE) and not self._unsent and not self._closing:
            try:
                got = os.preadv(fd, [buffer[: count - written]], offset + written, os.RWF_NOWAIT)
            except OSError:
                break
            if not got:
                break
            written += got
            self._send_at_once(buffer[:got])
        return written

    def _send_at_once(self, piece: memoryview) -> None:
        """Without a place in the queue, which is empty, unless it does not fit into the socket."""
        try:
            piece = piece[self._sock.send(piece) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._break(error)
            return
        if piece:
            # A write that is tried again may be of the same bytes in another place: Python's ssl has allowed that.
            self._unsent.append(memoryview(bytes(piece)))
            self._loop.add_writer(self._sock.fileno(), self._write)
            self._maybe_pause_protocol()

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        listed = list(pieces)
        if sum(map(len, listed)) <= _JOINED:
            listed = [b"".join(listed)]
        for piece in listed:
            self.write(piece)

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._unsent))

    def _write(self) -> None:
        self._send(_WRITE)
        if self._lost:
            return
        self._maybe_resume_protocol()
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())
            if self._closing:
                self._say_farewell()

    def _send(self, most: int) -> None:
        """As much as the socket takes."""
        try:
            while self._unsent and most > 0:
                view = self._unsent[0]
                # A write that has to be tried again must be of the same bytes (SSL_write(3)).
                sent = self._sock.send(view[:_PIECE])
                most -= sent
                if sent == len(view):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = view[sent:]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._break(error)

    def can_write_eof(self) -> bool:
        return False

    # The end.

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """When all is sent."""
        if self._closing:
            return
        if not self._open:
            self.abort()
            return
        self._closing = True
        self._loop.remove_reader(self._sock.fileno())
        if not self._unsent:
            self._say_farewell()

    def _say_farewell(self) -> None:
        """And waits for the other side's: to close a socket in which there is something to read would be a reset."""
        if self._lost:
            return
        fd = self._sock.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        if not self._timer:
            self._timer = self._loop.call_later(self._farewell, self._break, None)
        try:
            self._sock.unwrap()
        except ssl.SSLWantReadError:
            self._loop.add_reader(fd, self._say_farewell)
        except ssl.SSLWantWriteError:
            self._loop.add_writer(fd, self._say_farewell)
        except (OSError, ValueError):
            self._break(None)
        else:
            self._break(None)

    def abort(self) -> None:
        self._break(None)

    def _break(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._release()
        if self._open:
            self._loop.call_soon(self._tell_protocol, error)
        else:
            self._sock.close()
            self._detach()
            self._tell_waiter(error or ConnectionAbortedError("the connection was closed"))

    def _tell_protocol(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()
            self._detach()

    def _detach(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server._detach(*self._as_counted)

    def _release(self) -> None:
        """Nothing is done with the socket from now on."""
        self._lost = self._closing = True
        self._unsent.clear()
        self._cancel_timer()
        if (fd := self._sock.fileno()) >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer:
            timer.cancel()

    def take(self) -> ssl.SSLSocket:
        """The socket, which is the caller's from now on; it does not block. The protocol hears no more of it."""
        assert self._open
        self._release()
        self._detach()
        return self._sock

    # What it is.

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        tell: Callable[[], object] | None = {
            "socket": lambda: self._sock,
            "ssl_object": lambda: self._sock,
            "sslcontext": lambda: self._sock.context,
            "sockname": lambda: self._names["sockname"],
            "peername": lambda: self._names["peername"],
            "peercert": lambda: self._sock.getpeercert(),
            "cipher": lambda: self._sock.cipher(),
        }.get(name)
        try:
            return tell() if tell else default
        except (OSError, ValueError):
            return default  # it is gone
