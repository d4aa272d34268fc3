"""The stream that keeps a status page up to date: server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

# Seconds between two looks; looks without news after which the client is told that the stream is there still.
_PAUSE, _SILENCE = 1.0, 10
# Milliseconds after which a browser comes back when the stream has ended.
_RETRY = b"retry: 3000\n\n"


class Events:
    """A reply's body (addon/body.py) without an end of its own: each section, by its name, when it is another one."""

    def __init__(
        self, look: Callable[[], Awaitable[Mapping[str, str]]], ending: asyncio.Event, closed: Callable[[], None]
    ) -> None:
        """`look` says what is in the sections now; it ends when `ending` is set; `closed` is called once."""
        self._look = look
        self._ending = ending
        self._closed: Callable[[], None] | None = closed
        self._shown: Mapping[str, str] = {}
        self._begun = False

    async def read(self) -> bytes:
        if not self._begun:
            self._begun = True
            return _RETRY + await self._news()
        for _ in range(_SILENCE):
            with suppress(TimeoutError):
                # All streams look at the same moments: what they see is made once.
                async with asyncio.timeout(_PAUSE - asyncio.get_running_loop().time() % _PAUSE):
                    await self._ending.wait()
            if self._ending.is_set():
                return b""
            if news := await self._news():
                return news
        return b": still here\n\n"

    async def close(self) -> None:
        closed, self._closed = self._closed, None
        if closed:
            closed()

    async def _news(self) -> bytes:
        sections = await self._look()
        changed = [event(name, html) for name, html in sections.items() if self._shown.get(name) != html]
        self._shown = sections
        return b"".join(changed)


def event(name: str, data: str) -> bytes:
    # By whatever could end a line: what clients have written must not become a field of its own.
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"event: {name}\n{lines}\n".encode(errors="replace")
