"""The engine as a door sees it, and servers that speak HTTP no registry would."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from multidict import CIMultiDict
from support.config import toml
from support.costs import counted
from support.images import sha256
from support.registry import FakeRegistry

from addon import oci
from addon.body import BodyCut
from addon.cache.cache import Cache
from addon.cache.janitor import Janitor
from addon.config.current import Current
from addon.counts.tally import Tally
from addon.engine import Engine
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.oci import Digest
from addon.pulls.access import Access
from addon.pulls.fills import Fills
from addon.pulls.prefetch import Prefetch
from addon.reply import Reply, Request, Served
from addon.tickets import Tickets
from addon.upstream.client import Upstream

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.certificates import Authority
    from support.config import Table
    from support.costs import Costs

    from addon.config.model import Config, Space
    from addon.parent import Parents

REGISTRY = "registry.test"
NAME = "library/app"
TAG = f"/v2/{NAME}/manifests/1.0"


def blob(digest: str, name: str = NAME) -> str:
    return f"/v2/{name}/blobs/{digest}"


def manifest(reference: str, name: str = NAME) -> str:
    return f"/v2/{name}/manifests/{reference}"


@dataclass(frozen=True)
class Got:
    """A reply, its body read as far as it came."""

    status: int
    headers: CIMultiDict[str]
    data: bytes
    cut: str | None  # why the transfer was broken off
    served: Served

    @property
    def digest(self) -> str:
        return sha256(self.data)

    @property
    def error(self) -> dict[str, Any]:
        """The one error of an OCI error body."""
        assert self.headers["Content-Type"] == "application/json"
        (error,) = json.loads(self.data)["errors"]
        assert isinstance(error, dict)
        return error


class Proxy:
    """An engine with a data folder. Ask it what a client would. Its janitor works when a test says so.

    `waits`: the clock by which it waits for clients to ask for what it prefetches.
    """

    def __init__(
        self,
        config: Config,
        data: Path,
        clock: Callable[[], float] = time.time,
        grace: float = 0.0,
        space: Space | None = None,
        key: bytes = b"tests",
        parents: Parents | None = None,
        waits: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = current = Current(config)
        self.cache = data / "cache"
        cache = Cache(self.cache, lambda: self.config.beliefs, clock)
        cache.reconcile()
        self._database, self.pins = cache.database, cache.pins
        fingerprints = Fingerprints(key)
        self.access = Access(cache.rights, cache.links, fingerprints)
        self.janitor = Janitor(cache.store, cache.contents, cache.pins, lambda: space or self.config.space)
        cache.contents.grew = self.janitor.nudge
        self.tally = tally = Tally(clock)
        self._fills = Fills(cache.store, current, self.janitor.write_failed, grace, tally)
        via = Via(fingerprints)
        upstream = Upstream(current, via, parents)
        prefetch = Prefetch(cache.contents, self._fills, current, waits, look=0.01)
        self.tickets = Tickets(fingerprints, clock)
        self.engine = Engine(cache, self.access, self._fills, prefetch, upstream, current, via, self.tickets, tally)

    @property
    def config(self) -> Config:
        return self.current.config

    async def close(self) -> None:
        await self.engine.close()
        await self.janitor.close()
        self._database.close()

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        registry: str = REGISTRY,
        body: AsyncIterator[bytes] | None = None,
    ) -> Reply:
        """The reply with its body unread."""
        rule = self.config.rule(registry, 443, oci.repository(target))
        assert rule
        return await self.engine.answer(Request(rule, method, target, tuple(CIMultiDict(headers).items()), body))

    async def fetch(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        registry: str = REGISTRY,
        body: AsyncIterator[bytes] | None = None,
    ) -> Got:
        got = await read(await self.ask(method, target, headers, registry=registry, body=body))
        if got.status == 200 and got.data and not got.cut and "Docker-Content-Digest" in got.headers:
            # Readers do not wait until the disk has what they got; tests that look at the disk must.
            digest = Digest.parse(got.headers["Docker-Content-Digest"])
            while self._fills.running(digest):  # noqa: ASYNC110 (a turn of the loop, not a length of time)
                await asyncio.sleep(0)
        return got

    async def get(self, target: str, registry: str = REGISTRY, **headers: str) -> Got:
        return await self.fetch("GET", target, _named(headers), registry=registry)

    async def head(self, target: str, registry: str = REGISTRY, **headers: str) -> Got:
        got = await self.fetch("HEAD", target, _named(headers), registry=registry)
        assert got.data == b"", "a HEAD was answered with a body"
        return got

    def make_database_read_only(self) -> None:
        """For a file system that has become so; a real one would also stop root, but not in a test."""
        self._database.execute("PRAGMA query_only = ON")

    async def settled(self, digest: str) -> None:
        """Until it is old enough to be kept in memory: longer ago than a tick of the kernel's clock."""
        written = (self.cache / "blobs" / digest.replace(":", "/")).stat().st_ctime
        await asyncio.sleep(max(0.0, written + 0.1 - time.time()))

    def counted(self) -> AbstractContextManager[Costs]:
        """Counts what is done meanwhile, what is asked of the database included."""
        return counted(self._database)

    def cached(self) -> set[str]:
        """Digests in the store."""
        return {f"{file.parent.name}:{file.name}" for file in self.cache.glob("blobs/*/*")}

    def unfinished(self) -> list[str]:
        return [file.name for file in (self.cache / "partial").iterdir()]


