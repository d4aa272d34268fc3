"""A parent proxy: CONNECT and plain http requests, for whoever logs in, with names that nobody else knows."""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, TypedDict

USER, PASSWORD = "corp\\ann", "p@ss/w:rd#%é"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
IN_URL = "corp%5Cann:p%40ss%2Fw:rd%23%25%C3%A9"
# A Proxy-Authorization that is shown elsewhere gives the password away; so do these.
SECRETS = (PASSWORD, IN_URL, IN_URL.partition(":")[2], LOGIN.split()[1])


class Environment(TypedDict):
    HTTPS_PROXY: str
    HTTP_PROXY: str


@dataclass(frozen=True)
class Asked:
    """A request to the proxy itself; `target` as it stood in its first line."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case


class ParentProxy:
    """Listens on 127.0.0.1 while entered. Every name is 127.0.0.1 to it, at the port that is asked for.

    `answers`: instead of going there, for targets that contain the key.
    """

    def __init__(self, login: str | None = LOGIN) -> None:
        self._login = login
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[Asked] = []
        self.answers: dict[str, bytes] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> Environment:
        """Of programs that are to use it."""
        return {"HTTPS_PROXY": self.url, "HTTP_PROXY": self.url}

    @property
    def url(self) -> str:
        return f"http://{IN_URL}@{self.endpoint}"

    def tunnels(self) -> list[str]:
        """The targets of the CONNECTs that were let through."""
        return [asked.target for asked in self.asked if asked.method == "CONNECT" and self._known(asked)]

    def _known(self, asked: Asked) -> bool:
        return self._login is None or asked.headers.get("proxy-authorization") == self._login

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        asked = Asked(method, target, headers)
        self.asked.append(asked)
        canned = next((answer for part, answer in self.answers.items() if part in target), None)
        if canned is not None or not self._known(asked):
            writer.write(
                canned or b"HTTP/1.1 407 Who Are You\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
            )
            await writer.drain()
            await reader.read()
            return
        match = re.fullmatch(r"(?:http://)?([^/]+?):?(\d*)(/.*)?", target)
        assert match, target
        there, onward = await asyncio.open_connection("127.0.0.1", int(match[2] or 80))
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [line for line in lines if line and not line.lower().startswith(("proxy-", "connection"))]
                onward.write(
                    "\r\n".join((f"{method} {match[3]} HTTP/1.1", *kept, "Connection: close", "", "")).encode()
                )
            await asyncio.gather(_copy(reader, onward), _copy(there, writer))
        finally:
            onward.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while piece := await source.read(1 << 16):
        sink.write(piece)
        await sink.drain()
    with suppress(OSError):
        sink.write_eof()
