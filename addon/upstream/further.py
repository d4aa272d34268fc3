"""One more connection, for a part of what comes already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.upstream.download import whole
from addon.upstream.routing import Attempt, Verdict
from addon.upstream.sources import Search

if TYPE_CHECKING:
    from addon.config.model import Endpoint
    from addon.upstream.response import Response


class _Unfit(Attempt):
    """An answer that is well, but no slice of what is wanted."""


class Further(Search):
    """Asks `endpoints` for slices, and takes nothing else, of what `first` has found to have `size` bytes.

    An endpoint that sends the content already is well: when it refuses a further connection, that says only that it
    wants no more of them.
    """

    def __init__(self, first: Search, size: int, endpoints: list[Endpoint]) -> None:
        super().__init__(first._sources, first._question, endpoints, [])
        self._heard = first._heard
        self._size = size

    def broke(self, endpoint: Endpoint) -> None:
        if endpoint == self._heard.serving:
            self._sources.single(self._question, Attempt(endpoint, "a segment broke off"))
        else:
            super().broke(endpoint)

    def _problem(self, response: Response, start: int, end: int | None) -> Attempt | None:
        if problem := super()._problem(response, start, end):
            return problem
        endpoint, size = response.endpoint, whole(response)
        if response.status != 206:
            return _Unfit(endpoint, "sends the whole when it is asked for a part")
        if size != self._size:
            return _Unfit(endpoint, f"has it with {size} bytes, not {self._size}")
        if not _same(self._heard.tags.get(endpoint), response.headers.get("ETag")):
            # RFC 9110, 15.3.7.3. If-Range (13.1.5) would bring the whole instead of a no.
            return _Unfit(endpoint, "has it under another ETag than before")
        return None

    def _note(self, attempt: Attempt) -> None:
        refused = attempt.verdict is Verdict.FAILED and attempt.endpoint in self._heard.tags
        if not refused and not isinstance(attempt, _Unfit):
            super()._note(attempt)
            return
        self._attempts.append(attempt)
        self._sources.single(self._question, attempt)
        if attempt.status is not None or not refused:
            self._spoken_to(attempt.endpoint)

    def _hear(self, response: Response) -> None:
        self._heard.content(response)

    def _outrun(self, endpoint: Endpoint) -> None:
        if endpoint not in self._heard.tags:
            super()._outrun(endpoint)


def _same(one: str | None, other: str | None) -> bool:
    """Whether nothing speaks against two ETags being one content's. Weak ones say nothing (RFC 9110, 8.8.1)."""
    strong = [tag for tag in (one, other) if tag and not tag.startswith("W/")]
    return len(strong) < 2 or strong[0] == strong[1]
