"""What registries say about how often they may be asked."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from addon.config.model import Endpoint
from addon.upstream.quota import Quota, Quotas, quota, told, wait

HUB = Endpoint("docker.io", "https://registry-1.docker.io", is_origin=True)
NEAR = Endpoint("near.example", "https://near.example")
NOW = 1_700_000_000.0


def headers(**named: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in named.items()})


@pytest.mark.parametrize(
    ("remaining", "limit", "expected"),
    [
        ("76;w=21600", "100;w=21600", Quota(76, 21600, 100)),
        ("0;w=21600", None, Quota(0, 21600)),
        (" 76 ; w=60 ", None, Quota(76, 60)),
        ("76", "100;w=3600", Quota(76, 3600, 100)),
        ("76", "100", Quota(76, 60, 100)),
        ("76", None, Quota(76, 60)),
        ("76;w=99999999999", None, Quota(76, 86400)),
        (None, "100;w=21600", None),
        ("", "100;w=21600", None),
        ("many", None, None),
        ("-1;w=60", None, None),
        ("76;w=", None, None),
        ("76;w=-5", None, None),
        ("76;w=60;comment", None, None),
        ("76, 100;w=60", None, None),
        ("７６", None, None),
        ("9" * 5000, None, None),
    ],
)
def test_what_is_left(remaining: str | None, limit: str | None, expected: Quota | None) -> None:
    said = {"ratelimit-remaining": remaining, "ratelimit-limit": limit}
    assert quota(CIMultiDict({name: value for name, value in said.items() if value is not None})) == expected


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("60", 60),
        (" 60 ", 60),
        ("100000000", 100_000_000),
        (formatdate(NOW + 90, usegmt=True), 90),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120),
        ("Tuesday, 14-Nov-23 22:15:20 GMT", 120),  # RFC 850, obsolete, MUST be understood
        ("Tue Nov 14 22:15:20 2023", 120),  # asctime, likewise
        (formatdate(NOW - 90, usegmt=True), None),
        ("0", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("60s", None),
        ("６０", None),
        ("9" * 5000, None),
        ("Tue, 99 Nov 2023 22:15:20 GMT", None),
    ],
)
def test_retry_after(status: int, value: str, expected: float | None) -> None:
    assert wait(status, headers(retry_after=value), NOW) == expected


@pytest.mark.parametrize("status", [200, 301, 404, 408, 500, 502])
def test_only_too_many_requests_and_unavailable_say_when_to_come_back(status: int) -> None:
    assert wait(status, headers(retry_after="60", ratelimit_remaining="0;w=60"), NOW) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"ratelimit_remaining": "0;w=21600"}, 5400),
        ({"ratelimit_remaining": "0", "ratelimit_limit": "100;w=3600"}, 900),
        ({"ratelimit_limit": "100;w=3600"}, 900),
        ({"ratelimit_remaining": "many", "ratelimit_limit": "100;w=3600"}, 900),
        ({"ratelimit_remaining": "0;w=99999999999999"}, 21600),
        ({"retry_after": "7", "ratelimit_remaining": "0;w=21600"}, 7),
        ({"retry_after": "soon", "ratelimit_remaining": "0;w=21600"}, 5400),
        ({"ratelimit_limit": "100"}, None),
        ({"ratelimit_limit": "100;w=0"}, None),
        ({"ratelimit_limit": "w=100"}, None),
        ({}, None),
    ],
)
def test_part_of_the_window_when_a_429_says_no_more(said: dict[str, str], expected: float | None) -> None:
    assert wait(429, headers(**said), NOW) == expected
    if "retry_after" not in said:
        assert wait(503, headers(**said), NOW) is None


def test_a_429_with_requests_left_is_of_another_limit() -> None:
    """Docker Hub's limit of requests a minute, say, of which the window of the pulls says nothing."""
    assert wait(429, headers(ratelimit_remaining="76;w=21600", ratelimit_limit="100;w=21600"), NOW) is None


dates = st.sampled_from([formatdate(NOW, usegmt=True), "Tue Nov 14 22:15:20 2023", "1 Jan 1 1:1:1 +"])
text = st.text(st.characters(max_codepoint=0x2FF)) | st.builds(
    lambda d, i, t: d[:i] + t + d[i:], dates, st.integers(0, 40), st.text("0123456789 :,+-GMTjan", max_size=12)
)


