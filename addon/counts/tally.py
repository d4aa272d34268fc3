"""What one process counts of what it does: sums, and the last requests. What clients name freely is kept bounded."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.counts.facts import OTHER, Answered, Counters, Histogram, Tallied

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from addon.counts.facts import Kind, Outcome

# Registries, and endpoints, that are told apart: clients name hosts as they like (*.azurecr.io).
_NAMES = 100
_RECENT = 200
# Clients that have broken off TLS, of which the last ones are known.
_DISTRUSTING = 20
# Of what an endpoint's latency was, the share that one more answer replaces.
_NEW = 0.2
# Seconds: of requests and first bytes, and of whole downloads.
QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
# Of content: what a hit ratio is about.
_CONTENT = ("manifest", "blob")
_CACHED = ("hit", "stale", "redirected", "joined")


class Names:
    """The first so many; whatever else there is, is OTHER."""

    def __init__(self, most: int = _NAMES) -> None:
        self._most = most
        self._known: set[str] = set()

    def bounded(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name


class _Observed[Key: Hashable]:
    """Histograms by key."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts: dict[Key, list[int]] = {}
        self._totals: dict[Key, float] = {}

    def observe(self, key: Key, value: float) -> None:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(self._bounds) + 1)
            self._totals[key] = 0.0
        counts[bisect_left(self._bounds, value)] += 1
        self._totals[key] += value

    def all(self) -> dict[Key, Histogram]:
        return {key: Histogram(self._bounds, tuple(c), self._totals[key]) for key, c in self._counts.items()}

    def resume(self, known: dict[Key, Histogram]) -> None:
        for key, histogram in known.items():
            self._counts[key] = list(histogram.counts)
            self._totals[key] = histogram.total


@dataclass
class Moved:
    """What the charts show, since it was last taken down."""

    cached: int = 0
    fetched: int = 0
    hits: int = 0
    misses: int = 0


