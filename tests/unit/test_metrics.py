"""What Prometheus is told: read by the parsers of its own client library, and held against the rules of the format."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.full_facts import BOUNDS, DAY, NOW, full

from addon.counts.facts import KINDS, OUTCOMES, Counters, EndpointFacts, Facts, Histogram, QuotaFacts, State
from addon.status.metrics import exposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.core import Metric

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
# https://prometheus.io/docs/practices/naming/: base units; and what counters end in.
UNITS = {"bytes", "seconds"}

Labels = frozenset[tuple[str, str]]


def told(facts: Facts) -> str:
    body, media_type = exposition(facts)
    assert media_type == "text/plain; version=0.0.4; charset=utf-8"
    return body.decode()


def samples(facts: Facts) -> dict[tuple[str, Labels], float]:
    return by_labels(parse_text(told(facts)))


def by_labels(families: object) -> dict[tuple[str, Labels], float]:
    found: dict[tuple[str, Labels], float] = {}
    for family in families:  # type: ignore[attr-defined]
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} is told twice"
            found[key] = sample.value
    return found


def value(facts: Facts, name: str, **labels: str) -> float | None:
    return samples(facts).get((name, frozenset(labels.items())))


def check(text: str) -> None:
    """What `promtool check metrics` looks at, and what the parsers let pass."""
    assert text.endswith("\n")
    helps, types, seen = [], {}, set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            assert re.fullmatch(r"mirrortap_[a-z_]+", name)
            assert rest
            if what == "HELP":
                helps.append(name)
                assert rest[0].isupper()
                assert rest.endswith(".")
            else:
                types[name] = rest
    assert len(helps) == len(set(helps)) == len(types)
    for name, kind in types.items():
        assert (kind == "counter") == name.endswith("_total")
        words = set(name.removesuffix("_total").split("_"))
        assert not words & {"milliseconds", "ms", "kilobytes", "megabytes", "hours", "days", "percent", kind}
        for unit in UNITS & words:
            assert name.removesuffix("_total").endswith(unit)
    for family in parse_text(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert types[name] == family.type
        assert family.documentation
        if family.type == "histogram":
            check_histogram(family)
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in seen
            seen.add(key)
            assert family.type != "counter" or sample.value >= 0
            assert not math.isnan(sample.value)
            assert {name for name, _ in key[1]} <= {
                *("registry", "kind", "outcome", "endpoint", "state", "result", "credential", "certificate"),
                *("version", "le"),
            }


def check_histogram(family: Metric) -> None:
    series: defaultdict[Labels, list[tuple[float, float]]] = defaultdict(list)
    counts: dict[Labels, float] = {}
    sums: set[Labels] = set()
    for sample in family.samples:
        labels = frozenset((name, each) for name, each in sample.labels.items() if name != "le")
        match sample.name.removeprefix(family.name):
            case "_bucket":
                series[labels].append((float(sample.labels["le"]), sample.value))
            case "_count":
                counts[labels] = sample.value
            case "_sum":
                sums.add(labels)
    assert set(series) == set(counts) == sums
    for labels, buckets in series.items():
        assert buckets == sorted(buckets)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (math.inf, counts[labels])


def test_everything_is_told_by_the_rules() -> None:
    check(told(full()))


def test_both_formats_tell_the_same() -> None:
    body, media_type = exposition(full(), OPENMETRICS)
    assert media_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = list(parse_openmetrics(body.decode()))
    assert by_labels(families) == samples(full())
    for family in families:
        assert family.unit == next((unit for unit in UNITS if family.name.endswith(f"_{unit}")), "")


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        (OPENMETRICS, True),
        ("text/html, Application/OpenMetrics-Text", True),
        ("application/openmetrics-text; version=0.0.1", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; version=1.0.0; q = 0.00, text/plain", False),
        ("application/openmetrics-text;q=0.01", True),
        ("application/openmetrics-text;version=a.b.c;escaping=\x85", True),
        (";;,,=;q", False),
    ],
)
def test_the_format_is_what_the_reader_takes(accept: str, openmetrics: bool) -> None:
    assert ("openmetrics" in exposition(full(), accept)[1]) is openmetrics


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("mirrortap_requests_total", {"registry": "docker.io", "kind": "manifest", "outcome": "hit"}, 10),
        ("mirrortap_sent_bytes_total", {"registry": "docker.io", "outcome": "miss"}, 678),
        ("mirrortap_received_bytes_total", {"registry": "docker.io", "endpoint": "mirror.example"}, 678),
        ("mirrortap_endpoint_requests_total", {"registry": "docker.io", "endpoint": "registry-1.docker.io"}, 2),
        ("mirrortap_endpoint_failures_total", {"registry": "docker.io", "endpoint": "mirror.example"}, 5),
        ("mirrortap_endpoint_up", {"registry": "docker.io", "endpoint": "mirror.example"}, 0),
        ("mirrortap_endpoint_up", {"registry": "docker.io", "endpoint": "registry-1.docker.io"}, 1),
        ("mirrortap_endpoint_state", {"registry": "docker.io", "endpoint": "mirror.example", "state": "down"}, 1),
        ("mirrortap_endpoint_state", {"registry": "docker.io", "endpoint": "mirror.example", "state": "up"}, 0),
        ("mirrortap_endpoint_latency_seconds", {"registry": "docker.io", "endpoint": "mirror.example"}, 0.25),
        ("mirrortap_quota_remaining", {"endpoint": "registry-1.docker.io", "credential": "anonymous"}, 76),
        ("mirrortap_quota_limit", {"endpoint": "registry-1.docker.io", "credential": "own"}, 200),
        ("mirrortap_fills_total", {"registry": "docker.io", "result": "stored"}, 3),
        ("mirrortap_fills_joined_total", {"registry": "docker.io"}, 2),
        ("mirrortap_fills_running", {}, 1),
        ("mirrortap_request_seconds_count", {"kind": "manifest", "outcome": "hit"}, 10),
        ("mirrortap_request_seconds_sum", {"kind": "manifest", "outcome": "hit"}, 21.5),
        ("mirrortap_request_seconds_bucket", {"kind": "manifest", "outcome": "hit", "le": "1.0"}, 8),
        ("mirrortap_fill_seconds_bucket", {"registry": "docker.io", "le": "10.0"}, 9),
        ("mirrortap_fill_first_byte_seconds_bucket", {"registry": "docker.io", "le": "+Inf"}, 10),
        ("mirrortap_transfers_cut_total", {}, 1),
        ("mirrortap_evictions_total", {}, 8),
        ("mirrortap_evicted_bytes_total", {}, 80_000),
        ("mirrortap_cache_bytes", {}, 5e9),
        ("mirrortap_cache_limit_bytes", {}, 1e10),
        ("mirrortap_cache_files", {}, 42),
        ("mirrortap_cache_writable", {}, 1),
        ("mirrortap_disk_free_bytes", {}, 2e10),
        ("mirrortap_disk_floor_bytes", {}, 1e9),
        ("mirrortap_certificate_expiry_timestamp_seconds", {"certificate": "root"}, NOW + 3650 * DAY),
        ("mirrortap_certificate_expiry_timestamp_seconds", {"certificate": "intermediate"}, NOW + 90 * DAY),
        ("mirrortap_certificate_expiry_timestamp_seconds", {"certificate": "leaf"}, NOW + 7 * DAY),
        ("mirrortap_build_info", {"version": "1.2.3"}, 1),
        ("mirrortap_workers", {}, 2),
        ("mirrortap_connections", {}, 7),
        ("mirrortap_warnings", {}, 1),
        ("mirrortap_offline", {}, 0),
        ("mirrortap_start_time_seconds", {}, NOW - 3600),
    ],
)
def test_what_is_told(name: str, labels: Mapping[str, str], expected: float) -> None:
    assert value(full(), name, **labels) == expected


def test_a_proxy_that_has_done_nothing_yet_counts_from_zero() -> None:
    facts = replace(full(), counters=Counters(), endpoints=(), quotas=(), fills=())
    check(told(facts))
    for name in "transfers_cut", "evictions", "evicted_bytes":
        assert value(facts, f"mirrortap_{name}_total") == 0


def test_what_is_configured_counts_from_zero() -> None:
    """Of a counter that is first seen at 10, Prometheus knows no increase."""
    facts = replace(full(), counters=Counters())
    for endpoint in facts.endpoints:
        where = {"registry": endpoint.registry, "endpoint": endpoint.endpoint}
        for name in "received_bytes", "endpoint_requests", "endpoint_failures":
            assert value(facts, f"mirrortap_{name}_total", **where) == 0
        for outcome in "hit", "miss":
            assert value(facts, "mirrortap_sent_bytes_total", registry=endpoint.registry, outcome=outcome) == 0
            for kind in "manifest", "blob":
                of = {"registry": endpoint.registry, "kind": kind, "outcome": outcome}
                assert value(facts, "mirrortap_requests_total", **of) == 0


def test_a_leaf_lives_no_longer_than_the_intermediate() -> None:
    facts = full()
    short = replace(facts, ca=replace(facts.ca, intermediate=replace(facts.ca.intermediate, ends=NOW + DAY)))
    assert value(short, "mirrortap_certificate_expiry_timestamp_seconds", certificate="leaf") == NOW + DAY


def test_of_clients_quotas_the_lowest_is_told_and_nobody_named() -> None:
    text = told(full())
    where = {"endpoint": "registry-1.docker.io", "credential": "client"}
    assert value(full(), "mirrortap_quota_remaining", **where) == 12
    assert value(full(), "mirrortap_quota_limit", **where) == 100
    assert "3d4c" not in text


def test_a_quota_that_was_said_a_window_ago_is_told_no_more() -> None:
    def quotas(at: float, window: float) -> Facts:
        return replace(full(), quotas=(QuotaFacts("hub", "own", 3, None, window, at),))

    where = {"endpoint": "hub", "credential": "own"}
    for facts, expected in (
        (quotas(NOW - 60, 60), 3),
        (quotas(NOW - 61, 60), None),
        (quotas(NOW - 9999, 0), 3),  # of unknown length
    ):
        assert value(facts, "mirrortap_quota_remaining", **where) == expected
        assert value(facts, "mirrortap_quota_limit", **where) is None


@pytest.mark.parametrize(
    ("states", "expected", "up"),
    [
        (("up", "down"), "down", 0),
        (("limited", "up"), "limited", 1),
        (("unknown",), "unknown", 1),
        (("up", "unknown"), "up", 1),
    ],
)
def test_of_one_that_is_asked_as_mirror_and_as_origin_the_more_telling_state_counts(
    states: tuple[State, ...], expected: str, up: float
) -> None:
    endpoints = [
        EndpointFacts("r", "e", bool(number), state, "", 0.0, None, 0, 0) for number, state in enumerate(states)
    ]
    facts = replace(full(), endpoints=endpoints)
    for state in get_args(State):
        told = value(facts, "mirrortap_endpoint_state", registry="r", endpoint="e", state=state)
        assert told == (state == expected)
    assert value(facts, "mirrortap_endpoint_up", registry="r", endpoint="e") == up


def test_a_scrape_of_ten_thousand_registries_stays_bounded() -> None:
    names = [f'{number}.example/"\n\\{"x" * 1000}\udc80' for number in range(10_000)]
    counters = Counters(
        requests={(name, "blob", "miss"): 1 for name in names},
        sent={(name, "miss"): 2 for name in names},
        received={(name, name): 3 for name in names},
        fill_seconds={name: Histogram(BOUNDS, (1, 0, 0, 0), 0.05) for name in names},
    )
    facts = replace(full(), counters=counters)
    body = exposition(facts)[0]
    assert len(body) < 2_500_000
    check(body.decode())
    found = by_labels(parse_text(body.decode()))
    # What is configured keeps its name, and nothing is lost.
    configured = {"registry": "docker.io", "endpoint": "mirror.example"}
    assert found["mirrortap_endpoint_up", frozenset(configured.items())] == 0
    totals: defaultdict[str, float] = defaultdict(float)
    for (name, _), count in found.items():
        totals[name] += count
    assert totals["mirrortap_requests_total"] == 10_000
    assert totals["mirrortap_sent_bytes_total"] == 20_000
    assert totals["mirrortap_received_bytes_total"] == 30_000
    assert totals["mirrortap_fill_seconds_count"] == 10_000


# Any text, also such as no UTF-8 has a place for, and what means something in the format.
NAMES = st.text(st.characters() | st.sampled_from('\n\r"\\{}=,#\x00\x85\u2028\ud800')) | st.just("docker.io")
COUNTS = st.integers(0, 10**15)
KIND, OUTCOME = st.sampled_from(KINDS), st.sampled_from(OUTCOMES)
RESULT = st.sampled_from(["stored", "followed", "lied", "unwritable", "failed"])
PLACES = st.tuples(NAMES, NAMES)
HISTOGRAMS = st.builds(
    Histogram,
    st.just(BOUNDS),
    st.lists(COUNTS, min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1),
    st.floats(0, 1e12, allow_nan=False),
)
FACTS = st.builds(
    lambda counters, endpoints, quotas: replace(full(), counters=counters, endpoints=endpoints, quotas=quotas),
    st.builds(
        Counters,
        requests=st.dictionaries(st.tuples(NAMES, KIND, OUTCOME), COUNTS),
        sent=st.dictionaries(st.tuples(NAMES, OUTCOME), COUNTS),
        received=st.dictionaries(PLACES, COUNTS),
        asked=st.dictionaries(PLACES, COUNTS),
        failed=st.dictionaries(PLACES, COUNTS),
        fills=st.dictionaries(st.tuples(NAMES, RESULT), COUNTS),
        joined=st.dictionaries(NAMES, COUNTS),
        evicted=COUNTS,
        cut=COUNTS,
        request_seconds=st.dictionaries(st.tuples(KIND, OUTCOME), HISTOGRAMS),
        first_byte_seconds=st.dictionaries(NAMES, HISTOGRAMS),
        fill_seconds=st.dictionaries(NAMES, HISTOGRAMS),
    ),
    st.lists(
        st.builds(
            EndpointFacts,
            NAMES,
            NAMES,
            st.booleans(),
            st.sampled_from(get_args(State)),
            st.just(""),
            st.just(0.0),
            st.none() | st.floats(0, 1e6),
            COUNTS,
            COUNTS,
        )
    ),
    st.lists(
        st.builds(
            QuotaFacts,
            NAMES,
            st.sampled_from(["anonymous", "own", "client 1f2e", "client 3d4c"]),
            COUNTS,
            st.none() | COUNTS,
            st.sampled_from([0.0, 60.0, 21_600.0]),
            st.floats(NOW - 100_000, NOW),
        )
    ),
)


@settings(max_examples=30, deadline=None)
@given(FACTS)
def test_whatever_the_facts_are_it_is_told_by_the_rules(facts: Facts) -> None:
    check(told(facts))
    body, _ = exposition(facts, OPENMETRICS)
    found = by_labels(parse_openmetrics(body.decode()))
    assert found == samples(facts)
    for name, counts in (
        ("mirrortap_requests_total", facts.counters.requests),
        ("mirrortap_sent_bytes_total", facts.counters.sent),
        ("mirrortap_received_bytes_total", facts.counters.received),
        ("mirrortap_fills_joined_total", facts.counters.joined),
    ):
        told_in_all = sum(count for (each, _), count in found.items() if each == name)
        assert told_in_all == pytest.approx(sum(counts.values()), rel=1e-12)
