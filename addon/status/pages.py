"""The pages that the proxy has about itself, at each of its doors."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol

from addon.admission.gate import login_to_page
from addon.reply import Reply, Served
from addon.status import document
from addon.status.events import Events
from addon.status.monitoring import Monitoring
from addon.status.page import render, setup
from addon.status.page.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from addon.admission.gate import Gate
    from addon.counts.facts import Facts
    from addon.status.health import Trial
    from addon.status.page.setup import Door
    from ca.authority import Authority

    Page = Callable[[str, str | None, Door], Awaitable[Reply]]

# Streams at once in one process: each costs a rendering a second.
_STREAMS = 32
_AGAIN = 10  # seconds after which one may be free
_FAREWELL = 1.0  # seconds that they have to end when the proxy does
_SERVED = Served("own page")
_HTML, _TEXT, _STREAM = "text/html; charset=utf-8", "text/plain; charset=utf-8", "text/event-stream"
_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
)
_FILES = {
    "/status.css": "text/css; charset=utf-8",
    "/status.js": "text/javascript; charset=utf-8",
    "/favicon.svg": "image/svg+xml",
}


class Told(Protocol):
    """Of the service, what pages tell."""

    @property
    def authority(self) -> Authority: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def trial(self) -> Trial: ...
    @property
    def stopping(self) -> bool: ...
    async def facts(self) -> Facts: ...


class Pages:
    """See `answer`. One for all doors of a process."""

    def __init__(self, service: Told) -> None:
        self._service = service
        self._streams = 0
        self._ending, self._left = asyncio.Event(), asyncio.Event()
        self._seen: _Seen | None = None
        self._pages: dict[str, Page] = {
            "/": self._status,
            "/events": self._events,
            "/status.json": self._json,
            "/ca.crt": self._ca,
            **dict.fromkeys(_FILES, self._file),
        }
        monitoring = Monitoring(service)
        self._said = {"/metrics": monitoring.metrics, "/healthz": monitoring.alive, "/readyz": monitoring.ready}
        self._open = {"/ca.crt", "/healthz", "/readyz"}  # for whoever has no login, too

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], address: str, door: Door = "proxy"
    ) -> Reply | None:
        """What a client at that address gets at a door; None where there is no page."""
        path = target.partition("?")[0]
        page, say = self._pages.get(path), self._said.get(path)
        if page is None and say is None:
            return None
        if method not in ("GET", "HEAD"):
            return _reply(405, _TEXT, b"this page can only be read\n", ("Allow", "GET, HEAD"))
        if path not in self._open:
            refusal = await self._service.gate.login(address, headers.get("Authorization"), login_to_page)
            if refusal:
                return _reply(refusal.status, _TEXT, refusal.text.encode(), *refusal.headers)
        if method == "HEAD" and path == "/events":
            return _reply(200, _STREAM, b"")
        if page:
            reply = await page(target, headers.get("Host"), door)
        elif say:
            reply = _reply(*await say(headers.get("Accept", "")))
        return replace(reply, body=b"") if method == "HEAD" else reply

    async def _status(self, target: str, host: str | None, door: Door) -> Reply:
        facts = await self._service.facts()
        at = setup.reach(facts.listening, host, door, login=self._service.gate.wants_login)
        selection = Selection.parse(target.partition("?")[2])
        html = await asyncio.to_thread(render.page, facts, selection, at)
        return _reply(200, _HTML, html.encode(errors="replace"))

    async def _events(self, target: str, *_: object) -> Reply:
        if self._streams >= _STREAMS or self._ending.is_set():
            told = b"too many look at this page already, or the proxy stops; reload it to see what is new\n"
            return _reply(503, _TEXT, told, ("Retry-After", str(_AGAIN)))
        self._streams += 1
        selection = Selection.parse(target.partition("?")[2])
        body = Events(lambda: self._look(selection), self._ending, self._leave)
        return Reply(200, (("Content-Type", _STREAM), ("X-Accel-Buffering", "no"), *_ALWAYS), body, _SERVED)

    def _leave(self) -> None:
        self._streams -= 1
        self._left.set()

    async def close(self) -> None:
        """Ends all streams, which nobody is to wait for; browsers come back, to whoever is there then."""
        self._ending.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                while self._streams:
                    self._left.clear()
                    await self._left.wait()

    async def _look(self, selection: Selection) -> Mapping[str, str]:
        """The sections as they are now, rendered once for all who look."""
        facts = await self._service.facts()
        if self._seen is None or self._seen.facts is not facts:
            self._seen = _Seen(facts)
        return await self._seen.sections(selection)

    async def _json(self, *_: object) -> Reply:
        facts = await self._service.facts()
        return _reply(200, "application/json", await asyncio.to_thread(document.write, facts))

    async def _ca(self, *_: object) -> Reply:
        return _reply(200, "application/x-pem-file", self._service.authority.roots_pem)

    async def _file(self, target: str, *_: object) -> Reply:
        path = target.partition("?")[0]
        content = files("addon.status.page").joinpath(path.removeprefix("/")).read_bytes()
        return _reply(200, _FILES[path], content)


class _Seen:
    """What is seen of some facts, each part of it rendered once, in a thread."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._shared: asyncio.Future[dict[str, str]] | None = None
        self._requests: dict[Selection, asyncio.Future[str]] = {}

    async def sections(self, selection: Selection) -> Mapping[str, str]:
        if self._shared is None:
            self._shared = asyncio.ensure_future(asyncio.to_thread(render.shared, self.facts))
        if selection not in self._requests:
            rendering = asyncio.to_thread(render.requests, self.facts, selection)
            self._requests[selection] = asyncio.ensure_future(rendering)
        # Who leaves meanwhile must not take it from the others.
        shared = await asyncio.shield(self._shared)
        return {**shared, "requests": await asyncio.shield(self._requests[selection])}


def _reply(status: int, media_type: str, content: bytes, *more: tuple[str, str]) -> Reply:
    headers = (("Content-Type", media_type), ("Content-Length", str(len(content))), *_ALWAYS, *more)
    return Reply(status, headers, content, _SERVED)
