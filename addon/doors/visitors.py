"""One client's connection that aiohttp serves, held to the gate's limits."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from aiohttp import EMPTY_PAYLOAD
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web import RequestHandler, Response, Server
from mitmproxy.net.tls import starts_like_tls_record

from addon.doors.guests import Guest
from addon.loop import TlsTransport
from addon.oci import OciError

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

    from aiohttp import StreamReader
    from aiohttp.web import BaseRequest, StreamResponse

    from addon.body import FileSlice
    from addon.config.model import Admission

MAX_HEAD = 64 << 10
"""Bytes that the head of a request may have."""
SERVER = "mirrortap"
"""Else aiohttp says what it is itself, and of which version."""
# Headers, and bytes of one of them, or of the request line: signed URLs and tokens come to a few KiB.
_MAX_HEADERS, _MAX_FIELD = 128, 16 << 10
# Seconds that a connection stays for one more request when another process has taken over: who is just asking when
# it is closed gets no answer.
GRACE = 5.0
# Where tcp_info has how many bytes were acknowledged and received (linux/tcp.h: tcpi_bytes_acked and the next).
_TCP_INFO, _AT = struct.Struct("=QQ"), 120
# socket(7): close() drops what was not sent, and sends a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Waiting:
    """A `with` block during which somebody waits."""

    def __init__(self) -> None:
        self.now = False

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, *_: object) -> None:
        self.now = False


class Visitor(RequestHandler):
    """`cut` says why the connection was broken off, when it was by us; `looks_on`, whether what it gets has no end."""

    def __init__(
        self,
        server: Server,
        address: str,
        limits: Admission,
        log: Logger,
        late: Callable[[], None],
        odd: Callable[[str], None],
        left: Callable[[Visitor], None],
        *,
        spare: bool,
    ) -> None:
        """`late` is called when it is hung up on because it keeps us waiting, `odd` when it sends what is no HTTP,
        with what to say of that (%s: where); `left` when it has gone.

        `spare`: it need not ask anything soon.
        """
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle,
            max_line_size=_MAX_FIELD,
            max_field_size=_MAX_FIELD,
            max_headers=_MAX_HEADERS,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
            logger=log,
        )
        self.address = address
        self.cut: str | None = None
        self.looks_on = False
        self._limits = limits
        self._guest = Guest(address, limits.header, self._hang_up)
        self._late = late
        self._odd = odd
        self._left = left
        self._spare = spare
        self._heard = False  # anything
        self._head = 0  # bytes of the next one that have come
        self._awaited = False
        self._asked = False  # something that is not answered yet
        self._waiting = Waiting()
        self._body: StreamReader = EMPTY_PAYLOAD
        self._sending: asyncio.Future[int] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._moved, self._since = (0, 0), 0.0
        self._leaving: asyncio.TimerHandle | None = None

    # A connection's life, as asyncio tells it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport.get_extra_info("socket")
        if not self._spare:
            self._await()
        self._since = time.monotonic()
        self._watch()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._guest.left()
        for timer in self._watching, self._leaving:
            if timer:
                timer.cancel()
        super().connection_lost(exc)
        self._left(self)

    def data_received(self, data: bytes) -> None:
        if not self._heard and starts_like_tls_record(data):
            # aiohttp would wait for a line to end.
            self._odd(
                "speaks TLS %s, where http is spoken: write http:// there, or have it speak TLS with --mirror-tls"
            )
            self._refuse(OciError(400, "UNSUPPORTED", "here http is spoken, not https"))
            return
        self._heard = True
        # aiohttp reads what is left of a body when it has been answered, for a while.
        if not self._asked and self._body.is_eof():
            if not self._awaited:
                self._await()
            self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD:
            # When aiohttp has told of a whole head, if there is one: the rest is a body.
            asyncio.get_running_loop().call_soon(self._look_at_head)

    # What the door tells.

    def asked(self, body: StreamReader) -> None:
        """A request's head has come; its body may follow."""
        self._guest.heard()
        self._body = body
        self._awaited, self._head, self._asked = False, 0, True

    def answered(self) -> None:
        """What it asked for has been written."""
        self._asked = self.looks_on = False
        if self._leaving:
            self.leave()

    def leave(self) -> None:
        """Its next answer is the last (`last`); it is hung up on when it asks nothing for a while."""
        if self._leaving:
            self._leaving.cancel()
        self._leaving = asyncio.get_running_loop().call_later(GRACE, self._go)

    @property
    def last(self) -> bool:
        """Whether the answer that begins now is the last one."""
        return self._leaving is not None

    def _go(self) -> None:
        if self.transport is None:
            self.leave()  # it is still in its TLS handshake
        elif not self._asked and not self._awaited:
            # Who has begun to ask is held to the header-timeout, and gets its answer.
            self.force_close()

    async def send_file(self, part: FileSlice) -> int:
        """Without more copies than it takes. Bytes sent: all of them, unless something failed."""
        if isinstance(self.transport, TlsTransport):
            return await self._write_file(self.transport, part)
        if self.transport is None or self.transport.get_extra_info("sslcontext"):
            return 0
        os.lseek(part.fd, part.offset, os.SEEK_SET)
        with io.FileIO(part.fd, closefd=False) as file:
            sending = asyncio.get_running_loop().sendfile(self.transport, file, part.offset, part.count, fallback=False)
            self._sending = asyncio.ensure_future(sending)
            try:
                return await self._sending
            except (OSError, RuntimeError):
                # asyncio leaves the position where it came to.
                return os.lseek(part.fd, 0, os.SEEK_CUR) - part.offset
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task and task.cancelling():
                    raise
                return 0  # by `abort`
            finally:
                self._sending = None

    async def _write_file(self, transport: TlsTransport, part: FileSlice) -> int:
        written = 0
        while count := transport.write_file(part.fd, part.offset + written, part.count - written):
            written += count
            # Else a client that takes all as quickly as we send it would keep the others waiting.
            await asyncio.sleep(0)
            await self._drain_helper()
        return written

    def waiting(self) -> Waiting:
        """Meanwhile it waits for us, and not we for it."""
        return self._waiting

    def abort(self, why: str, *, reset: bool = False) -> None:
        """Ends the connection at once. `reset`: what has no length of its own must not look complete by that."""
        self.cut = self.cut or why
        if self._sending:
            # First: asyncio would go on watching the closed descriptor, which another connection gets.
            self._sending.cancel()
        if self.transport:
            if reset:
                # RFC 9112, 6.3: the mere end of the connection would be that of the body.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()

    # Limits.

    def _await(self) -> None:
        self._awaited = True
        self._guest.awaited()

    def _look_at_head(self) -> None:
        if self._head > MAX_HEAD:
            self._refuse(too_long())

    def _hang_up(self) -> None:
        self._late()
        if self._head:
            self._refuse(OciError(408, "UNSUPPORTED", f"the request's head took longer than {self._limits.header:g} s"))
        else:
            self.abort("header-timeout")

    def _refuse(self, problem: OciError) -> None:
        """Past aiohttp, which waits for a whole head."""
        if self.transport:
            body = problem.body()
            head = f"HTTP/1.1 {problem.status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            self.force_close()

    def _watch(self) -> None:
        moved, now = self._bytes_moved(), time.monotonic()
        if moved != self._moved or self._waiting.now:
            self._moved, self._since = moved, now
        elif now - self._since >= self._limits.idle:
            self.abort("the client has stopped reading (idle-timeout)")
            return
        self._watching = asyncio.get_running_loop().call_later(self._limits.idle / 4, self._watch)

    def _bytes_moved(self) -> tuple[int, int]:
        """What the client has taken, and given: what it was written or sent from counts when it has arrived."""
        info: bytes = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _AT + _TCP_INFO.size)
        taken, given = _TCP_INFO.unpack_from(info, _AT)
        return taken, given

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """aiohttp's answer to what it cannot parse."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        problem = OciError(500, "UNKNOWN", "a fault in mirrortap; its log says more")
        if isinstance(exc, LineTooLong):
            problem = too_long()
        elif status < 500:
            self._odd("sent what is not valid HTTP/1.1 %s")
            problem = OciError(status, "UNSUPPORTED", "the request is not valid HTTP/1.1")
        else:
            self.logger.error("a fault in mirrortap", exc_info=exc)
        headers = {"Content-Type": "application/json", "Server": SERVER}
        response = Response(status=problem.status, body=problem.body(), headers=headers)
        response.force_close()
        return response


def too_long() -> OciError:
    return OciError(431, "UNSUPPORTED", f"the request's head has more than {MAX_HEAD} bytes")
