"""One listening server of a fake registry: records each request, applies its faults, sends the answer."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict

from support.faults import Answer, Fault, Injection, Seen

if TYPE_CHECKING:
    import ssl

Handler = Callable[[web.Request, Seen], Awaitable[Answer]]

PIECE = 64 * 1024


class Traffic:
    """What was asked and sent, and which faults apply; shared by a registry and its CDN."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.sent: Counter[str] = Counter()
        self.injections: list[Injection] = []
        self.ending = asyncio.Event()
        self._changed = asyncio.Condition()

    def inject(
        self, fault: Fault, kind: str = "*", path: str = "*", method: str = "*", times: int | None = None
    ) -> Injection:
        injection = Injection(fault, kind, path, method, times)
        self.injections.append(injection)
        return injection

    def apply_faults(self, answer: Answer, request: Seen) -> None:
        for injection in self.injections:
            if injection.matches(request):
                injection.hits += 1
                injection.fault.apply(answer, request)

    def seen(self, kind: str = "*", path: str = "", method: str = "") -> list[Seen]:
        """Requests of a kind whose path contains `path`."""
        return [
            request
            for request in self.requests
            if kind in ("*", request.kind) and path in request.path and method in ("", request.method)
        ]

    async def wait_for(self, happened: Callable[[], bool], timeout: float = 60) -> None:
        """Until `happened`, looked at whenever a request comes in, an answer starts or more of it is sent."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(happened)

    async def changed(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Listener:
    def __init__(self, traffic: Traffic, handler: Handler, classify: Callable[[str], str]) -> None:
        self._traffic = traffic
        self._handler = handler
        self._classify = classify
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", self._serve)
        # A test's end does not wait for clients that keep their connections open.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        self.port = 0

    async def start(self, context: ssl.SSLContext | None, address: str = "127.0.0.1", port: int = 0) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(self._classify(request.path), request.method, request.path, dict(request.query), request.headers)
        self._traffic.requests.append(seen)
        await self._traffic.changed()
        answer = await self._handler(request, seen)
        self._traffic.apply_faults(answer, seen)
        if answer.hang:
            await self._traffic.ending.wait()
        if answer.held:
            await answer.held.wait()
        if answer.hang or answer.close:
            return _hang_up(request)
        return await self._send(request, seen, answer)

    async def _send(self, request: web.Request, seen: Seen, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        length = len(answer.body) if answer.told_length is None else answer.told_length
        if answer.chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = length
        if length > len(answer.body):
            # The rest will never come: the end of the connection says so.
            response.force_close()
        seen.status = answer.status
        await response.prepare(request)
        await self._traffic.changed()
        if request.method != "HEAD" and not await self._send_body(response, seen, answer):
            return _hang_up(request, response)
        await response.write_eof()
        return response

    async def _send_body(self, response: web.StreamResponse, seen: Seen, answer: Answer) -> bool:
        """False if it stopped before its end."""
        body = answer.body if answer.cut_after is None else answer.body[: answer.cut_after]
        if answer.told_length is not None:
            body = body[: answer.told_length]
        for start, end in _pieces(len(body), answer.gate_after if answer.gate else 0):
            if answer.gate and start >= answer.gate_after:
                await answer.gate.wait()
            await response.write(body[start:end])
            seen.sent += end - start
            if digest := re.search(r"sha256:[0-9a-f]{64}", seen.path):
                self._traffic.sent[digest[0]] += end - start
            await self._traffic.changed()
        return answer.cut_after is None


def _pieces(length: int, stop_at: int) -> list[tuple[int, int]]:
    """The ranges to write, with a boundary at `stop_at`."""
    cuts = sorted({*range(0, length, PIECE), min(stop_at, length), length})
    return list(itertools.pairwise(cuts))


def _hang_up(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport:
        request.transport.close()
    # aiohttp wants an answer from every handler; nobody is there to get it.
    return response or web.Response(headers=CIMultiDict())
