"""The mirror door in this process, over real sockets."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from contextlib import closing
from typing import TYPE_CHECKING, Self

from addon.doors.listening import bind
from addon.doors.mirror import MirrorDoor
from addon.service import Service
from support.proxy import Response, exchange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Mirror:
    """A service and its mirror door: `loop_thread.enter(Mirror(folder, config))`."""

    def __init__(self, folder: Path, config: str, names: Sequence[str] = ()) -> None:
        self.cache = folder / "data" / "cache"
        self.ca = folder / "data" / "ca" / "ca.crt"
        self._folder = folder
        self._config = config
        self._names = names

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "mirrortap.toml"
        file.write_text(self._config)
        self.service = Service([file], self._folder / "data", own_names=self._names)
        listeners = bind("127.0.0.1", 0)
        self.address: tuple[str, int] = listeners[0].getsockname()
        self.loop = asyncio.get_running_loop()
        # As mitmproxy's loop does.
        self.loop.set_task_factory(asyncio.eager_task_factory)
        self.door = MirrorDoor(self.service, listeners, self._names)
        self.door.running()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.door.close()
        await self.service.close()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(self.address, timeout=30, source_address=(source, 0))

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=30)

    def tls(self, name: str | None) -> ssl.SSLSocket:
        """To the name, as a client that trusts the CA and nothing else."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = name is not None
        return context.wrap_socket(self.connect(), server_hostname=name)

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        with closing(self.client()) as connection:
            return exchange(connection, method, path, headers, body)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", path, headers)
