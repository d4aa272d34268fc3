"""A wire to a server that can hold back what goes through it, lose everything without a word, or break."""

from __future__ import annotations

import asyncio
import socket
from typing import Self


class Wire:
    """Carries TCP to `endpoint` (host:port); its own `endpoint` is what clients are told.

    async with Wire(registry.endpoint) as wire:
        wire.hold()  # connections are made, and nothing comes through them until `release`
        await wire.go_dark()  # and none can be made any more: their SYNs are dropped, as by a firewall
        await wire.refuse()  # there is nobody any more
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._to = host, int(port)
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

    def release(self) -> None:
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
        try:
            far = await asyncio.open_connection(*self._to)
        except OSError:
            near[1].transport.abort()
            return
        try:
            await asyncio.gather(self._pump(near[0], far[1]), self._pump(far[0], near[1]))
        except ConnectionError:
            pass
        finally:
            near[1].transport.abort()
            far[1].transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._open.wait()
            sink.write(data)
            await sink.drain()
        await self._open.wait()
        sink.close()
