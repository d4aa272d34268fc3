"""Byte ranges, held against a model that looks at every single byte."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addon import ranges
from addon.ranges import Unsatisfiable


def slow(header: str | None, size: int) -> tuple[int, int] | None:
    """RFC 9110, 14.1.2, in as many words."""
    unit, _, spec = (header or "").partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit != "bytes" or not dash or not set(first + last) <= set("0123456789") or not first + last:
        return None
    if first and last and int(first) > int(last):
        return None
    if first:
        asked = [i for i in range(size) if int(first) <= i and (not last or i <= int(last))]
    else:
        asked = [i for i in range(size) if i >= size - int(last)]
    if not asked:
        raise Unsatisfiable
    return asked[0], asked[-1] + 1


numbers = st.integers(0, 40).map(str) | st.sampled_from(["", "007", "999999999999"])
specs = st.builds(
    "{}{}-{}{}".format, st.sampled_from(["", " "]), numbers, numbers, st.sampled_from(["", " ", "x", ",0-1"])
)
headers = st.none() | st.text() | st.builds("{}={}".format, st.sampled_from(["bytes", "bytes", "items", ""]), specs)


def outcome(header: str | None, size: int) -> object:
    try:
        return ranges.single(header, size)
    except Unsatisfiable:
        return Unsatisfiable


@given(header=headers, size=st.integers(0, 30))
@example(header="bytes=0-", size=0)
@example(header="bytes=-0", size=5)
@example(header="bytes=-9", size=5)
@example(header="bytes=4-", size=5)
@example(header="bytes=5-", size=5)
@example(header="bytes=3-2", size=5)
@example(header="bytes=3-3", size=5)
@example(header="bytes=-", size=5)
def test_a_range_is_what_the_slow_model_says(header: str | None, size: int) -> None:
    try:
        expected: object = slow(header, size)
    except Unsatisfiable:
        expected = Unsatisfiable
    assert outcome(header, size) == expected


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,3-4",
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
        "bytes",
        "=0-1",
        "items=0-1",
        "bytes=0-1\nbytes=2-3",
    ],
)
def test_nonsense_is_ignored(header: str) -> None:
    assert ranges.single(header, 10) is None


@given(digits=st.integers(17, 5000), form=st.sampled_from(["bytes={}-", "bytes=0-{}", "bytes=-{}", "bytes={0}-{0}"]))
@example(digits=1_000_000, form="bytes={}-")
def test_absurd_numbers_do_no_harm(digits: int, form: str) -> None:
    """The whole, the right slice or 416 are all allowed; a crash is not."""
    assert outcome(form.format("9" * digits), 10) in (None, (0, 10), Unsatisfiable)
