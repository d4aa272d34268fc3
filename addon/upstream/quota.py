"""What an endpoint says about how often it may be asked: Retry-After, and how much of a rate limit is left. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from addon.upstream.findings import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from addon.config.model import Endpoint

# Docker Hub's form: so many requests, in a window of so many seconds; the window is not always said.
_AMOUNT = re.compile(r"([0-9]{1,15})(?:[ \t]*;[ \t]*w=([0-9]{1,15}))?")
_SECONDS = re.compile(r"[0-9]{1,15}")
# Seconds that a number is believed when no window is said, and at most.
_WINDOW, _WINDOW_MAX = 60.0, 86400.0
# Of a window that is used up: it may slide, and where in it we are is not said.
_SHARE = 0.25
_MAX_KNOWN = 1000


@dataclass(frozen=True)
class Quota:
    """`remaining` requests, of `limit` if that is said, until the window, of so many seconds, is over."""

    remaining: int
    window: float
    limit: int | None = None


def quota(headers: Mapping[str, str]) -> Quota | None:
    """What `ratelimit-remaining` says: `76;w=21600` or `76`. None when it says nothing, or nonsense."""
    remaining = _AMOUNT.fullmatch(headers.get("RateLimit-Remaining", "").strip())
    if not remaining:
        return None
    limit = _AMOUNT.fullmatch(headers.get("RateLimit-Limit", "").strip())
    said = remaining[2] or (limit and limit[2])
    window = _WINDOW if said is None else min(_WINDOW_MAX, float(said))
    return Quota(int(remaining[1]), window, int(limit[1]) if limit else None)


def told(headers: Mapping[str, str]) -> str:
    """What is left of the rate limit, for people; "" when that is not said."""
    left = quota(headers)
    if left is None:
        return ""
    of = "" if left.limit is None else f" of {left.limit}"
    return f"{left.remaining}{of} requests left in {lasting(left.window)}"


def wait(status: int, headers: Mapping[str, str], epoch: float) -> float | None:
    """Seconds for which a refusal asks not to come back; None when it does not say, or says nonsense.

    `epoch` is the time now, in seconds since 1970.
    """
    if status not in (429, 503):
        return None
    said = _retry_after(headers.get("Retry-After", "").strip(), epoch)
    if said is not None or status == 503:
        return said
    left = quota(headers)
    if left and left.remaining:
        return None  # what was too much is not what these headers count
    window = (left and left.window) or float(_window(headers) or 0)
    return min(_WINDOW_MAX, window) * _SHARE or None


def _window(headers: Mapping[str, str]) -> str | None:
    limit = _AMOUNT.fullmatch(headers.get("RateLimit-Limit", "").strip())
    return limit[2] if limit else None


def _retry_after(value: str, epoch: float) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date. What lies in the past says nothing."""
    if _SECONDS.fullmatch(value):
        return float(value) or None
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A date of HTTP is always UTC, even where it does not say so (RFC 9110, 5.6.7).
    seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - epoch
    return seconds if seconds > 0 else None


class Quotas:
    """What endpoints last said is left, to which credential (a fingerprint of it; "": to anybody).

    Times are seconds on one clock, given by the caller.
    """

    def __init__(self, floor: Callable[[], int]) -> None:
        """Fewer requests than `floor` says are low."""
        self._floor = floor
        self._known: dict[tuple[Endpoint, str], tuple[Quota, float]] = {}  # and since when

    def note(self, endpoint: Endpoint, headers: Mapping[str, str], now: float, credential: str = "") -> None:
        """Remembers what any answer of the endpoint says."""
        said = quota(headers)
        if said is None:
            return
        if len(self._known) >= _MAX_KNOWN:
            # Clients name hosts as they like (*.azurecr.io).
            self._known = {key: (q, at) for key, (q, at) in self._known.items() if at + q.window > now}
        self._known[endpoint, credential] = said, now

    def low(self, endpoint: Endpoint, now: float, credential: str = "") -> bool:
        """Whether the endpoint is known to have few requests left."""
        known = self._known.get((endpoint, credential))
        return known is not None and known[0].remaining < self._floor() and now < known[1] + known[0].window

    def all(self, now: float) -> list[tuple[Endpoint, str, Quota, float]]:
        """What still holds: endpoint, credential, what was said, and when."""
        return [(*key, quota, at) for key, (quota, at) in self._known.items() if at + quota.window > now]
