"""What tags pointed at, and for how long that is believed, by a clock that the test turns."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock

from addon.cache import database
from addon.cache.tags import Pointer, Tags
from addon.oci import DOCKER_MANIFEST, MANIFEST_TYPES, OCI_INDEX, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL, DOCKER = frozenset(MANIFEST_TYPES), frozenset({DOCKER_MANIFEST})
ONE, TWO, THREE = (Digest.of(name) for name in (b"one", b"two", b"three"))
TAG = ("docker.io", "library/alpine", "latest")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tags(tmp_path: Path, clock: Clock) -> Iterator[Tags]:
    with closing(database.connect(tmp_path / "tags.sqlite")) as connection:
        yield Tags(connection, clock)


def digests(tags: Tags, accepts: frozenset[str] = ALL) -> list[Digest]:
    return [pointer.digest for pointer in tags.pointers(*TAG, accepts)]


def test_nothing_is_known_at_first(tags: Tags) -> None:
    assert tags.pointers(*TAG, ALL) == []
    assert tags.fresh(*TAG, ALL, 60) is None
    assert list(tags.all()) == []


def test_an_answer_is_believed_for_its_time(tags: Tags, clock: Clock) -> None:
    tags.record(*TAG, ALL, ONE)
    assert tags.fresh(*TAG, ALL, 60) == Pointer(ONE, 0)
    clock.now += 59
    assert tags.fresh(*TAG, ALL, 60) == Pointer(ONE, 59)
    clock.now += 1
    assert tags.fresh(*TAG, ALL, 60) is None
    assert tags.pointers(*TAG, ALL) == [Pointer(ONE, 60)]
    tags.record(*TAG, ALL, ONE)
    assert tags.fresh(*TAG, ALL, 60) == Pointer(ONE, 0)
    assert tags.fresh(*TAG, ALL, 0) is None


def test_only_the_newest_answer_is_believed(tags: Tags, clock: Clock) -> None:
    tags.record(*TAG, ALL, ONE)
    clock.now += 1
    tags.record(*TAG, ALL, TWO)
    assert tags.fresh(*TAG, ALL, 60) == Pointer(TWO, 0)
    assert tags.pointers(*TAG, ALL) == [Pointer(TWO, 0), Pointer(ONE, 1)]
    clock.now += 1
    tags.record(*TAG, ALL, ONE)  # rolled back
    assert tags.fresh(*TAG, ALL, 60) == Pointer(ONE, 0)
    assert tags.pointers(*TAG, ALL) == [Pointer(ONE, 0), Pointer(TWO, 1)]


def test_an_answer_is_for_the_types_that_were_admitted(tags: Tags, clock: Clock) -> None:
    """A registry gives an old client another manifest for the same tag."""
    tags.record(*TAG, DOCKER, ONE)
    clock.now += 1
    tags.record(*TAG, ALL, TWO)
    assert tags.fresh(*TAG, DOCKER, 60) == Pointer(ONE, 1)
    assert tags.fresh(*TAG, ALL, 60) == Pointer(TWO, 0)
    assert tags.fresh(*TAG, frozenset({OCI_INDEX}), 60) is None
    # For want of anything better, others' answers are known too, after its own.
    assert digests(tags, DOCKER) == [ONE, TWO]
    assert digests(tags, ALL) == [TWO, ONE]
    assert digests(tags, frozenset({OCI_INDEX})) == [TWO, ONE]


@pytest.mark.parametrize("other", [("ghcr.io", *TAG[1:]), (TAG[0], "library/alpin", TAG[2]), (*TAG[:2], "LATEST")])
def test_tags_are_told_apart(tags: Tags, other: tuple[str, str, str]) -> None:
    tags.record(*TAG, ALL, ONE)
    assert tags.fresh(*other, ALL, 60) is None
    assert tags.pointers(*other, ALL) == []


def test_four_answers_are_kept(tags: Tags, clock: Clock) -> None:
    old = [Digest.of(b"%d" % i) for i in range(10)]
    tags.record(*TAG, DOCKER, ONE)
    for digest in old:
        clock.now += 1
        tags.record(*TAG, ALL, digest)
    assert digests(tags) == [*old[:-5:-1], ONE]
    assert digests(tags, DOCKER) == [ONE, *old[:-5:-1]]


def test_answers_for_other_types_are_not_counted(tags: Tags, clock: Clock) -> None:
    for accepts in (ALL, DOCKER, frozenset({OCI_INDEX})):
        for i in range(4):
            clock.now += 1
            tags.record(*TAG, accepts, Digest.of(f"{i} for {sorted(accepts)}".encode()))
    assert len(digests(tags)) == 12


def test_all_references_newest_first(tags: Tags, clock: Clock) -> None:
    tags.record(*TAG, ALL, ONE)
    clock.now += 1
    tags.record("ghcr.io", "b", "1", ALL, TWO)
    clock.now += 1
    tags.record(*TAG, ALL, THREE)
    latest = "docker.io/library/alpine:latest"
    assert [(reference, digest) for reference, digest, _ in tags.all()] == [
        (latest, THREE),
        ("ghcr.io/b:1", TWO),
        (latest, ONE),
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([ONE, TWO, THREE])), max_size=12), st.integers(0, 8))
def test_tags_are_as_a_plain_list_of_answers_says(answers: list[tuple[int, Digest]], ttl: int) -> None:
    clock = Clock()
    with closing(database.connect(Path(":memory:"))) as connection:
        tags = Tags(connection, clock)
        known: dict[Digest, float] = {}
        for pause, digest in answers:
            clock.now += pause + 1  # of two answers at the same time, none is the newer
            tags.record(*TAG, ALL, digest)
            known[digest] = clock.now
        clock.now += 3
        newest = sorted(known, key=lambda digest: known[digest], reverse=True)
        assert digests(tags) == newest
        expected = Pointer(newest[0], 3) if newest and ttl > 3 else None
        assert tags.fresh(*TAG, ALL, ttl) == expected


def test_whether_an_answer_is_news(tags: Tags) -> None:
    assert tags.record(*TAG, ALL, ONE)
    assert not tags.record(*TAG, ALL, ONE)
    assert tags.record(*TAG, DOCKER, ONE)
    assert tags.record(*TAG, ALL, TWO)
    assert tags.record(*TAG, ALL, ONE)


def test_admitted_types_are_written_in_one_order(tmp_path: Path) -> None:
    """A set of texts has another order in every process."""
    with closing(database.connect(tmp_path / "tags.sqlite")) as connection:
        Tags(connection).record(*TAG, ALL, ONE)
        assert connection.execute("SELECT accepts FROM tag").fetchone() == (",".join(sorted(ALL)),)


# --- a clock that is set back ---


def test_an_answer_from_the_future_is_not_believed(tags: Tags, clock: Clock) -> None:
    """Else it would be good until the clock has caught up, in years perhaps."""
    tags.record(*TAG, ALL, ONE)
    clock.now -= 3600
    assert tags.fresh(*TAG, ALL, 60) is None
    assert tags.pointers(*TAG, ALL) == [Pointer(ONE, 0)]


def test_the_newest_answer_is_believed_though_the_clock_was_set_back(tags: Tags, clock: Clock) -> None:
    tags.record(*TAG, ALL, ONE)
    clock.now -= 3600
    tags.record(*TAG, ALL, TWO)
    assert tags.fresh(*TAG, ALL, 60) == Pointer(TWO, 0)


def test_an_older_answer_does_not_come_back_when_the_clock_has_caught_up(tags: Tags, clock: Clock) -> None:
    tags.record(*TAG, ALL, ONE)
    clock.now -= 3600
    tags.record(*TAG, ALL, TWO)
    clock.now += 3601
    found = tags.fresh(*TAG, ALL, 60)
    assert found is None or found.digest == TWO


def test_pruning_never_takes_the_newest_answer(tags: Tags, clock: Clock) -> None:
    for i in range(4):
        tags.record(*TAG, ALL, Digest.of(b"%d" % i))
        clock.now += 1
    clock.now -= 3600
    tags.record(*TAG, ALL, ONE)
    assert digests(tags)[0] == ONE


def test_a_damaged_database_knows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tags.sqlite"
    with closing(database.connect(path)) as connection:
        Tags(connection).record(*TAG, ALL, ONE)
    first_page = path.read_bytes()[:4096]
    path.write_bytes(first_page + os.urandom(path.stat().st_size - 4096))
    with closing(database.connect(path)) as connection:
        assert Tags(connection).fresh(*TAG, ALL, 60) is None
        assert Tags(connection).pointers(*TAG, ALL) == []
