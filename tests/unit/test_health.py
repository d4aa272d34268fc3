"""Who failed is asked last, for a while that fits the failure."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.config.model import Endpoint
from addon.oci import Digest
from addon.upstream.health import Health

FIRST, SECOND, THIRD = (Endpoint(name, f"https://{name}") for name in ("a.io", "b.io", "c.io"))
ALL = (FIRST, SECOND, THIRD)
MANIFESTS, BLOBS, HEADS = "GET manifests", "GET blobs", "HEAD manifests"


@pytest.fixture
def health() -> Health:
    return Health(Random(1))


def order(health: Health, now: float, kind: str = BLOBS, digest: Digest | None = None) -> list[Endpoint]:
    return health.order(ALL, kind, digest, now)


def test_whoever_failed_comes_last_for_a_while(health: Health) -> None:
    rest = health.failed(FIRST, asked=99, now=100)
    for kind in MANIFESTS, BLOBS, HEADS:
        assert order(health, 100, kind) == order(health, 99.9 + rest, kind) == [SECOND, THIRD, FIRST]
        assert order(health, 100.1 + rest, kind) == [FIRST, SECOND, THIRD]


def test_the_while_grows_from_5_seconds_to_5_minutes(health: Health) -> None:
    rests = []
    now = 0.0
    for _ in range(12):
        rests.append(health.failed(FIRST, asked=now, now=now))
        now += rests[-1]
    for expected, rest in zip([5, 10, 20, 40, 80, 160, *[250] * 6], rests, strict=True):
        assert expected <= rest <= expected * 1.2
    assert max(rests) <= 300


def test_an_answer_ends_it(health: Health) -> None:
    for now in range(5):
        health.failed(FIRST, asked=now, now=now)
    assert health.answered(FIRST, HEADS, asked=6, content=False)
    assert order(health, 6) == [FIRST, SECOND, THIRD]
    assert health.failed(FIRST, asked=7, now=7) <= 6, "it starts anew"


def test_that_it_is_well_again_is_news_once(health: Health) -> None:
    assert not health.answered(FIRST, BLOBS, asked=0, content=True)
    health.failed(FIRST, asked=1, now=1)
    assert not health.answered(SECOND, BLOBS, asked=2, content=True)
    assert health.answered(FIRST, BLOBS, asked=1000, content=True)
    assert not health.answered(FIRST, BLOBS, asked=1001, content=True)


def test_a_fleet_does_not_come_back_in_step() -> None:
    for wait in None, 60.0, 10_000.0:
        fleet = [Health(Random(seed)) for seed in range(50)]
        rests = {health.failed(FIRST, asked=0, now=0, wait=wait) for health in fleet}
        assert len(rests) == 50
        assert max(rests) - min(rests) > 0.1 * min(rests)


def test_many_that_fail_together_are_one_failure(health: Health) -> None:
    first = health.failed(FIRST, asked=0, now=20)
    for number in range(10):
        rest = health.failed(FIRST, asked=number, now=20 + number / 100)
    assert rest <= 6.1
    assert order(health, 20 + first) == [SECOND, THIRD, FIRST]
    assert health.failed(FIRST, asked=30, now=31) >= 10, "asked after the others had failed: the second in a row"


def test_an_answer_to_what_was_asked_before_the_failure_does_not_undo_it(health: Health) -> None:
    health.failed(FIRST, asked=0, now=2)
    assert not health.answered(FIRST, BLOBS, asked=1, content=True)
    assert order(health, 3) == [SECOND, THIRD, FIRST]
    assert health.answered(FIRST, BLOBS, asked=3, content=True)


def test_what_failed_long_ago_starts_anew(health: Health) -> None:
    for now in range(10):
        health.failed(FIRST, asked=now, now=now)
    assert health.failed(FIRST, asked=1000, now=1000) <= 6


@pytest.mark.parametrize(("wait", "least", "most"), [(1, 1, 1.2), (60, 60, 72), (2400, 2400, 2880), (1e12, 3000, 3600)])
def test_who_says_for_how_long_rests_that_long_but_no_longer_than_an_hour(
    wait: float, least: float, most: float, health: Health
) -> None:
    for now in range(3):
        assert least <= health.failed(FIRST, asked=now, now=now, wait=wait) <= most


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.none() | st.floats(0, 1e9)), min_size=1, max_size=30),
    st.integers(),
)
def test_no_rest_is_ever_longer_than_an_hour(failures: list[tuple[float, float | None]], seed: int) -> None:
    health = Health(Random(seed))
    for now, wait in sorted(failures, key=lambda failure: failure[0]):
        rest = health.failed(FIRST, asked=now, now=now, wait=wait)
        assert rest <= 3600.001
        if wait is not None:
            assert rest >= min(wait, 3000) - 0.001
    assert order(health, now + 3601) == [FIRST, SECOND, THIRD]


# --- rate limits ---


def test_a_rate_limit_is_for_one_kind_of_question(health: Health) -> None:
    """Docker Hub counts GETs of manifests alone: blobs must not go elsewhere for an hour."""
    health.failed(FIRST, asked=0, now=0, wait=1000, kind=MANIFESTS)
    assert order(health, 1, MANIFESTS) == [SECOND, THIRD, FIRST]
    assert order(health, 1, BLOBS) == order(health, 1, HEADS) == [FIRST, SECOND, THIRD]
    assert health.limited(FIRST, MANIFESTS, 1)
    assert not health.limited(FIRST, BLOBS, 1)
    assert not health.limited(SECOND, MANIFESTS, 1)
    assert not health.limited(FIRST, MANIFESTS, 3601)


def test_a_failure_is_no_rate_limit(health: Health) -> None:
    health.failed(FIRST, asked=0, now=0, wait=1000)
    assert not health.limited(FIRST, MANIFESTS, 1)


def test_a_rate_limit_ends_only_by_content_of_its_kind(health: Health) -> None:
    health.failed(FIRST, asked=0, now=0, wait=1000, kind=MANIFESTS)
    assert not health.answered(FIRST, BLOBS, asked=1, content=True)
    assert not health.answered(FIRST, HEADS, asked=1, content=True)
    assert not health.answered(FIRST, MANIFESTS, asked=1, content=False)
    assert order(health, 2, MANIFESTS) == [SECOND, THIRD, FIRST]
    assert health.answered(FIRST, MANIFESTS, asked=2, content=True)
    assert order(health, 3, MANIFESTS) == [FIRST, SECOND, THIRD]


# --- slowness ---


def test_whoever_is_outrun_once_or_twice_has_not_failed(health: Health) -> None:
    for now in 0, 10:
        assert health.outrun(FIRST, asked=now, now=now + 2) is None
    assert order(health, 13) == [FIRST, SECOND, THIRD]
    health.answered(FIRST, HEADS, asked=20, content=False)
    for now in 30, 40:
        assert health.outrun(FIRST, asked=now, now=now + 2) is None
    assert order(health, 43) == [FIRST, SECOND, THIRD]


def test_whoever_is_always_outrun_must_not_hold_up_every_request(health: Health) -> None:
    rests = [health.outrun(FIRST, asked=now, now=now + 2) for now in (0, 10, 20, 40, 60)]
    assert rests[:2] == [None, None]
    for expected, rest in zip([5, 10, 20], rests[2:], strict=True):
        assert rest
        assert expected <= rest <= expected * 1.2
    assert order(health, 63) == [SECOND, THIRD, FIRST]
    health.answered(FIRST, BLOBS, asked=70, content=True)
    assert order(health, 71) == [FIRST, SECOND, THIRD]


def test_many_that_are_outrun_together_are_one(health: Health) -> None:
    for number in range(10):
        assert health.outrun(FIRST, asked=number / 100, now=2 + number / 100) is None


# --- lies, and all of it together ---


def test_of_several_who_sent_something_wrong_together_another_is_asked_each_time(health: Health) -> None:
    digest = Digest.of(b"layer")
    for number, endpoint in enumerate(ALL):
        health.lied(endpoint, digest, now=number)
    assert order(health, 3, digest=digest) == [FIRST, SECOND, THIRD]
    health.lied(FIRST, digest, now=4)
    assert order(health, 5, digest=digest) == [SECOND, THIRD, FIRST]


def test_whoever_lied_about_a_digest_comes_last_for_that_one_only(health: Health) -> None:
    digest, other = Digest.of(b"this"), Digest.of(b"that")
    rest = health.lied(SECOND, digest, now=0)
    assert order(health, 1, digest=digest) == [FIRST, THIRD, SECOND]
    assert order(health, 1, digest=other) == order(health, 1) == [FIRST, SECOND, THIRD]
    assert order(health, rest + 1, digest=digest) == [FIRST, SECOND, THIRD]
    assert not health.answered(SECOND, BLOBS, asked=1, content=True)
    assert order(health, 1, digest=digest) == [FIRST, THIRD, SECOND]


events = st.tuples(
    st.sampled_from(ALL),
    st.sampled_from(["failed", "limited", "outrun", "answered", "refused"]),
    st.floats(0, 1000),
    st.floats(0, 1000),
)


@given(st.lists(events), st.sampled_from([MANIFESTS, BLOBS, HEADS]))
def test_nobody_is_ever_left_out(happened: list[tuple[Endpoint, str, float, float]], kind: str) -> None:
    health = Health(Random(1))
    for endpoint, event, asked, now in happened:
        match event:
            case "failed":
                health.failed(endpoint, asked, now)
            case "limited":
                health.failed(endpoint, asked, now, wait=asked, kind=MANIFESTS)
            case "outrun":
                health.outrun(endpoint, asked, now)
            case _:
                health.answered(endpoint, kind, asked, content=event == "answered")
    assert sorted(order(health, 500, kind), key=ALL.index) == list(ALL)


def test_hosts_that_clients_make_up_are_not_kept_for_ever(health: Health) -> None:
    for number in range(5000):
        health.failed(Endpoint(f"{number}.azurecr.io", ""), asked=number, now=number)
    assert len(health._rests) <= 1001


def test_how_an_endpoint_is_can_be_told_with_the_reason(health: Health) -> None:
    assert health.condition(FIRST, 0) == ("up", "", 0)
    rest = health.failed(FIRST, asked=0, now=0, why="Connection refused")
    assert health.condition(FIRST, 1) == ("down", "Connection refused", rest)
    assert health.condition(SECOND, 1) == ("up", "", 1)
    assert health.condition(FIRST, rest + 1) == ("unknown", "Connection refused", rest), "nobody has asked it since"
    health.answered(FIRST, MANIFESTS, asked=rest + 1, content=True)
    assert health.condition(FIRST, rest + 2) == ("up", "", rest + 2)


def test_a_rate_limit_is_told_apart_from_an_outage(health: Health) -> None:
    limit = health.failed(FIRST, asked=0, now=0, wait=100, kind=MANIFESTS, why="HTTP 429")
    assert health.condition(FIRST, 1) == ("limited", "HTTP 429", limit)
    rest = health.failed(FIRST, asked=1, now=1, why="no answer")
    assert health.condition(FIRST, 2) == ("down", "no answer", 1 + rest)