async def read(reply: Reply) -> Got:
    """Reads a reply to its end as a door does, and closes it."""
    headers = CIMultiDict(reply.headers)
    if isinstance(reply.body, bytes):
        return Got(reply.status, headers, reply.body, None, reply.served)
    data, cut = b"", None
    try:
        while piece := await reply.body.read():
            data += piece
    except BodyCut as reason:
        cut = str(reason) or "cut"
    finally:
        await reply.body.close()
    if reply.status == 200:
        await committed(headers.get("Docker-Content-Digest", ""))
    return Got(reply.status, headers, data, cut, reply.served)


async def committed(digest: str) -> None:
    """Until a download whose end a reader has seen is in the store, or gone: readers need not wait for the disk."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == f"fill {digest}"]
    if tasks:
        await asyncio.wait(tasks)


def configuration(
    authority: Authority,
    origin: FakeRegistry | str | None,
    mirrors: Sequence[FakeRegistry | Table | str],
    *,
    name: str = REGISTRY,
    settings: Table | None = None,
    insecure: bool = False,
    leads_to: Sequence[str] = (),
    **own: Any,
) -> str:
    """A TOML file. Endpoints are registries or `host:port`, spoken to over TLS; an origin of None is never asked.
    Mirrors may be tables, too, as they are.

    `insecure` mirrors are not verified. `leads_to`: where else upstream may lead, besides the registries' own CDNs.
    """
    where = [_endpoint(mirror) for mirror in mirrors if not isinstance(mirror, Mapping)]
    named = [mirror if isinstance(mirror, Mapping) else _endpoint(mirror) for mirror in mirrors]
    rule: dict[str, Any] = {"mirrors": named, "ca": [authority.file], **own}
    if origin is None:
        rule["fallback"] = False
    else:
        rule["server"] = f"https://{_endpoint(origin)}"
    # Loopback is plain http unless told otherwise, as in BuildKit.
    options = {"http": False, "ca": [authority.file], "insecure": insecure}
    tables: dict[str, Table] = {each.partition("/")[0]: options for each in where}
    cdns = [each.cdn_endpoint for each in (origin, *mirrors) if isinstance(each, FakeRegistry)]
    if elsewhere := [*leads_to, *filter(None, cdns)]:
        # Everything here is on loopback, which must be named; by a table of its own it would also get TLS of its own.
        tables["elsewhere.test"] = {"mirrors": elsewhere}
    return toml({**tables, name: rule}, settings)


def _endpoint(registry: FakeRegistry | str) -> str:
    return registry if isinstance(registry, str) else registry.endpoint


def _named(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in headers.items()]


_CLOSED: list[socket.socket] = []


def closed_port() -> str:
    """Where nothing listens, and nobody else can."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    _CLOSED.append(taken)
    return f"127.0.0.1:{taken.getsockname()[1]}"


class RawServer:
    """Speaks TLS and whatever `handle` does with the streams; for HTTP that a web framework would not send."""

    def __init__(self, authority: Authority, handle: Callable[[RawExchange], Any]) -> None:
        self._context: ssl.SSLContext = authority.server_context()
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: list[bytes] = []  # request line and headers, as they came

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await self._handle(RawExchange(head, reader, writer))
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


@dataclass
class RawExchange:
    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        # Else one who never stops would not notice that the other has gone.
        await asyncio.sleep(0)
        if self.writer.is_closing():
            raise ConnectionResetError

    async def answer(self, status: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        """A whole answer, after which the connection ends in good order."""
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
            lines.append(f"Content-Length: {len(body)}")
        lines.append("Connection: close")
        await self.send("\r\n".join((*lines, "", "")).encode() + body)
        self.writer.close()
        await self.writer.wait_closed()

    def header(self, name: str) -> list[str]:
        """The values of a header of the request."""
        found = re.findall(rb"\r\n" + re.escape(name.encode()) + rb":[ \t]*([^\r]*)", self.head, re.IGNORECASE)
        return [value.decode() for value in found]

    async def body(self) -> bytes:
        """The body, by Content-Length or chunked."""
        if length := self.header("content-length"):
            return await self.reader.readexactly(int(length[0]))
        data = b""
        while chunk := await self.chunk():
            data += chunk
        return data

    async def chunk(self) -> bytes:
        """One chunk of a chunked body, b"" at its end."""
        size = int(await self.reader.readline(), 16)
        chunk = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return chunk