@given(st.sampled_from([429, 503]), text, text, text)
@example(503, "Tue, 14 Nov 2023 22:15:20 +99999999999999", "", "")
@example(503, "1 Jan 0001 00:00:00 +2300", "", "")
@example(503, "31 Dec 9999 23:59:59 -2300", "", "")
def test_no_header_breaks_anything(status: int, retry_after: str, remaining: str, limit: str) -> None:
    said = headers(retry_after=retry_after, ratelimit_remaining=remaining, ratelimit_limit=limit)
    seconds = wait(status, said, NOW)
    assert seconds is None or seconds > 0
    left = quota(said)
    assert left is None or (left.remaining >= 0 and 0 <= left.window <= 86400)


def test_below_the_floor_is_low() -> None:
    quotas = Quotas(lambda: 10)
    assert not quotas.low(HUB, now=0), "nothing is known"
    quotas.note(HUB, headers(ratelimit_remaining="10;w=60"), now=0)
    assert not quotas.low(HUB, now=1)
    quotas.note(HUB, headers(ratelimit_remaining="9;w=60"), now=2)
    assert quotas.low(HUB, now=3)
    assert not quotas.low(NEAR, now=3)
    quotas.note(HUB, headers(), now=4)
    quotas.note(HUB, headers(ratelimit_remaining="many"), now=4)
    assert quotas.low(HUB, now=5), "an answer that says nothing changes nothing"
    quotas.note(HUB, headers(ratelimit_remaining="100;w=60"), now=6)
    assert not quotas.low(HUB, now=7)


def test_what_was_said_ends_with_its_window() -> None:
    quotas = Quotas(lambda: 10)
    quotas.note(HUB, headers(ratelimit_remaining="0;w=60"), now=100)
    assert quotas.low(HUB, now=159)
    assert not quotas.low(HUB, now=161)


def test_a_floor_of_0_spares_nobody() -> None:
    quotas = Quotas(lambda: 0)
    quotas.note(HUB, headers(ratelimit_remaining="0;w=60"), now=0)
    assert not quotas.low(HUB, now=1)


def test_each_credential_has_its_own() -> None:
    quotas = Quotas(lambda: 10)
    quotas.note(HUB, headers(ratelimit_remaining="0;w=60"), now=0, credential="f1")
    assert quotas.low(HUB, now=1, credential="f1")
    assert not quotas.low(HUB, now=1)
    assert not quotas.low(HUB, now=1, credential="f2")


def test_hosts_that_clients_make_up_are_not_kept_for_ever() -> None:
    quotas = Quotas(lambda: 10)
    for number in range(5000):
        quotas.note(Endpoint(f"{number}.azurecr.io", ""), headers(ratelimit_remaining="0;w=60"), now=number)
    assert len(quotas._known) <= 1001


def test_what_still_holds_can_be_told() -> None:
    quotas = Quotas(lambda: 10)
    quotas.note(HUB, headers(ratelimit_remaining="76;w=60", ratelimit_limit="100;w=60"), now=5)
    quotas.note(HUB, headers(ratelimit_remaining="3;w=20"), now=6, credential="abc")
    assert quotas.all(10) == [(HUB, "", Quota(76, 60, 100), 5), (HUB, "abc", Quota(3, 20), 6)]
    assert quotas.all(30) == [(HUB, "", Quota(76, 60, 100), 5)]


@pytest.mark.parametrize(
    ("remaining", "limit", "expected"),
    [
        (None, "100;w=21600", ""),
        ("nonsense", None, ""),
        ("0;w=21600", "100;w=21600", "0 of 100 requests left in 6 hours"),
        ("3;w=3600", None, "3 requests left in 60 minutes"),
        ("3", "100;w=1800", "3 of 100 requests left in 30 minutes"),
        ("3", "100", "3 of 100 requests left in 60 seconds"),
        ("3;w=60", None, "3 requests left in 60 seconds"),
    ],
)
def test_what_is_left_is_told_to_people(remaining: str | None, limit: str | None, expected: str) -> None:
    named = {"ratelimit_remaining": remaining, "ratelimit_limit": limit}
    assert told(headers(**{name: value for name, value in named.items() if value is not None})) == expected
