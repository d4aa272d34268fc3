"""The facts as Prometheus and what reads its format wants them.

Names and units: https://prometheus.io/docs/practices/naming/. Nothing that a client can name as it likes becomes a
label: no repository, no client, no digest.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import accumulate, chain
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from addon.counts.facts import OTHER, Histogram, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from addon.counts.facts import CacheFacts, CaFacts, Counters, EndpointFacts, Facts, Kind, Outcome, QuotaFacts

# Of registries, and of endpoints: what comes after so many counts as one more, OTHER.
_MOST_NAMES = 500
_LONGEST = 256  # characters of a label's value; the longest host name with a port has 259

_STATES: tuple[State, ...] = get_args(State)
# Who is asked as two of them, as mirror and as origin, is what tells more of trouble.
_WORSE: dict[State, int] = {"unknown": 0, "up": 1, "limited": 2, "down": 3}

# What most requests for content come to.
_COMMON: tuple[Outcome, ...] = ("hit", "miss")
_CONTENT: tuple[Kind, ...] = ("manifest", "blob")

_OPENMETRICS = "application/openmetrics-text"
_NOT = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*")

_Labels = tuple[str, ...]


def exposition(facts: Facts, accept: str = "") -> tuple[bytes, str]:
    """The body and its Content-Type: OpenMetrics for who names that in its Accept header, else Prometheus' text."""
    registry = CollectorRegistry()
    registry.register(_Collector(facts))
    if _takes_openmetrics(accept):
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def _takes_openmetrics(accept: str) -> bool:
    for each in accept.split(","):
        kind, *parameters = each.split(";")
        if kind.strip().lower() == _OPENMETRICS:
            return not any(map(_NOT.fullmatch, parameters))
    return False


