"""What a parent proxy answers to a CONNECT of ours."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from addon.parent import Parent

_MAX_HEAD = 64 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")
_END = re.compile(rb"\r?\n\r?\n")


class Handshake:
    """One answer, heard piece by piece. `failure`: why there is no way; `rest`: what came behind the answer."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._said = b""
        self._ended = asyncio.Event()
        self.failure: str | None = f"{parent} has not answered"
        self.rest = b""

    @property
    def over(self) -> bool:
        return self._ended.is_set()

    def hear(self, data: bytes) -> None:
        if self.over:
            return
        self._said += data
        if end := _END.search(self._said):
            self.failure = self._judge(self._said)
            self.rest = self._said[end.end() :]
            self.end()
        elif len(self._said) > _MAX_HEAD:
            self.failure = self._judge(b"")
            self.end()

    def end(self, failure: str = "") -> None:
        """Nothing more will be heard."""
        if failure and not self.over:
            self.failure = f"{self._parent} {failure}"
        self._ended.set()

    async def wait(self, patience: float) -> None:
        """Until it is over, at most so many seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._ended.wait()
        except TimeoutError:
            self.failure = f"{self._parent} has not answered within {patience:g} s"

    def _judge(self, head: bytes) -> str | None:
        status = _STATUS.match(head)
        if status is None:
            return f"{self._parent} does not speak HTTP"
        if status[1].startswith(b"2"):
            return None
        return self._parent.refusal(int(status[1]), (status[2] or b"").decode("latin-1"))
