"""Which slices a Range header asks for, held against a model of RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.ranges import expected, headers

from addon import ranges
from addon.ranges import Unsatisfiable

cases = st.integers(0, 60).flatmap(lambda size: st.tuples(st.just(size), headers(size)))


def outcome(header: str | None, size: int) -> list[range] | None:
    try:
        slices = ranges.parse(header, size)
    except Unsatisfiable:
        return []
    assert slices != []
    return None if slices is None else [range(start, end) for start, end in slices]


@given(cases)
@example((0, "bytes=0-"))
@example((0, "bytes=-1"))
@example((5, "bytes=-0"))
@example((5, "bytes=-9"))
@example((5, "bytes=4-"))
@example((5, "bytes=5-"))
@example((5, "bytes=3-2"))
@example((5, "bytes=3-3"))
@example((5, "bytes=-"))
def test_a_header_means_what_the_model_says(case: tuple[int, str | None]) -> None:
    size, header = case
    assert outcome(header, size) == expected(header, size)


@pytest.mark.parametrize(
    ("header", "slices"),
    [
        ("bytes=10-19", [(10, 20)]),
        ("bytes=0-0,-1", [(0, 1), (99, 100)]),
        ("bytes=90-,0-9", [(90, 100), (0, 10)]),
        ("bytes=0-9,5-14,0-9", [(0, 10), (5, 15), (0, 10)]),
        ("bytes=0-0,100-,2-2,-0,200-300", [(0, 1), (2, 3)]),
        ("bytes=100-,95-200", [(95, 100)]),
        ("bytes=0-49,50-", [(0, 50), (50, 100)]),
        ("bytes= , 1-1 ,,\t2-2, ", [(1, 2), (2, 3)]),
        ("BYTES=1-1", [(1, 2)]),
        (f"bytes=0-{10**30}", [(0, 100)]),
        (f"bytes=-{10**30}", [(0, 100)]),
        (f"bytes=1-1,{10**30}-", [(1, 2)]),
        ("bytes=" + "0" * 100 + "7-7", [(7, 8)]),
    ],
)
def test_what_is_asked_for_comes_in_that_order(header: str, slices: list[tuple[int, int]]) -> None:
    """Without what is not there (RFC 9110, 14.1.1), however many asked for it."""
    assert ranges.parse(header, 100) == slices


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=100-,-0", f"bytes={10**30}-,200-300"])
def test_nothing_of_it_is_there(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        ranges.parse(header, 100)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes=--1",
        "bytes=-1-2",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=0x1-2",
        "bytes=1_0-20",
        "bytes=\u0661-",
        "bytes=-\u0662",
        "bytes 0-1/5",
        "bytes=",
        "bytes=,",
        "bytes",
        "=0-1",
        "items=0-1",
        "bytes=0-1\nbytes=2-3",
        "bytes=0-1\n",
        "bytes=0-1;2-3",
        "bytes=0-1,x",
        "bytes=0-1,3-2",
        "bytes=0-1,-",
        "bytes=0-1,2",
    ],
)
def test_nonsense_is_ignored(header: str | None) -> None:
    """All of the header, when a part of it is (RFC 9110, 14.2)."""
    assert ranges.parse(header, 10) is None


def test_too_many_ranges_are_answered_with_the_whole() -> None:
    fifty = "bytes=" + ",".join(f"{number}-{number}" for number in range(50))
    assert ranges.parse(fifty, 100) == [(number, number + 1) for number in range(50)]
    assert ranges.parse(f"{fifty},50-50", 100) is None
    # The ones that are not there cost nothing but the looking.
    assert ranges.parse(f"{fifty},200-", 100) is None


def test_ranges_that_come_to_more_than_the_whole_are_answered_with_the_whole() -> None:
    assert ranges.parse("bytes=0-,0-", 100) is None
    assert ranges.parse("bytes=0-50,50-", 100) is None
    assert ranges.parse("bytes=0-49,0-49", 100) == [(0, 50), (0, 50)]


def test_a_header_that_is_too_long_is_ignored() -> None:
    longest = "bytes=" + "1" * 1993 + "-"
    with pytest.raises(Unsatisfiable):
        ranges.parse(longest, 10)
    assert ranges.parse(longest.replace("=", "=0"), 10) is None
    assert ranges.parse("bytes=0-1" + "," * 10_000_000, 10) is None