class _Names:
    """Values of one label: printable, of bounded length, and no more than so many."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _MOST_NAMES:
                return OTHER
            known = self._known[name] = _printable(name[:_LONGEST])
        return known


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]


class _Collector(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._registries, self._endpoints = _Names(), _Names()

    def describe(self) -> Iterable[Metric]:
        return ()  # else it would be collected for that

    def collect(self) -> Iterator[Metric]:
        facts = self._facts
        # First, so that what is configured has a name of its own.
        yield from self._endpoint_families(facts.endpoints)
        yield from self._counter_families(facts.counters, facts.endpoints)
        yield from self._histogram_families(facts.counters)
        yield from self._quota_families(facts.quotas, facts.now)
        yield from _cache_families(facts.cache)
        yield _expiry(facts.ca, facts.now)
        yield from _process_families(facts)

    def _endpoint_families(self, endpoints: Sequence[EndpointFacts]) -> Iterator[Metric]:
        states: dict[_Labels, State] = {}
        latencies: dict[_Labels, float] = {}
        for each in endpoints:
            where = self._where(each.registry, each.endpoint)
            states[where] = max(states.get(where, each.state), each.state, key=_WORSE.__getitem__)
            if each.latency is not None:
                latencies[where] = max(latencies.get(where, each.latency), each.latency)
        yield _gauge(
            "mirrortap_endpoint_up",
            "Whether the endpoint is asked in its turn: 0 while it is asked last because it failed.",
            _WHERE,
            {where: float(state != "down") for where, state in states.items()},
        )
        yield _gauge(
            "mirrortap_endpoint_state",
            "The endpoint's state: 1 for the one that it is in, 0 for the others.",
            (*_WHERE, "state"),
            {(*where, each): float(each == state) for where, state in states.items() for each in _STATES},
        )
        yield _gauge(
            "mirrortap_endpoint_latency_seconds",
            "Until the endpoint's answers begin, on average lately.",
            _WHERE,
            latencies,
            unit="seconds",
        )

    def _counter_families(self, counters: Counters, endpoints: Sequence[EndpointFacts]) -> Iterator[Metric]:
        # What is known beforehand begins at 0: of a counter that is first seen at 10, Prometheus knows no increase.
        registries = dict.fromkeys(self._registries.of(each.registry) for each in endpoints)
        wheres = [(self._where(each.registry, each.endpoint), 0) for each in endpoints]
        yield _counter(
            "mirrortap_requests",
            "Requests to registries that were answered, by what was asked for and what became of it.",
            ("registry", "kind", "outcome"),
            _added(
                chain(
                    (((name, kind, how), 0) for name in registries for kind in _CONTENT for how in _COMMON),
                    (((self._registries.of(name), *rest), count) for (name, *rest), count in counters.requests.items()),
                )
            ),
        )
        yield _counter(
            "mirrortap_sent_bytes",
            "Bytes of bodies sent to clients.",
            ("registry", "outcome"),
            _added(
                chain(
                    (((name, how), 0) for name in registries for how in _COMMON),
                    (((self._registries.of(name), how), count) for (name, how), count in counters.sent.items()),
                )
            ),
            unit="bytes",
        )
        yield _counter(
            "mirrortap_received_bytes",
            "Bytes of content that came from endpoints.",
            _WHERE,
            self._by_endpoint(wheres, counters.received),
            unit="bytes",
        )
        yield _counter(
            "mirrortap_endpoint_requests",
            "Requests that endpoints were asked.",
            _WHERE,
            self._by_endpoint(wheres, counters.asked),
        )
        yield _counter(
            "mirrortap_endpoint_failures",
            "Requests that an endpoint did not answer, or not as a registry would.",
            _WHERE,
            self._by_endpoint(wheres, counters.failed),
        )
        yield _counter(
            "mirrortap_fills",
            "Downloads into the cache that ended, by how they did.",
            ("registry", "result"),
            _added(((self._registries.of(name), how), count) for (name, how), count in counters.fills.items()),
        )
        yield _counter(
            "mirrortap_fills_joined",
            "Requests that were served from a download that another request had begun.",
            ("registry",),
            _added(((self._registries.of(name),), count) for name, count in counters.joined.items()),
        )
        yield _counter(
            "mirrortap_transfers_cut", "Transfers to clients that were broken off.", (), {(): float(counters.cut)}
        )
        yield _counter(
            "mirrortap_evictions", "Files removed from the cache to make room.", (), {(): float(counters.evicted)}
        )
        yield _counter(
            "mirrortap_evicted_bytes",
            "Bytes removed from the cache to make room.",
            (),
            {(): float(counters.evicted_bytes)},
            unit="bytes",
        )

    def _histogram_families(self, counters: Counters) -> Iterator[Metric]:
        yield _histogram(
            "mirrortap_request_seconds",
            "From a request to the end of its answer.",
            ("kind", "outcome"),
            counters.request_seconds.items(),
        )
        yield _histogram(
            "mirrortap_fill_first_byte_seconds",
            "From the beginning of a download until an endpoint begins to send.",
            ("registry",),
            self._by_registry(counters.first_byte_seconds),
        )
        yield _histogram(
            "mirrortap_fill_seconds",
            "From the beginning of a download until all of it is in the cache.",
            ("registry",),
            self._by_registry(counters.fill_seconds),
        )

    def _quota_families(self, quotas: Sequence[QuotaFacts], now: float) -> Iterator[Metric]:
        lowest: dict[_Labels, QuotaFacts] = {}
        for each in quotas:
            # What was said a whole window ago says nothing any more.
            if each.window and each.at + each.window < now:
                continue
            whose = self._endpoints.of(each.endpoint), _credential(each.credential)
            if whose not in lowest or each.remaining < lowest[whose].remaining:
                lowest[whose] = each
        labels = "endpoint", "credential"
        yield _gauge(
            "mirrortap_quota_remaining",
            "Pulls that the endpoint said are left; of clients' own credentials, to the one with the fewest.",
            labels,
            {whose: float(each.remaining) for whose, each in lowest.items()},
        )
        yield _gauge(
            "mirrortap_quota_limit",
            "Pulls that the endpoint grants in its window of time.",
            labels,
            {whose: float(each.limit) for whose, each in lowest.items() if each.limit is not None},
        )

    def _where(self, registry: str, endpoint: str) -> _Labels:
        return self._registries.of(registry), self._endpoints.of(endpoint)

    def _by_endpoint(
        self, known: Iterable[tuple[_Labels, int]], counts: Mapping[tuple[str, str], int]
    ) -> dict[_Labels, float]:
        return _added(chain(known, ((self._where(*where), count) for where, count in counts.items())))

    def _by_registry(self, histograms: Mapping[str, Histogram]) -> Iterator[tuple[_Labels, Histogram]]:
        return (((self._registries.of(name),), each) for name, each in histograms.items())


_WHERE = ("registry", "endpoint")


def _cache_families(cache: CacheFacts) -> Iterator[Metric]:
    for name, documentation, size in (
        ("mirrortap_cache_bytes", "Size of the cache's content.", cache.size),
        ("mirrortap_cache_limit_bytes", "Size that the cache is kept below.", cache.limit),
        ("mirrortap_disk_free_bytes", "Free space of the disk that the cache is on.", cache.free),
        ("mirrortap_disk_floor_bytes", "Free space below which the cache gives way.", cache.floor),
    ):
        yield _gauge(name, documentation, (), {(): float(size)}, unit="bytes")
    yield _gauge("mirrortap_cache_files", "Files in the cache.", (), {(): float(cache.files)})
    yield _gauge("mirrortap_cache_writable", "Whether the cache can be written.", (), {(): float(cache.writable)})


def _expiry(ca: CaFacts, now: float) -> Metric:
    return _gauge(
        "mirrortap_certificate_expiry_timestamp_seconds",
        "When a certificate of the CA ends; leaf: one that is issued now.",
        ("certificate",),
        {
            ("root",): ca.root.ends,
            ("intermediate",): ca.intermediate.ends,
            ("leaf",): min(now + ca.leaf_life, ca.intermediate.ends),
        },
        unit="seconds",
    )


def _process_families(facts: Facts) -> Iterator[Metric]:
    yield InfoMetricFamily("mirrortap_build", "Which mirrortap this is.", {"version": _printable(facts.version)})
    for name, documentation, count in (
        ("mirrortap_workers", "Processes that share the work.", facts.workers),
        ("mirrortap_connections", "Connections of clients that are open.", facts.connections),
        ("mirrortap_fills_running", "Downloads into the cache that run.", len(facts.fills)),
        ("mirrortap_offline", "Whether the proxy connects to nothing.", facts.offline),
        ("mirrortap_warnings", "Things that are odd, as the status page words them.", len(facts.warnings)),
    ):
        yield _gauge(name, documentation, (), {(): float(count)})
    yield _gauge("mirrortap_start_time_seconds", "When the proxy started.", (), {(): facts.started}, unit="seconds")


def _credential(name: str) -> str:
    """Whose it is, without which."""
    return name if name in ("anonymous", "own") else "client"


def _added(counts: Iterable[tuple[Sequence[str], int]]) -> dict[_Labels, float]:
    added: defaultdict[_Labels, float] = defaultdict(float)
    for labels, count in counts:
        added[tuple(labels)] += count
    return added


def _gauge(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[_Labels, float], unit: str = ""
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels, unit=unit)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _counter(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[_Labels, float], unit: str = ""
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels, unit=unit)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _histogram[Key: _Labels](
    name: str, documentation: str, labels: Sequence[str], values: Iterable[tuple[Key, Histogram]]
) -> Metric:
    added: dict[Key, Histogram] = {}
    for of, each in values:
        known = added.get(of)
        added[of] = _sum(known, each) if known else each
    family = HistogramMetricFamily(name, documentation, labels=labels, unit="seconds")
    for of, each in added.items():
        bounds = [*map(floatToGoString, each.bounds), "+Inf"]
        family.add_metric(of, list(zip(bounds, accumulate(each.counts), strict=True)), each.total)
    return family


def _sum(one: Histogram, other: Histogram) -> Histogram:
    counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    return Histogram(one.bounds, counts, one.total + other.total)
