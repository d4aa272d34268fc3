"""Which proxy an environment names, as Go programs read it; and what is said where it names none of use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.doctor.environment import named, variable, without

HUB = ("registry-1.docker.io", 443)
PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": PROXY, "all_proxy": PROXY}, None),
        ({"https_proxy": PROXY}, "https_proxy"),
        ({"https_proxy": PROXY, "HTTPS_PROXY": PROXY}, "HTTPS_PROXY"),
    ],
)
def test_the_variable_that_counts(environment: dict[str, str], expected: str | None) -> None:
    assert variable(environment) == expected


def test_what_was_set_in_its_place_is_named() -> None:
    assert without({"PATH": "/bin"}) == "no HTTPS_PROXY"
    assert without({"ALL_PROXY": PROXY, "http_proxy": PROXY}).startswith("no HTTPS_PROXY; http_proxy, ALL_PROXY is not")


def test_a_proxy_is_named() -> None:
    parent, findings = named({"HTTPS_PROXY": "http://u:s3cret@proxy.test", "NO_PROXY": "quay.io"}, "it", *HUB)
    assert parent
    assert (parent.host, parent.port, bool(parent.authorization)) == ("proxy.test", 80, True)
    assert [(each.verdict, each.what) for each in findings] == [("ok", "HTTPS_PROXY of it names http://proxy.test:80")]


@pytest.mark.parametrize(
    ("environment", "code", "what", "remedy"),
    [
        ({"https_proxy": "https://u:s3cret@proxy.test:3128"}, "proxy-url", "https_proxy of it says https", "http://"),
        ({"HTTPS_PROXY": "proxy.test:s3cret"}, "proxy-url", "is not http://", "%XX"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "a.test, .docker.io"}, "past-the-proxy", "NO_PROXY of it", "Take .docker"),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*"}, "past-the-proxy", "no_proxy of it", "Take * out of no_proxy"),
    ],
)
def test_a_proxy_that_is_of_no_use(environment: dict[str, str], code: str, what: str, remedy: str) -> None:
    parent, findings = named(environment, "it", *HUB)
    assert parent is None
    (finding,) = findings
    assert (finding.verdict, finding.code) == ("failed", code)
    assert what in finding.what
    assert remedy in finding.remedy
    assert "s3cret" not in str(findings)


def test_programs_use_no_proxy_for_their_own_machine() -> None:
    parent, (finding,) = named({"HTTPS_PROXY": PROXY}, "it", "localhost", 5000)
    assert parent is None
    assert finding.code == "past-the-proxy"
    assert "this machine itself" in finding.what


def test_two_spellings() -> None:
    parent, findings = named({"HTTPS_PROXY": PROXY, "https_proxy": "http://other.test:1"}, "it", *HUB)
    assert parent
    assert parent.host == "proxy.test"
    assert [each.code for each in findings] == [None, "two-spellings"]
    assert named({"HTTPS_PROXY": PROXY, "https_proxy": PROXY}, "it", *HUB)[1][1:] == []


def test_socks_is_left_alone() -> None:
    parent, (finding,) = named({"HTTPS_PROXY": "socks5://proxy.test:1080"}, "it", *HUB)
    assert (parent, finding.verdict) == (None, "skipped")


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.text())
def test_any_value_is_judged_and_none_is_shown_that_is_no_proxy(value: str, past: str) -> None:
    parent, findings = named({"HTTPS_PROXY": value, "NO_PROXY": past}, "it", *HUB)
    assert findings
    assert parent or findings[-1].verdict in ("failed", "skipped")
