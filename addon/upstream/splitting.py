"""When a blob is fetched over several connections, and in which segments. Pure.

Times are seconds on one clock, given by the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from addon.config.model import Endpoint, Splitting

# Bytes a second from which on one connection is as good as several: then it is the proxy itself that sets the pace.
_ENOUGH = 200_000_000
# Bytes that a segment has at least, where the configuration allows for as many: it costs a request, and a redirect.
_LEAST = 16 << 20
# Seconds that a segment gets to come to speed.
_START = 1.0
# Seconds that an endpoint is not asked for segments after it has sent none, or not over several connections.
_SINGLE = 300.0


def held_back(came: int, elapsed: float, writing: float) -> bool:
    """Whether it is the one connection that holds a download up: so many bytes have come, of which `writing` took a
    part of the time."""
    waited = elapsed - writing
    return waited > elapsed / 2 and came < _ENOUGH * waited


def length(left: int, splitting: Splitting) -> int | None:
    """The bytes of a segment when so many are left of the blob; None: one connection is enough for them.

    Two for each connection, so that all have something to do, and little is left to be copied when the last of it has
    come; but of the configured size at most.
    """
    if splitting.connections == 1 or left <= splitting.segment:
        return None
    return max(min(-(-left // (2 * splitting.connections)), splitting.segment), min(_LEAST, splitting.segment))


def end(start: int, length: int, size: int) -> int:
    """Where the segment ends that begins at `start`; the last one has what would not be worth a request of its own."""
    return size if size - start < length + length // 2 else start + length


def fits(free: int, left: int, length: int, running: int) -> bool:
    """Whether one more segment may be put aside beside those that `running` connections bring: the blob itself, of
    which so many bytes are left, must find room on the disk."""
    return free > left + length * (running + 1)


def outpaced(came: int, seconds: float, mean: float, connections: int) -> bool:
    """Whether a segment comes so slowly that all connections, which wait for it in the end, bring less than one of
    them would: `mean` is what they bring, in bytes a second."""
    return seconds >= _START and came * connections < mean * seconds


class Single:
    """Endpoints that do not send several parts of a blob at the same time."""

    def __init__(self) -> None:
        self._until: dict[Endpoint, float] = {}

    def said(self, endpoint: Endpoint, now: float) -> float:
        """Seconds for which that is believed."""
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[endpoint] = now + _SINGLE
        return _SINGLE

    def known(self, endpoint: Endpoint, now: float) -> bool:
        return self._until.get(endpoint, now) > now
