"""A machine of its own as far as the network goes: names and addresses as on the internet, all of them on loopback.

Needs to be root. Nothing is left when the last process that was started there has ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from support.processes import require, run
from support.threads import LoopThread

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

_TLS_RECORD = b"\x16"


class Island(LoopThread):
    """A loop thread in network and mount namespaces of its own, where /etc/hosts says `hosts` (name: address).

    `etc` has more files for /etc ("config/ca.pem"). `do` and `start` act in there: what they open lives on the island,
    and so do the programs that they start.
    """

    def __init__(self, folder: Path, hosts: Mapping[str, str], etc: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        require("ip", "mount")
        self._folder = folder
        self._hosts = hosts
        self._etc = etc or {}
        self._programs = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        # Namespaces are a thread's, and its threads and processes inherit them.
        self.run(self._settle())
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._programs.close()
        finally:
            super().__exit__(*exc)

    def do[T](self, function: Callable[..., T], *args: Any, timeout: float = 120, **kwargs: Any) -> T:
        async def there() -> T:
            return await asyncio.to_thread(function, *args, **kwargs)

        return self.run(there(), timeout)

    def start[T](self, manager: AbstractContextManager[T]) -> T:
        """Enters it there; it ends with the island, last first."""
        entered = self.do(manager.__enter__)
        self._programs.push(manager)
        return entered

    async def _settle(self) -> None:
        os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
        self._run("mount", "--make-rprivate", "/")
        self._settle_etc()
        self._run("ip", "link", "set", "lo", "up")
        for address in sorted(set(self._hosts.values())):
            if not address.startswith("127."):
                self._run("ip", "address", "add", address, "dev", "lo")

    def _settle_etc(self) -> None:
        """The machine's /etc, seen through links, but for the files of the island's own."""
        real, own = self._folder / "real", self._folder / "etc"
        for each in real, own:
            each.mkdir(parents=True)
        self._run("mount", "--rbind", "/etc", str(real))
        hosts = "".join(f"{address} {name}\n" for name, address in self._hosts.items())
        for name, data in {"hosts": hosts.encode(), **self._etc}.items():
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).write_bytes(data)
        for each in real.iterdir():
            if not (own / each.name).exists():
                (own / each.name).symlink_to(each)
        self._run("mount", "--bind", str(own), "/etc")

    def _run(self, *command: str) -> None:
        run(command, env={"PATH": os.environ["PATH"]})


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    endpoint: str  # scheme://host[:port], from the Host header
    method: str
    path: str
    query: str


class Witness:
    """Servers that have nothing (404) and write down who is asked for what, in order. One port may speak TLS and not.

    async with Witness() as witness:
        await witness.listen("192.0.2.1", 443, tls=context, plain=False)
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = web.Server(self._answer)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._sockets:
            each.close()
        await self._server.shutdown(0.1)

    async def listen(self, address: str, port: int, *, tls: ssl.SSLContext | None = None, plain: bool = False) -> None:
        listening = socket.create_server((address, port))
        listening.setblocking(False)
        self._sockets.append(listening)
        self._begin(self._accept(listening, tls, plain))

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None, plain: bool) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listening)
            self._begin(self._serve(client, tls, plain))

    async def _serve(self, client: socket.socket, tls: ssl.SSLContext | None, plain: bool) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(client, readable.set)
        await readable.wait()
        loop.remove_reader(client)
        with suppress(OSError):
            encrypted = client.recv(1, socket.MSG_PEEK) == _TLS_RECORD
            if not (tls if encrypted else plain):
                client.close()
                return
            await loop.connect_accepted_socket(self._server, client, ssl=tls if encrypted else None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
        if request.path.endswith("/v2/"):
            # Not written down: clients ask it before anything else, or not at all.
            return web.json_response({}, headers=headers)
        self.asked.append(
            Asked(f"{request.scheme}://{request.host}", request.method, request.path, request.query_string)
        )
        error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return web.json_response(error, status=404, headers=headers)
