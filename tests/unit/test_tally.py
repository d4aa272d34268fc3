"""What one process counts, and what workers' counts come to together."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from addon.counts.facts import KINDS, OTHER, OUTCOMES, Answered, EndpointFacts, Filling, QuotaFacts, Share, Tallied
from addon.counts.shares import merged
from addon.counts.tally import QUICK, Moved, Names, Tally

ONE = Answered(
    at=1000.0,
    client="10.0.0.7",
    agent="containerd/2",
    method="GET",
    registry="docker.io",
    repository="library/app",
    reference="1.0",
    kind="manifest",
    outcome="hit",
    endpoint="",
    status=200,
    sent=500,
    seconds=0.002,
)
answers = st.builds(
    replace,
    st.just(ONE),
    registry=st.sampled_from(["docker.io", "ghcr.io", "quay.io"]),
    kind=st.sampled_from(KINDS),
    outcome=st.sampled_from(OUTCOMES),
    sent=st.integers(0, 10**12),
    seconds=st.floats(0, 1e4),
    at=st.floats(0, 1e9),
    cut=st.sampled_from(["", "the client has left"]),
)


def share(tallied: Tallied = Tallied(), **what: Any) -> Share:  # noqa: B008 (frozen)
    return replace(Share(tallied, (), (), (), 0, writable=True, refused=""), **what)


def test_requests_are_counted_by_registry_kind_and_outcome() -> None:
    tally = Tally()
    for each in (ONE, ONE, replace(ONE, kind="blob", outcome="miss", sent=7), replace(ONE, cut="the client has left")):
        tally.answered(each)
    counters = tally.tallied().counters
    assert counters.requests == {("docker.io", "manifest", "hit"): 3, ("docker.io", "blob", "miss"): 1}
    assert counters.sent == {("docker.io", "hit"): 1500, ("docker.io", "miss"): 7}
    assert counters.cut == 1


def test_the_last_requests_are_known_the_newest_first() -> None:
    tally = Tally()
    for number in range(1000):
        tally.answered(replace(ONE, at=float(number)))
    requests = tally.tallied().requests
    assert [each.at for each in requests] == [float(number) for number in range(999, 999 - len(requests), -1)]
    assert 100 <= len(requests) <= 500


def test_a_duration_is_counted_under_the_first_bound_that_it_does_not_exceed() -> None:
    tally = Tally()
    for seconds in (0.0, QUICK[0], QUICK[0] * 1.01, 1e9):
        tally.answered(replace(ONE, seconds=seconds))
    histogram = tally.tallied().counters.request_seconds["manifest", "hit"]
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-1]) == (2, 1, 1)
    assert sum(histogram.counts) == 4


def test_names_that_clients_make_up_are_bounded() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.answered(replace(ONE, registry=f"r{number}.azurecr.io"))
        tally.asked(f"r{number}.azurecr.io", f"e{number}")
        tally.heard(f"r{number}.azurecr.io", f"e{number}", 0.1)
        tally.received(f"r{number}.azurecr.io", f"e{number}", 1)
        tally.ended(f"r{number}.azurecr.io", "stored", 1.0)
    counters = tally.tallied().counters
    for counted in (counters.requests, counters.sent, counters.received, counters.asked, counters.fills):
        assert len(counted) <= 101
        assert sum(counted.values()) in (10_000, 10_000 * ONE.sent), "some were not counted"
    assert counters.requests[OTHER, "manifest", "hit"] == 9_900


def test_a_name_that_was_known_stays_known() -> None:
    names = Names(most=2)
    assert [names.bounded(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]


def test_only_content_counts_for_the_hit_ratio() -> None:
    tally = Tally()
    tally.answered(ONE)
    tally.answered(replace(ONE, kind="blob", outcome="miss", sent=7))
    tally.answered(replace(ONE, kind="blob", outcome="joined", sent=7))
    tally.answered(replace(ONE, kind="other", outcome="relayed", sent=11))
    tally.answered(replace(ONE, outcome="refused", sent=13))
    tally.received("docker.io", "mirror", 70)
    assert tally.take_down() == Moved(cached=507, fetched=81, hits=2, misses=1)
    assert tally.take_down() == Moved()


def test_what_could_not_be_written_down_is_not_lost() -> None:
    tally = Tally()
    tally.answered(ONE)
    moved = tally.take_down()
    tally.answered(ONE)
    tally.put_back(moved)
    assert tally.take_down() == Moved(cached=1000, hits=2)


@given(st.lists(answers, max_size=30), st.lists(answers, max_size=30))
def test_a_successor_goes_on_counting(before: list[Answered], after: list[Answered]) -> None:
    first, both = Tally(), Tally()
    for each in before:
        first.answered(each)
    second = Tally()
    second.resume(pickle.loads(pickle.dumps(first.tallied())))
    for each in after:
        second.answered(each)
    for each in before + after:
        both.answered(each)
    assert second.tallied() == both.tallied()


@given(st.lists(st.tuples(st.integers(0, 2), answers), max_size=60))
def test_together_workers_have_counted_what_one_would_have(asked: list[tuple[int, Answered]]) -> None:
    workers, one = [Tally() for _ in range(3)], Tally()
    for number, each in asked:
        workers[number].answered(each)
        one.answered(each)
    whole = merged([share(worker.tallied()) for worker in workers]).tallied
    alone = one.tallied()
    assert whole.counters.requests == alone.counters.requests
    assert whole.counters.sent == alone.counters.sent
    assert whole.counters.cut == alone.counters.cut
    assert {k: h.counts for k, h in whole.counters.request_seconds.items()} == {
        k: h.counts for k, h in alone.counters.request_seconds.items()
    }
    assert [each.at for each in whole.requests] == sorted((each.at for _, each in asked), reverse=True)


@given(st.permutations([0.1, 0.2, 0.3]))
def test_workers_come_to_the_same_whoever_of_them_adds(seconds: list[float]) -> None:
    """Each begins with itself. A sum that is less by its last digit is a counter that was reset."""
    workers = [Tally() for _ in seconds]
    for worker, each in zip(workers, seconds, strict=True):
        worker.answered(replace(ONE, seconds=each))
    counters = merged([share(worker.tallied()) for worker in workers]).tallied.counters
    assert counters.request_seconds["manifest", "hit"].total == 0.6


FILL = Filling("sha256:aa", "docker.io", "library/app", "blob", "mirror", 100, 1000, 5.0, 1, 50.0)


def test_a_download_that_a_worker_follows_is_the_same_one() -> None:
    follows = replace(FILL, endpoint="", written=90, size=None, readers=3, since=60.0)
    for fills in ([FILL, follows], [follows, FILL]):
        whole = merged([share(fills=[each]) for each in fills])
        assert whole.fills == [replace(FILL, readers=4)]


ENDPOINT = EndpointFacts("docker.io", "mirror", False, "up", "", 0.0, 0.1, 10, 0)


def test_an_endpoint_that_one_worker_does_not_ask_is_down_and_says_for_how_many() -> None:
    down = replace(ENDPOINT, state="down", reason="Connection refused", until=99.0, latency=None, asked=2, failed=2)
    (whole,) = merged([share(endpoints=[ENDPOINT]), share(endpoints=[down])]).endpoints
    assert (whole.state, whole.until, whole.latency, whole.asked, whole.failed) == ("down", 99.0, 0.1, 12, 2)
    assert whole.reason == "Connection refused (so 1 of 2 workers)"
    (whole,) = merged([share(endpoints=[down]), share(endpoints=[down])]).endpoints
    assert whole.reason == "Connection refused"


def test_of_a_quota_the_newest_word_counts() -> None:
    old = QuotaFacts("docker.io", "anonymous", 90, 100, 21600.0, 10.0)
    new = replace(old, remaining=80, at=20.0)
    for quotas in ([old, new], [new, old]):
        assert merged([share(quotas=[each]) for each in quotas]).quotas == [new]


def test_one_worker_that_cannot_write_is_enough_to_say_so() -> None:
    assert not merged([share(), share(writable=False)]).writable
    assert merged([share(), share(refused="bad.toml: bad")]).refused == "bad.toml: bad"
