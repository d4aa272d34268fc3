"""How much must go, and what goes first: by example, and by property."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from addon.cache.contents import Entry
from addon.cache.eviction import Disk, excess, step
from addon.config.model import Amount, Space
from addon.oci import Digest

GB = 1_000_000_000
MIB = 1 << 20
ROOMY = Disk(total=1000 * GB, free=900 * GB)


def space(cache: Amount = Amount(share=1.0), free: Amount = Amount()) -> Space:  # noqa: B008 (frozen)
    return Space(cache, free)


# --- how much ---


def test_nothing_goes_up_to_the_limit() -> None:
    limited = space(cache=Amount(bytes=100 * GB))
    assert excess(0, ROOMY, limited) == 0
    assert excess(100 * GB, ROOMY, limited) == 0


def test_beyond_the_limit_a_little_more_goes_than_must() -> None:
    limited = space(cache=Amount(bytes=100 * GB))
    assert excess(100 * GB + 1, ROOMY, limited) == 5 * GB + 1
    assert excess(150 * GB, ROOMY, limited) == 55 * GB


def test_the_limit_may_be_a_share_of_the_disk() -> None:
    assert excess(750 * GB, ROOMY, space(cache=Amount(share=0.75))) == 0
    assert excess(800 * GB, ROOMY, space(cache=Amount(share=0.75))) == 87_500_000_000


def test_so_much_of_the_disk_stays_free() -> None:
    floor = space(free=Amount(bytes=10 * GB))
    assert excess(100 * GB, Disk(1000 * GB, 10 * GB), floor) == 0
    assert excess(100 * GB, Disk(1000 * GB, 9 * GB), floor) == 1_500_000_000
    assert excess(100 * GB, Disk(1000 * GB, 0), floor) == 10_500_000_000


def test_no_more_goes_than_there_is() -> None:
    """Others may have filled the disk."""
    assert excess(2 * GB, Disk(1000 * GB, 0), space(free=Amount(bytes=10 * GB))) == 2 * GB
    assert excess(0, Disk(1000 * GB, 0), space(free=Amount(bytes=10 * GB)), full=True) == 0


def test_no_cache_at_all() -> None:
    assert excess(2 * GB, ROOMY, space(cache=Amount())) == 2 * GB


def test_a_full_disk_takes_something_whatever_is_allowed() -> None:
    """Nothing is said of free space, or a quota is not to be seen."""
    assert excess(100 * GB, ROOMY, space()) == 0
    assert excess(100 * GB, ROOMY, space(), full=True) == 5 * GB
    assert excess(100 * GB, Disk(1000 * GB, 0), space(free=Amount(bytes=10 * GB)), full=True) == 10_500_000_000


amounts = st.one_of(
    st.builds(Amount, bytes=st.integers(0, 1 << 42)), st.builds(Amount, share=st.floats(0, 1, allow_nan=False))
)


@given(st.integers(0, 1 << 41), st.integers(1, 1 << 42), st.data(), amounts, amounts)
def test_once_so_much_is_gone_nothing_more_must_go(
    used: int, total: int, data: st.DataObject, cache: Amount, free: Amount
) -> None:
    disk = Disk(total, data.draw(st.integers(0, total)))
    allowed = Space(cache, free)
    need = excess(used, disk, allowed)
    assert 0 <= need <= used
    after = excess(used - need, Disk(total, disk.free + need), allowed)
    assert after == 0 or need == used, "unless there was nothing left to go"
    if used <= cache.of(total) and disk.free >= free.of(total):
        assert need == 0


# --- what ---


def entries(*sizes: int) -> list[Entry]:
    return [Entry(Digest.of(b"%d" % n), size, float(n), 0.0) for n, size in enumerate(sizes)]


def test_the_oldest_go_until_it_is_enough() -> None:
    all_ = entries(10, 20, 30, 40)
    assert step(iter(all_), set(), 1) == all_[:1]
    assert step(iter(all_), set(), 30) == all_[:2]
    assert step(iter(all_), set(), 31) == all_[:3]
    assert step(iter(all_), set(), 1000) == all_
    assert step(iter([]), set(), 1000) == []


def test_what_is_pinned_is_passed_over() -> None:
    all_ = entries(10, 20, 30)
    assert step(iter(all_), {all_[0].digest}, 20) == [all_[1]]
    assert step(iter(all_), {entry.digest for entry in all_}, 20) == []


def test_a_step_is_small() -> None:
    many = entries(*[1] * 40)
    assert step(iter(many), set(), 1 << 50) == many[:16]
    large = entries(*[100 * MIB] * 10)
    assert step(iter(large), set(), 1 << 50) == large[:3]


@given(st.lists(st.integers(0, 300 * MIB), max_size=60), st.integers(1, 1 << 33), st.sets(st.integers(0, 59)))
def test_step_by_step_all_that_must_goes_and_no_more(sizes: list[int], need: int, pinned: set[int]) -> None:
    all_ = entries(*sizes)
    kept = {all_[n].digest for n in pinned if n < len(all_)}
    oldest = iter(all_)
    gone: list[Entry] = []
    while (left := need - sum(entry.size for entry in gone)) > 0 and (going := step(oldest, kept, left)):
        assert len(going) <= 16
        gone += going
    evictable = [entry for entry in all_ if entry.digest not in kept]
    assert gone == evictable[: len(gone)], "the oldest first"
    freed = sum(entry.size for entry in gone)
    assert freed >= need or gone == evictable
    assert not gone or freed - gone[-1].size < need, "the last was needed, too"
