"""How facts are put into words, the same on the status page and in the terminal. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from addon import journal
from addon.counts.facts import Filling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.counts.facts import Answered, CacheFacts, EndpointFacts, Outcome, QuotaFacts, Span

HIDDEN = "(private)"
NONE = "–"

OUTCOMES: dict[Outcome, str] = {
    "hit": "from the cache",
    "stale": "from the cache, too old",
    "redirected": "sent on to the mirror door",
    "joined": "from a running download",
    "miss": "fetched",
    "relayed": "passed on",
    "refused": "refused here",
}
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def subject(name: str) -> str:
    """The common name of a certificate, of its name by RFC 4514."""
    found = re.search(r"(?:^|,)CN=((?:\\.|[^,\\+])*)", name)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else name


def size(count: int) -> str:
    """A month may have more than the log's units are for."""
    return journal.size(count) if count < 999_500_000_000 else f"{count / 1e12:.1f} TB"


def rate(count: float) -> str:
    """Of bytes a second."""
    return f"{journal.size(int(count))}/s"


def latency(seconds: float | None) -> str:
    return NONE if seconds is None else journal.duration(seconds)


def lasting(seconds: float) -> str:
    """A length of time, to two of its units."""
    left = max(0, int(seconds))
    if left < _MINUTE:
        return f"{left} s"
    for unit, name, part, of in (_YEAR, "y", _DAY, "d"), (_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"):
        if left >= unit:
            rest = left % unit // part
            return f"{left // unit} {name} {rest} {of}" if rest else f"{left // unit} {name}"
    return f"{left // _MINUTE} min"


def moment(at: float, now: float) -> str:
    """In UTC: the time, and the date where that is not today's."""
    when, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    return f"{when:%H:%M:%S}" if when.date() == today.date() else f"{when:%Y-%m-%d %H:%M}"


def day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def machine_time(at: float) -> str:
    """As <time datetime> wants it."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def share(part: int, whole: int) -> str:
    if not whole:
        return NONE
    # All and nothing are not rounded to: one miss in a thousand is a miss.
    percent = 100 * part / whole
    return "< 1 %" if 0 < percent < 1 else "> 99 %" if 99 < percent < 100 else f"{percent:.0f} %"


def of_content(answered: Answered | Filling) -> str:
    """Of which repository it is, or what else was asked for."""
    path = "" if isinstance(answered, Filling) else answered.path
    return HIDDEN if answered.hidden else answered.repository or path or NONE


def reference(answered: Answered) -> str:
    """What of it: the tag, or the digest without its tail."""
    name = answered.reference
    algorithm, colon, digits = name.partition(":")
    return f"{algorithm}:{digits[:12]}" if colon else name


def short(digest: str) -> str:
    return digest[: digest.find(":") + 13]


def progress(filling: Filling) -> str:
    if not filling.size:
        return size(filling.written)
    return f"{size(filling.written)} of {size(filling.size)}, {share(filling.written, filling.size)}"


def waiting(filling: Filling) -> str:
    """For whom it is downloaded. How many they are is not said: whoever fetches ahead goes on reading with them."""
    return "ahead of clients" if filling.ahead else "clients that wait"


def state(endpoint: EndpointFacts) -> str:
    if endpoint.state != "unknown":
        return endpoint.state
    return "not asked since it failed" if endpoint.failed else "not asked yet"


def standing(endpoint: EndpointFacts, now: float) -> str:
    """Why an endpoint is not simply up, and until when it is asked last; "" if it is."""
    if endpoint.state == "up":
        return ""
    until = f"until {moment(endpoint.until, now)} UTC" if endpoint.until > now else ""
    return ", ".join(filter(None, (endpoint.reason, until)))


def kind_of(endpoint: EndpointFacts) -> str:
    return "origin" if endpoint.origin else "mirror"


def left(quota: QuotaFacts) -> str:
    limit = f" of {quota.limit}" if quota.limit is not None else ""
    return f"{quota.remaining}{limit} left, per {lasting(quota.window)}"


def used(cache: CacheFacts) -> str:
    limit = f" of {size(cache.limit)}, {share(cache.size, cache.limit)}" if cache.limit else ""
    return f"{size(cache.size)}{limit}"


class Sum:
    """What came to clients in some time, and from where."""

    def __init__(self, spans: Iterable[Span]) -> None:
        spans = list(spans)
        self.cached = sum(span.cached for span in spans)
        self.fetched = sum(span.fetched for span in spans)
        self.hits = sum(span.hits for span in spans)
        self.misses = sum(span.misses for span in spans)

    @property
    def ratio(self) -> str:
        """Of requests for content, those that the cache could answer."""
        return share(self.hits, self.hits + self.misses)

    @property
    def bytes(self) -> str:
        return f"{size(self.cached)} from the cache, {size(self.fetched)} from upstream"
