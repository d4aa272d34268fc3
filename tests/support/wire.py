"""A wire to a server that can hold back what goes through it, lose everything without a word, or break."""

from __future__ import annotations

import asyncio
import socket
from typing import Self

_PIECE = 1 << 16


class Wire:
    """Carries TCP to `endpoint` (host:port); its own `endpoint` is what clients are told.

    async with Wire(registry.endpoint) as wire:
        wire.hold()  # connections are made, and nothing comes through them until `release`
        await wire.go_dark()  # and none can be made any more: their SYNs are dropped, as by a firewall
        await wire.refuse()  # there is nobody any more

    `carried` counts the bytes that came back. `dies_after`: once they are so many, every connection ends and none is
    accepted any more, as when a process dies.
    """

    def __init__(self, endpoint: str, *, dies_after: int | None = None) -> None:
        host, _, port = endpoint.rpartition(":")
        self._to = host, int(port)
        self._dies_after = dies_after
        self._hold_at: int | None = None
        self.carried = 0
        self.connections = 0
        self.dead = False
        self._near: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fillers: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.endpoint = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()

    def hold(self) -> None:
        self._open.clear()

    def hold_at(self, carried: int) -> None:
        """Before there are more bytes than that, unless it is released by then."""
        self._hold_at = carried

    def release(self) -> None:
        self._hold_at = None
        self._open.set()

    async def go_dark(self) -> None:
        self.hold()
        self._accepting.cancel()
        # Linux drops the SYNs to a socket with a full backlog.
        self._socket.listen(0)
        while True:
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            connecting = asyncio.get_running_loop().sock_connect(filler, self._socket.getsockname())
            try:
                await asyncio.wait_for(connecting, 0.2)
            except TimeoutError:
                try:
                    filler.getpeername()
                except OSError:
                    return

    async def refuse(self) -> None:
        tasks = {self._accepting, *self._tasks}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in self._socket, *self._fillers:
            each.close()

    async def _accept(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._socket)
            task = asyncio.create_task(self._carry(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, client: socket.socket) -> None:
        near = await asyncio.open_connection(sock=client)
        self.connections += 1
        self._near.add(near[1])
        try:
            far = await asyncio.open_connection(*self._to)
        except OSError:
            near[1].transport.abort()
            return
        try:
            await asyncio.gather(self._pump(near[0], far[1]), self._back(far[0], near[1]))
        except ConnectionError:
            pass
        finally:
            self._near.discard(near[1])
            # What a process had sent before it died still arrives.
            if not self.dead:
                near[1].transport.abort()
            far[1].transport.abort()

    async def _back(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while not self.dead and (data := await source.read(_PIECE)):
            if self._hold_at is not None and self.carried + len(data) > self._hold_at:
                self.hold()
            await self._open.wait()
            if self._dies_after is not None:
                data = data[: max(0, self._dies_after - self.carried)]
            self.carried += len(data)
            sink.write(data)
            await sink.drain()
            if self._dies_after is not None and self.carried >= self._dies_after:
                self._die()
        await self._open.wait()
        sink.close()

    def _die(self) -> None:
        self.dead = True
        self._accepting.cancel()
        self._socket.close()
        for writer in self._near:
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_PIECE):
            await self._open.wait()
            sink.write(data)
            await sink.drain()
        await self._open.wait()
        sink.close()
