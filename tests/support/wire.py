"""A faulty line: TCP to a server and back, with the faults that no HTTP server would produce by itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

_PIECE = 1 << 18


class Wire:
    """Passes connections on to `target`.

    `dies_after`: once so many bytes have come back from the target, in all, every connection ends and none is
    accepted any more. `carried` counts those bytes. `hold_at`: no more than that come back, until `let_go`.
    """

    def __init__(self, target: str, dies_after: int | None = None, hold_at: int | None = None) -> None:
        self._target = target
        self._hold_at = hold_at
        self._let_go = asyncio.Event()
        self.dies_after = dies_after
        self.carried = 0
        self.connections = 0
        self._open: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dead(self) -> bool:
        return not self._server.is_serving()

    def let_go(self) -> None:
        """For the loop's own thread."""
        self._let_go.set()

    def cut(self) -> None:
        """Ends every connection, when what was sent has arrived, and refuses new ones: what a kernel does for a process
        that dies."""
        self._server.close()
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            host, _, port = self._target.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            self._open |= {writer, far_writer}
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_pass(reader, far_writer), self._back(far_reader, writer))
            self._open -= {writer, far_writer}
            far_writer.transport.abort()
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _back(self, reader: StreamReader, writer: StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if self._hold_at is not None and self.carried + len(piece) > self._hold_at:
                await self._let_go.wait()
            if self.dies_after is not None:
                piece = piece[: max(0, self.dies_after - self.carried)]
            self.carried += len(piece)
            writer.write(piece)
            await writer.drain()
            if self.dies_after is not None and self.carried >= self.dies_after:
                self.cut()
                return
        writer.close()


async def _pass(reader: StreamReader, writer: StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()


class BlackHole:
    """An address where connections are neither accepted nor refused: the queue of those that wait is full."""

    def __init__(self) -> None:
        self._listening = socket.socket()
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(0)
        self.endpoint = f"127.0.0.1:{self._listening.getsockname()[1]}"
        # One more than the queue takes: the last one gets no answer already.
        for _ in range(8):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(self._listening.getsockname())
            self._waiting.append(waiting)
        return self

    def __exit__(self, *exc: object) -> None:
        for sock in (*self._waiting, self._listening):
            sock.close()
