"""When a blob comes over several connections, and in which segments."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.config.model import Endpoint, Splitting
from addon.upstream.splitting import Single, end, fits, held_back, length, outpaced

MIB = 1 << 20
SIZES = st.integers(1, 1 << 40)
SPLITTINGS = st.builds(Splitting, segment=st.integers(1, 1 << 30), connections=st.integers(2, 16))


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (64 * MIB, None),
        (64 * MIB + 1, 16 * MIB),
        (200 * MIB, 25 * MIB),
        (512 * MIB, 64 * MIB),
        (10_000 * MIB, 64 * MIB),
    ],
)
def test_two_segments_for_each_connection_unless_they_get_too_long(left: int, expected: int | None) -> None:
    assert length(left, Splitting(64 * MIB, 4)) == expected


@pytest.mark.parametrize(("left", "expected"), [(65 * MIB, 16 * MIB), (400 * MIB, 16 * MIB), (800 * MIB, 25 * MIB)])
def test_a_segment_is_not_so_short_that_it_costs_more_than_it_brings(left: int, expected: int) -> None:
    assert length(left, Splitting(64 * MIB, 16)) == expected


@given(left=SIZES, segment=st.integers(1, 1 << 30))
def test_one_connection_has_no_segments(left: int, segment: int) -> None:
    assert length(left, Splitting(segment, 1)) is None


@given(splitting=SPLITTINGS, left=SIZES, offset=st.integers(0, 1 << 40))
def test_segments_cover_what_is_left(splitting: Splitting, left: int, offset: int) -> None:
    size = offset + left
    each = length(left, splitting)
    assert (each is None) == (left <= splitting.segment)
    if each is None or left // each > 1000:
        return
    cuts = [offset]
    while cuts[-1] < size:
        cuts.append(end(cuts[-1], each, size))
    assert cuts[-1] == size
    lengths = [after - before for before, after in itertools.pairwise(cuts)]
    assert set(lengths[:-1]) <= {each}
    assert lengths[-1] <= each * 3 / 2
    assert min(each, left) // 2 <= lengths[-1]
    assert each <= splitting.segment


@pytest.mark.parametrize(
    ("came", "elapsed", "writing", "slow"),
    [
        (10_000_000, 0.1, 0.0, True),  # 100 MB/s
        (19_000_000, 0.1, 0.0, True),
        (21_000_000, 0.1, 0.0, False),
        (0, 0.1, 0.0, True),
        # It is not waited for long: it would have come faster.
        (19_000_000, 0.1, 0.03, False),
        (3_000_000, 0.1, 0.06, False),
        (0, 0.1, 0.1, False),
    ],
)
def test_who_is_waited_for_is_slow(came: int, elapsed: float, writing: float, slow: bool) -> None:
    assert held_back(came, elapsed, writing) == slow


def test_nothing_is_put_aside_that_the_blob_itself_needs_the_room_for() -> None:
    assert fits(free=131, left=100, length=10, running=2)
    assert not fits(free=130, left=100, length=10, running=2)


def test_a_segment_that_holds_up_all_others_is_left() -> None:
    # Four connections that bring 40 bytes a second each are no slower than one of them if it comes with 10.
    assert outpaced(19, 2, mean=40, connections=4)
    assert not outpaced(20, 2, mean=40, connections=4)
    assert outpaced(0, 1, mean=1, connections=4)
    assert not outpaced(0, 0.9, mean=40, connections=4), "it has only just begun"


def test_who_sends_no_segments_is_remembered_for_a_while() -> None:
    one, other = Endpoint("a.io", "https://a.io"), Endpoint("b.io", "https://b.io")
    single = Single()
    rest = single.said(one, 100)
    assert single.known(one, 99.9 + rest)
    assert not single.known(one, 100 + rest)
    assert not single.known(other, 101)
