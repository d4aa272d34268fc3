"""Which endpoints there are, what their answers mean, and which failure a client is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.config.model import Auth, Endpoint, Rule, Tls
from addon.oci import Blob, Digest, Manifest, OciError
from addon.upstream import routing
from addon.upstream.reader import ANYBODY, Reader
from addon.upstream.routing import Attempt, Verdict, judge, most_telling

NEAR = Endpoint("near.example", "https://near.example")
FAR = Endpoint("far.example:5000/hub", "https://far.example:5000", "/v2/hub")
ORIGIN = Endpoint("docker.io", "https://registry-1.docker.io", is_origin=True)
TAG = Manifest("library/alpine", "3.20")
BLOB = Blob("library/alpine", Digest.of(b"layer"))


def answered(endpoint: Endpoint, status: int, retry_after: str | None = None) -> Attempt:
    return Attempt(endpoint, f"HTTP {status}", status, retry_after)


def unreachable(endpoint: Endpoint) -> Attempt:
    return Attempt(endpoint, "Connection refused")


def test_mirrors_come_first_in_their_order() -> None:
    assert routing.endpoints(Rule("docker.io", (ORIGIN,), (NEAR, FAR))) == (NEAR, FAR, ORIGIN)
    assert routing.endpoints(Rule("docker.io", (ORIGIN,), (FAR, NEAR))) == (FAR, NEAR, ORIGIN)
    assert routing.endpoints(Rule("docker.io", (ORIGIN,))) == (ORIGIN,)
    assert routing.endpoints(Rule("docker.io", (), (NEAR,))) == (NEAR,)


def test_with_tls_and_without_it_is_the_same_place() -> None:
    plain = replace(FAR, url="http://far.example:5000")
    lenient = replace(FAR, tls=Tls(verify=False))
    for one, other in ((lenient, plain), (plain, lenient), (FAR, FAR)):
        assert routing.same_place(one, other)
    # What it is asked for, and as whom, makes another one of it.
    for other in (
        NEAR,
        replace(plain, base="/v2"),
        replace(plain, url="http://far.example:5001"),
        replace(plain, headers=(("X-Key", "k"),)),
        replace(plain, can=frozenset({"pull"})),
        replace(plain, is_origin=True),
    ):
        assert not routing.same_place(lenient, other)


def test_a_login_of_the_proxys_own_shows_nothing_of_what_others_may_read() -> None:
    paid = replace(NEAR, auth=Auth("near.example"))
    rule = Rule("docker.io", (ORIGIN,), (paid, FAR))
    client = Reader("alice", "Bearer x", personal=True)
    assert routing.asked_for(rule, BLOB, ANYBODY, believed=True) == (paid, FAR, ORIGIN)
    assert routing.asked_for(rule, BLOB, ANYBODY, believed=False) == (FAR, ORIGIN)
    # What a mirror has for anybody, it has been asked for already.
    assert routing.asked_for(rule, BLOB, client, believed=True) == (paid, ORIGIN)
    assert routing.asked_for(rule, BLOB, client, believed=False) == (ORIGIN,)
    assert not routing.all_tell(rule, BLOB, ANYBODY)
    assert not routing.all_tell(rule, BLOB, client)
    for told in (Rule("docker.io", (replace(ORIGIN, auth=Auth("docker.io")),), (FAR,)), Rule("docker.io", (), (FAR,))):
        assert routing.all_tell(told, BLOB, ANYBODY)
        assert routing.all_tell(told, BLOB, client)


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_has_one_meaning(status: int) -> None:
    # Too slow, too early, too often: the next minute may see another answer.
    passing = {408, 425, 429}
    if status == 200:
        expected = Verdict.FOUND
    elif status in range(400, 500) and status not in passing:
        expected = Verdict.REFUSED
    else:
        expected = Verdict.FAILED
    assert judge(status) is expected
    assert answered(NEAR, status).verdict is expected


def test_no_answer_is_a_failure() -> None:
    assert unreachable(ORIGIN).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([answered(NEAR, 404), answered(ORIGIN, 401)], True),
        ([answered(ORIGIN, 404)], True),
        ([answered(NEAR, 401), answered(ORIGIN, 503)], False),
        ([answered(NEAR, 401), answered(ORIGIN, 429)], False),
        ([answered(NEAR, 401), unreachable(ORIGIN)], False),
        ([answered(NEAR, 401)], False),
        ([], False),
    ],
)
def test_whether_the_origin_itself_refused(attempts: list[Attempt], expected: bool) -> None:
    assert routing.origin_refused(attempts) is expected


@pytest.mark.parametrize("status", [400, 405, 501, 200, 401, 404, 429, 500, 503])
def test_whether_an_endpoint_knows_no_head(status: int) -> None:
    expected = status in (400, 405, 501)
    assert routing.head_unknown([answered(NEAR, 404), answered(ORIGIN, status)]) is expected
    assert not routing.head_unknown([unreachable(NEAR)])


def told(attempts: list[Attempt], asked: Manifest | Blob = TAG) -> OciError:
    """The error, checked to name every endpoint and its reason, for people and for programs."""
    problem = most_telling(asked, "docker.io", attempts)
    for attempt in attempts:
        assert f"{attempt.endpoint.name}: {attempt.reason}" in problem.message
    (error,) = json.loads(problem.body())["errors"]
    assert error["detail"] == [{"endpoint": a.endpoint.name, "reason": a.reason} for a in attempts]
    assert not any(name.lower() == "www-authenticate" for name, _ in problem.headers)
    return problem


def test_nowhere() -> None:
    """As with fallback = false, where only mirrors were asked."""
    problem = told([answered(NEAR, 404), answered(FAR, 404)])
    assert (problem.status, problem.code) == (404, "MANIFEST_UNKNOWN")
    assert "manifest docker.io/library/alpine:3.20" in problem.message
    problem = told([answered(NEAR, 404)], BLOB)
    assert (problem.status, problem.code) == (404, "BLOB_UNKNOWN")
    assert f"blob docker.io/library/alpine@{BLOB.reference}" in problem.message


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 451])
def test_a_mirror_refused(status: int) -> None:
    """Never its own 401: the client would answer the challenge, and send a mirror its credential."""
    for attempts in (
        [answered(NEAR, status)],
        [answered(NEAR, status), answered(FAR, 404)],
        [answered(NEAR, 404), answered(FAR, status)],
    ):
        problem = told(attempts)
        assert (problem.status, problem.code) == (403, "DENIED")


def test_too_many_requests() -> None:
    problem = told([answered(NEAR, 404), answered(ORIGIN, 429, "17")])
    assert (problem.status, problem.code, problem.headers) == (429, "TOOMANYREQUESTS", (("Retry-After", "17"),))
    problem = told([answered(NEAR, 429), unreachable(FAR), answered(ORIGIN, 503)])
    assert (problem.status, problem.code, problem.headers) == (429, "TOOMANYREQUESTS", ())
    # The origin's word counts more than a mirror's.
    problem = told([answered(NEAR, 429, "5"), answered(ORIGIN, 429, "17")])
    assert problem.headers == (("Retry-After", "17"),)
    problem = told([answered(NEAR, 429, "5"), answered(ORIGIN, 429)])
    assert problem.headers == (("Retry-After", "5"),)
    problem = told([answered(NEAR, 429, "5"), answered(ORIGIN, 503, "17")])
    assert problem.headers == (("Retry-After", "5"),)
    # Said with another status, it is not about the number of requests.
    assert told([answered(NEAR, 503, "5")]).headers == ()


@pytest.mark.parametrize(
    "attempts",
    [
        [unreachable(NEAR), unreachable(ORIGIN)],
        [answered(NEAR, 404), unreachable(ORIGIN)],
        [unreachable(NEAR), answered(FAR, 404)],
        [answered(NEAR, 401), answered(ORIGIN, 500)],
        [answered(NEAR, 503)],
        [answered(NEAR, 302)],
        [Attempt(NEAR, "sends the body gzip-encoded, unasked")],
    ],
)
def test_an_endpoint_that_failed_may_have_had_it(attempts: list[Attempt]) -> None:
    """So it must not be "unknown": builds would take that for final."""
    problem = told(attempts)
    assert (problem.status, problem.code) == (502, "UNAVAILABLE")
    assert not routing.settled(attempts)


def test_nobody_to_attempt() -> None:
    """Offline. Something older may be shown, and nothing is "unknown" for that."""
    assert not routing.settled([])
    problem = most_telling(TAG, "docker.io", [])
    assert (problem.status, problem.code) == (504, "UNAVAILABLE")
    assert "manifest docker.io/library/alpine:3.20 is not in the cache" in problem.message
    assert "mirrortap is offline for docker.io" in problem.message
    assert f"@{BLOB.reference} is not in the cache, and" in most_telling(BLOB, "docker.io", []).message


one_attempt = st.builds(
    Attempt,
    st.sampled_from([NEAR, FAR, ORIGIN]),
    st.text(max_size=20),
    st.none() | st.integers(300, 599),
    st.none() | st.just("9"),
)


@given(attempts=st.lists(one_attempt, min_size=1, max_size=4), asked=st.sampled_from([TAG, BLOB]))
def test_every_combination_is_told(attempts: list[Attempt], asked: Manifest | Blob) -> None:
    problem = told(attempts, asked)
    assert problem.status in (403, 404, 429, 502)
    # "It is not there" only when all have said just that.
    assert (problem.status == 404) is all(a.status == 404 for a in attempts)
    # A client must not be told to give up while one endpoint may still have it.
    assert (problem.status in (403, 404)) is routing.settled(attempts)


@pytest.mark.parametrize(
    ("origin", "asked", "sent"),
    [
        (ORIGIN, "/v2/a/tags/list?n=1", "/v2/a/tags/list?n=1"),
        (replace(ORIGIN, base="/hub/v2"), "/v2/a/tags/list?n=1", "/hub/v2/a/tags/list?n=1"),
        (replace(ORIGIN, ns=True), "/v2/a/tags/list?n=1", "/v2/a/tags/list?n=1&ns=docker.io%3A5"),
        (replace(ORIGIN, ns=True), "/v2/a/tags/list", "/v2/a/tags/list?ns=docker.io%3A5"),
        (replace(ORIGIN, base="", replaces="a/b", ns=True), "/v2/a/b/tags/list", "/tags/list?ns=docker.io%3A5"),
        # Of no repository, so that nothing is meant by it.
        (replace(ORIGIN, base="/hub/v2", ns=True), "/v2/", "/v2/"),
    ],
)
def test_what_is_asked_of_an_origin(origin: Endpoint, asked: str, sent: str) -> None:
    assert routing.target(origin, asked, "docker.io:5") == sent
    assert routing.target(origin, asked) == sent.partition("?ns=")[0].partition("&ns=")[0]


MIRRORS = [Endpoint(f"m{number}", f"https://m{number}") for number in range(5)]


@given(count=st.integers(1, 5), data=st.data())
def test_parts_are_asked_for_at_each_mirror_in_turn(count: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations([*MIRRORS[:count], ORIGIN]))
    serving = data.draw(st.sampled_from(MIRRORS[:count]))
    turns = [routing.turned(order, serving, turn) for turn in range(count + 1)]
    assert turns[0] == turns[count]
    assert turns[0][0] == serving
    for turn in turns:
        assert set(turn) == set(MIRRORS[:count])
    assert {turn[0] for turn in turns} == set(MIRRORS[:count])


def test_parts_of_what_the_origin_sends_are_asked_for_there() -> None:
    assert routing.turned([NEAR, FAR, ORIGIN], ORIGIN, 1) == [ORIGIN]


def test_parts_are_asked_for_with_tls_first_unless_it_is_known_that_there_is_none() -> None:
    plain, other = replace(NEAR, url="http://near.example"), replace(FAR, url="http://far.example:5000")
    order = [NEAR, plain, FAR, other, ORIGIN]
    assert routing.turned(order, NEAR, 1) == [FAR, other, NEAR]
    assert routing.turned(order, plain, 1) == [FAR, other, plain]
    assert routing.turned(order, plain, 2) == [plain, FAR, other]


def test_who_sends_is_asked_even_if_it_is_not_in_line_any_more() -> None:
    assert routing.turned([FAR, ORIGIN], NEAR, 0) == [NEAR, FAR]
    assert routing.turned([ORIGIN], NEAR, 1) == [NEAR]
