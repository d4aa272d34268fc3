"""What is remembered about who may read."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clock import Clock

from addon.cache import database
from addon.cache.links import Links
from addon.cache.rights import Proof, Rights, Verdict
from addon.config.model import Beliefs
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = ("docker.io", "library/app")
OTHER = ("docker.io", "library/other")
BELIEFS = Beliefs(public=100, private=10, access=50, grace=200)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def rights(tmp_path: Path, clock: Clock) -> Iterator[Rights]:
    with closing(database.connect(tmp_path / "mirrortap.sqlite")) as connection:
        yield Rights(connection, lambda: BELIEFS, clock)


@pytest.mark.parametrize(("public", "ttl"), [(True, 100), (False, 10)])
def test_a_verdict_is_fresh_for_its_time(rights: Rights, clock: Clock, public: bool, ttl: float) -> None:
    assert rights.verdict(*APP) is None
    rights.judge(*APP, public=public)
    assert rights.verdict(*OTHER) is None
    for later, fresh in ((0, True), (ttl - 0.01, True), (ttl, False), (-0.01, False)):
        clock.now = 1000 + later
        assert rights.verdict(*APP) == Verdict(public, fresh)


def test_the_newest_verdict_counts(rights: Rights, clock: Clock) -> None:
    for public in (True, False, True, False):
        rights.judge(*APP, public=public)
        assert rights.verdict(*APP) == Verdict(public, fresh=True)
    rights.judge(*APP, public=True)
    clock.now += 60
    rights.judge(*APP, public=True)
    clock.now += 60
    assert rights.verdict(*APP) == Verdict(public=True, fresh=True)
    clock.now -= 5000
    rights.judge(*APP, public=True)
    assert rights.verdict(*APP) == Verdict(public=True, fresh=True)


@pytest.mark.parametrize(("ends", "until"), [(None, 1050), (1020.0, 1020), (2000.0, 1050), (900.0, 900)])
def test_a_proof_ends_with_its_credential(rights: Rights, clock: Clock, ends: float | None, until: float) -> None:
    rights.prove("alice", *APP, ends)
    for now in (1000, 1019, 1020, 1049, 1050, 1199, 1201):
        clock.now = now
        assert rights.proof("alice", *APP) == Proof(fresh=now < until, within_grace=now <= 1200)
    clock.now = 999
    assert rights.proof("alice", *APP) == Proof(fresh=False, within_grace=False)


def test_a_proof_is_of_one_reader_and_one_repository(rights: Rights) -> None:
    rights.prove("alice", *APP, None)
    assert rights.proof("bob", *APP) is None
    assert rights.proof("alice", *OTHER) is None
    rights.disprove("alice", *OTHER)
    rights.disprove("bob", *APP)
    assert rights.proof("alice", *APP)
    rights.disprove("alice", *APP)
    assert rights.proof("alice", *APP) is None


def test_what_is_of_no_more_use_is_forgotten(rights: Rights, clock: Clock, tmp_path: Path) -> None:
    rights.judge(*OTHER, public=True)
    for number in range(10):
        rights.prove(f"reader {number}", *APP, None)
        rights.judge("docker.io", f"guess/{number}", public=False)
    clock.now += 201
    rights.prove("alice", *APP, None)
    rights.judge(*APP, public=False)
    with closing(database.connect(tmp_path / "mirrortap.sqlite")) as connection:
        assert connection.execute("SELECT reader FROM proof").fetchall() == [("alice",)]
        known = connection.execute("SELECT registry, repository FROM verdict").fetchall()
        assert sorted(known) == sorted([APP, OTHER])


def test_what_is_restored_is_old(rights: Rights) -> None:
    rights.judge(*OTHER, public=False)
    rights.restore([APP, OTHER])
    assert rights.verdict(*APP) == Verdict(public=True, fresh=False)
    assert rights.verdict(*OTHER) == Verdict(public=False, fresh=True)


def test_what_was_cached_before_there_were_verdicts_was_public(tmp_path: Path) -> None:
    path = tmp_path / "mirrortap.sqlite"
    with closing(database.connect(path)) as connection:
        Links(connection).add(*APP, Digest.of(b"content"))
        connection.executescript("DROP TABLE verdict; DROP TABLE proof; PRAGMA user_version = 2;")
    with closing(database.connect(path)) as connection:
        rights = Rights(connection, lambda: BELIEFS)
        assert rights.verdict(*APP) == Verdict(public=True, fresh=False)
        assert rights.verdict(*OTHER) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["judge", "prove", "disprove"]), st.booleans(), st.integers(0, 120)), max_size=12
    )
)
def test_nothing_is_fresh_that_was_not_just_seen(
    rights: Rights, clock: Clock, steps: list[tuple[str, bool, int]]
) -> None:
    rights.disprove("alice", *APP)
    rights.judge(*APP, public=False)
    seen: dict[bool, float] = {False: clock.now}
    proven: float | None = None
    for what, public, pause in steps:
        match what:
            case "judge":
                rights.judge(*APP, public=public)
                seen = {public: clock.now}
            case "prove":
                rights.prove("alice", *APP, None)
                proven = clock.now
            case "disprove":
                rights.disprove("alice", *APP)
                proven = None
        clock.now += pause
        verdict, proof = rights.verdict(*APP), rights.proof("alice", *APP)
        assert verdict
        if verdict.fresh:
            assert clock.now - seen[verdict.public] < (100 if verdict.public else 10)
        assert (proof is not None and proof.fresh) == (proven is not None and clock.now - proven < 50)
