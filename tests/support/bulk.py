"""A registry of many large blobs that are made as they are asked for: more than a test's memory or disk would hold."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20
_NOISE = random.Random(7).randbytes(_BLOCK - 8)


class Bulk:
    """`count` blobs of `size` bytes, in any repository; plain http. `sent` counts the bytes of all bodies."""

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._count = count
        self.sent = 0

    @cached_property
    def digests(self) -> list[str]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._digest, range(self._count)))

    async def __aenter__(self) -> Self:
        self._numbers = {digest: number for number, digest in enumerate(self.digests)}
        app = web.Application()
        app.router.add_get("/v2/{repository:.+}/blobs/{digest}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.endpoint = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def _digest(self, number: int) -> str:
        found = hashlib.sha256()
        for piece in self._pieces(number, 0):
            found.update(piece)
        return f"sha256:{found.hexdigest()}"

    def _pieces(self, number: int, start: int) -> Iterator[bytes]:
        for block in range(start // _BLOCK, -(-self.size // _BLOCK)):
            begun = block * _BLOCK
            piece = number.to_bytes(4) + block.to_bytes(4) + _NOISE
            yield piece[max(0, start - begun) : self.size - begun]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        number = self._numbers.get(request.match_info["digest"])
        if number is None:
            raise web.HTTPNotFound
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        response = web.StreamResponse(status=206 if wanted else 200)
        response.content_length = self.size - start
        if wanted:
            response.headers["Content-Range"] = f"bytes {start}-{self.size - 1}/{self.size}"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        for piece in self._pieces(number, start):
            await response.write(piece)
            self.sent += len(piece)
            await asyncio.sleep(0)
        await response.write_eof()
        return response
