"""W3C Trace Context as it comes from clients: what is one, and what of it is passed on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon import trace
from addon.config.model import Rule
from addon.reply import Request

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{ID}-00f067aa0ba902b7-01"


def request(*headers: tuple[str, str]) -> Request:
    return Request(Rule("docker.io", ()), "GET", "/v2/", headers)


def passed_on(parent: str, *states: str) -> dict[str, str]:
    return dict(trace.passed_on(request(("traceparent", parent), *(("tracestate", state) for state in states))))


@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        PARENT[:-2] + "00",
        PARENT[:-2] + "ff",
        # Of versions to come.
        "01" + PARENT[2:],
        "cc" + PARENT[2:] + "-what.the/future-brings",
        "fe" + PARENT[2:] + "-",
    ],
)
def test_a_trace_is_passed_on_as_it_came(parent: str) -> None:
    assert trace.trace_id(request(("TraceParent", parent))) == ID
    assert trace.passed_on(request(("TraceParent", parent))) == [("traceparent", parent)]


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "ff" + PARENT[2:],
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "0",
        PARENT + "-00",
        " " + PARENT,
        PARENT + "\n",
        PARENT.replace("-", "_"),
        PARENT.replace(ID, "0" * 32),
        PARENT.replace(ID, ID[:-1]),
        PARENT.replace(ID, ID[:-1] + "g"),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        "0-" + PARENT[3:],
        "01" + PARENT[2:] + "x",
        "01" + PARENT[2:] + "-\x1b[2J",
        "01" + PARENT[2:] + "-" + "x" * 201,
        PARENT[:-1] + "١",  # a digit, and not one of ASCII
    ],
)
def test_what_is_none_is_not_passed_on(parent: str) -> None:
    headers = request(("traceparent", parent), ("tracestate", "vendor=1"))
    assert trace.trace_id(headers) == ""
    assert trace.passed_on(headers) == []


def test_two_are_none() -> None:
    headers = request(("traceparent", PARENT), ("Traceparent", PARENT))
    assert (trace.trace_id(headers), trace.passed_on(headers)) == ("", [])


@pytest.mark.parametrize(
    ("states", "sent"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        # Several are one list, of which members may be empty (RFC 9110, 5.3).
        (["a=1 , b=2", "\t,", "c=3"], "a=1,b=2,c=3"),
        (["tenant@vendor=a b!~", "0*/_-=x"], "tenant@vendor=a b!~,0*/_-=x"),
        ([""], None),
        (["A=1"], None),
        (["a=1,b"], None),
        (["a=1,b="], None),
        (["a=1,b=2=3"], None),
        (["a=\x01"], None),
        (["a=ü"], None),
        (["a=1,a=2"], None),
        ([f"a={'x' * 257}"], None),
        ([",".join(f"k{number}=1" for number in range(33))], None),
    ],
)
def test_the_state_goes_along_when_it_makes_sense(states: list[str], sent: str | None) -> None:
    assert passed_on(PARENT, *states) == {"traceparent": PARENT} | ({"tracestate": sent} if sent else {})


def test_of_a_long_state_the_long_members_and_then_the_oldest_are_left_out() -> None:
    long, members = f"long={'x' * 124}", [f"k{number}={'y' * 90}" for number in range(9)]
    assert passed_on(PARENT, long)["tracestate"] == long
    assert passed_on(PARENT, ",".join([members[0], long, *members[1:]]))["tracestate"] == ",".join(members[:5])


@given(st.lists(st.text(st.characters() | st.sampled_from("ab=, \t\r\n"))), st.text())
def test_whatever_comes_what_is_sent_is_short_and_of_ascii(states: list[str], more: str) -> None:
    sent = passed_on("01" + PARENT[2:] + more, *states)
    assert all(re.fullmatch(r"[ -~]+", value) for value in sent.values())
    assert len(sent.get("traceparent", "")) <= 256
    assert len(sent.get("tracestate", "")) <= 512