class Tally:
    """Of one process. All but `received` is for the event loop's thread. `clock`: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._registries, self._endpoints = Names(), Names()
        self._recent: deque[Answered] = deque(maxlen=_RECENT)
        self._distrusting: dict[str, tuple[str, float]] = {}
        self._latency: dict[tuple[str, str], float] = {}
        self._requests: Counter[tuple[str, Kind, Outcome]] = Counter()
        self._sent: Counter[tuple[str, Outcome]] = Counter()
        self._received: Counter[tuple[str, str]] = Counter()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._failed: Counter[tuple[str, str]] = Counter()
        self._fills: Counter[tuple[str, str]] = Counter()
        self._joined: Counter[str] = Counter()
        self._evicted, self._evicted_bytes, self._cut = 0, 0, 0
        self._request_seconds: _Observed[tuple[Kind, Outcome]] = _Observed(QUICK)
        self._first_byte: _Observed[str] = _Observed(QUICK)
        self._fill_seconds: _Observed[str] = _Observed(LONG)
        self._moved = Moved()
        self._counting = threading.Lock()

    # What happens.

    def answered(self, answered: Answered) -> None:
        """A request has been answered, or its transfer broken off."""
        registry, outcome = self._registries.bounded(answered.registry), answered.outcome
        self._recent.append(answered)
        self._requests[registry, answered.kind, outcome] += 1
        self._sent[registry, outcome] += answered.sent
        self._request_seconds.observe((answered.kind, outcome), answered.seconds)
        self._cut += bool(answered.cut)
        moved = self._moved
        if outcome in _CACHED:
            moved.cached += answered.sent
            moved.hits += answered.kind in _CONTENT
        elif outcome == "miss":
            moved.misses += answered.kind in _CONTENT
        elif outcome == "relayed":
            with self._counting:
                moved.fetched += answered.sent

    def broke_off_tls(self, client: str, where: str) -> None:
        """A client did not take our certificate, or so it seems."""
        self._distrusting.pop(client, None)
        self._distrusting[client] = where, self._clock()
        if len(self._distrusting) > _DISTRUSTING:
            del self._distrusting[next(iter(self._distrusting))]

    def asked(self, registry: str, endpoint: str) -> None:
        """An endpoint is asked, whatever comes of it."""
        self._asked[self._place(registry, endpoint)] += 1

    def heard(self, registry: str, endpoint: str, seconds: float) -> None:
        """An endpoint has begun to answer, after so long."""
        key = self._place(registry, endpoint)
        before = self._latency.get(key, seconds)
        self._latency[key] = before + _NEW * (seconds - before)

    def failed(self, registry: str, endpoint: str) -> None:
        """An endpoint could not be asked, or answered with what counts as a failure, or broke off."""
        self._failed[self._place(registry, endpoint)] += 1

    def received(self, registry: str, endpoint: str, count: int) -> None:
        """Bytes of content have come from an endpoint. From any thread."""
        with self._counting:
            self._received[self._place(registry, endpoint)] += count
            self._moved.fetched += count

    def began(self, registry: str, seconds: float) -> None:
        """An endpoint has begun to send what is downloaded, after so long."""
        self._first_byte.observe(self._registries.bounded(registry), seconds)

    def ended(self, registry: str, result: str, seconds: float) -> None:
        """A download has ended: `result` says how."""
        registry = self._registries.bounded(registry)
        self._fills[registry, result] += 1
        if result == "stored":
            self._fill_seconds.observe(registry, seconds)

    def joined(self, registry: str) -> None:
        """A request is served from a download that another one had begun."""
        self._joined[self._registries.bounded(registry)] += 1

    def evicted(self, files: int, size: int) -> None:
        self._evicted += files
        self._evicted_bytes += size

    def _place(self, registry: str, endpoint: str) -> tuple[str, str]:
        return self._registries.bounded(registry), self._endpoints.bounded(endpoint)

    # What it comes to.

    def tallied(self) -> Tallied:
        """All of it so far."""
        with self._counting:
            received = dict(self._received)
        counters = Counters(
            requests=dict(self._requests),
            sent=dict(self._sent),
            received=received,
            asked=dict(self._asked),
            failed=dict(self._failed),
            fills=dict(self._fills),
            joined=dict(self._joined),
            evicted=self._evicted,
            evicted_bytes=self._evicted_bytes,
            cut=self._cut,
            request_seconds=self._request_seconds.all(),
            first_byte_seconds=self._first_byte.all(),
            fill_seconds=self._fill_seconds.all(),
        )
        distrusting = tuple((client, where, at) for client, (where, at) in self._distrusting.items())
        return Tallied(counters, tuple(reversed(self._recent)), dict(self._latency), distrusting)

    def resume(self, before: Tallied) -> None:
        """Goes on where a predecessor of this process has stopped: sums must never become less."""
        counters = before.counters
        self._recent.extend(reversed(before.requests))
        self._latency.update(before.latency)
        for counter, known in (
            (self._requests, counters.requests),
            (self._sent, counters.sent),
            (self._received, counters.received),
            (self._asked, counters.asked),
            (self._failed, counters.failed),
            (self._fills, counters.fills),
            (self._joined, counters.joined),
        ):
            counter.update(known)  # type: ignore[arg-type]
        for registry, *_ in counters.requests:
            self._registries.bounded(registry)
        for registry, endpoint in counters.asked:
            self._place(registry, endpoint)
        self._evicted, self._evicted_bytes = counters.evicted, counters.evicted_bytes
        self._cut = counters.cut
        self._request_seconds.resume(dict(counters.request_seconds))
        self._first_byte.resume(dict(counters.first_byte_seconds))
        self._fill_seconds.resume(dict(counters.fill_seconds))

    def take_down(self) -> Moved:
        """What the charts have to add, once."""
        with self._counting:
            moved, self._moved = self._moved, Moved()
        return moved

    def put_back(self, moved: Moved) -> None:
        """It could not be written down, and is to be taken down again."""
        with self._counting:
            self._moved.cached += moved.cached
            self._moved.fetched += moved.fetched
            self._moved.hits += moved.hits
            self._moved.misses += moved.misses
