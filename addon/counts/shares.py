"""The workers' shares of the facts, put together. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from math import fsum
from typing import TYPE_CHECKING, Any

from addon.counts.facts import Counters, Histogram, Share, Tallied

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from addon.counts.facts import EndpointFacts, Filling, QuotaFacts, State

# Of endpoints that workers see differently, what keeps some of them from asking it comes first.
_WORST: tuple[State, ...] = ("down", "limited", "up", "unknown")
_RECENT = 200


def merged(shares: Sequence[Share]) -> Share:
    """What all together say."""
    return Share(
        tallied=_tallied([share.tallied for share in shares]),
        fills=_fills(chain.from_iterable(share.fills for share in shares)),
        endpoints=_endpoints([share.endpoints for share in shares]),
        quotas=_quotas(chain.from_iterable(share.quotas for share in shares)),
        connections=sum(share.connections for share in shares),
        writable=all(share.writable for share in shares),
        refused=next((share.refused for share in shares if share.refused), ""),
    )


def _tallied(all_: Sequence[Tallied]) -> Tallied:
    latency: dict[tuple[str, str], list[float]] = {}
    for each in all_:
        for key, seconds in each.latency.items():
            latency.setdefault(key, []).append(seconds)
    requests = sorted(chain.from_iterable(each.requests for each in all_), key=lambda each: each.at, reverse=True)
    last = {client: (client, where, at) for each in all_ for client, where, at in each.distrusting}
    return Tallied(
        counters=_counters([each.counters for each in all_]),
        requests=requests[:_RECENT],
        latency={key: sum(found) / len(found) for key, found in latency.items()},
        distrusting=sorted(last.values(), key=lambda each: each[2]),
    )


def _counters(all_: Sequence[Counters]) -> Counters:
    return Counters(
        requests=_sum(each.requests for each in all_),
        sent=_sum(each.sent for each in all_),
        received=_sum(each.received for each in all_),
        asked=_sum(each.asked for each in all_),
        failed=_sum(each.failed for each in all_),
        fills=_sum(each.fills for each in all_),
        joined=_sum(each.joined for each in all_),
        evicted=sum(each.evicted for each in all_),
        evicted_bytes=sum(each.evicted_bytes for each in all_),
        cut=sum(each.cut for each in all_),
        request_seconds=_histograms(each.request_seconds for each in all_),
        first_byte_seconds=_histograms(each.first_byte_seconds for each in all_),
        fill_seconds=_histograms(each.fill_seconds for each in all_),
    )


def _sum[Key: Hashable](all_: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    total: Counter[Key] = Counter()
    for each in all_:
        total.update(each)
    return dict(total)


def _histograms[Key: Hashable](all_: Iterable[Mapping[Key, Histogram]]) -> dict[Key, Histogram]:
    found: dict[Key, list[Histogram]] = {}
    for key, one in chain.from_iterable(each.items() for each in all_):
        found.setdefault(key, []).append(one)
    return {key: _histogram(each) for key, each in found.items()}


def _histogram(all_: Sequence[Histogram]) -> Histogram:
    counts = tuple(sum(each) for each in zip(*(one.counts for one in all_), strict=True))
    # The same whichever worker adds: less by a last digit is a counter that was reset.
    return Histogram(all_[0].bounds, counts, fsum(one.total for one in all_))


def _fills(all_: Iterable[Filling]) -> list[Filling]:
    """A download that a worker follows is the same as the one that another does."""
    found: dict[str, Filling] = {}
    for one in all_:
        known = found.get(one.digest)
        if known:
            ahead, behind = (one, known) if one.written > known.written else (known, one)
            one = replace(
                ahead,
                endpoint=ahead.endpoint or behind.endpoint,
                size=ahead.size if ahead.size is not None else behind.size,
                readers=known.readers + one.readers,
                since=min(known.since, one.since),
                ahead=known.ahead and one.ahead,
            )
        found[one.digest] = one
    return sorted(found.values(), key=lambda each: each.since)


def _endpoints(all_: Sequence[Sequence[EndpointFacts]]) -> list[EndpointFacts]:
    found: dict[tuple[str, str, bool], list[EndpointFacts]] = {}
    for one in chain.from_iterable(all_):
        found.setdefault((one.registry, one.endpoint, one.origin), []).append(one)
    return [_endpoint(each, len(all_)) for each in found.values()]


def _endpoint(all_: list[EndpointFacts], workers: int) -> EndpointFacts:
    worst = min(all_, key=lambda each: (_WORST.index(each.state), -each.until))
    alike = sum(each.state == worst.state for each in all_)
    reason = worst.reason
    if reason and alike < workers:
        reason += f" (so {alike} of {workers} workers)"
    latencies = [each.latency for each in all_ if each.latency is not None]
    return replace(
        worst,
        reason=reason,
        latency=sum(latencies) / len(latencies) if latencies else None,
        asked=sum(each.asked for each in all_),
        failed=sum(each.failed for each in all_),
    )


def _quotas(all_: Iterable[QuotaFacts]) -> list[QuotaFacts]:
    """What was said last."""
    found: dict[tuple[Any, ...], QuotaFacts] = {}
    for one in all_:
        key = (one.endpoint, one.credential)
        if key not in found or found[key].at < one.at:
            found[key] = one
    return sorted(found.values(), key=lambda each: (each.endpoint, each.credential))
