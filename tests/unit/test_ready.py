"""Whether the proxy is ready: what decides that, and how it is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock

from addon.counts.facts import EndpointFacts, State
from addon.status.health import Check, Trial, answer, ready

if TYPE_CHECKING:
    from pathlib import Path


def endpoint(state: State) -> EndpointFacts:
    return EndpointFacts("private.example", "secret-mirror.example", False, state, "HTTP 503", 0.0, None, 1, 1)


def said(*states: State, stopping: bool = False, unwritable: str = "", offline: bool = False) -> tuple[int, str]:
    endpoints = [endpoint(state) for state in states]
    status, media_type, body = answer(
        ready(stopping=stopping, unwritable=unwritable, offline=offline, endpoints=endpoints)
    )
    assert media_type == "text/plain; charset=utf-8"
    return status, body.decode()


def test_ready_is_said_line_by_line() -> None:
    assert said("up", "unknown") == (
        200,
        "ok: door listens\nok: store can be written\nok: endpoints none of 2 down\n",
    )


@pytest.mark.parametrize(
    ("states", "status", "line"),
    [
        ((), 200, "ok: endpoints none known yet"),
        (("unknown",), 200, "ok: endpoints none of 1 down"),
        (("down", "limited"), 200, "ok: endpoints 1 of 2 down: mirrortap status says why"),
        (("down", "down"), 503, "NOT OK: endpoints 2 of 2 down: mirrortap status says why"),
    ],
)
def test_one_endpoint_that_is_not_down_is_enough(states: tuple[State, ...], status: int, line: str) -> None:
    assert said(*states)[0] == status
    assert line in said(*states)[1].splitlines()


def test_offline_nobody_needs_an_endpoint() -> None:
    status, text = said("down", offline=True)
    assert status == 200
    assert "ok: endpoints not asked: the proxy is offline\n" in text


def test_a_cache_that_cannot_be_written_is_not_ready() -> None:
    status, text = said(unwritable="No space left on device")
    assert status == 503
    assert "NOT OK: store cannot be written: No space left on device; images are served past it\n" in text


def test_who_is_being_stopped_is_not_ready() -> None:
    assert said("up", stopping=True)[0] == 503
    assert "NOT OK: door is being stopped\n" in said("up", stopping=True)[1]


def test_nobody_is_named() -> None:
    assert "example" not in said("down")[1]


def test_programs_are_told_in_json() -> None:
    checks = [Check("store", False, "cannot be written"), Check("door", True, "listens")]
    status, media_type, body = answer(checks, "text/html, application/JSON;q=0.9")
    assert (status, media_type) == (503, "application/json")
    assert json.loads(body) == {
        "ready": False,
        "checks": [
            {"name": "store", "ok": False, "said": "cannot be written"},
            {"name": "door", "ok": True, "said": "listens"},
        ],
    }
    assert answer(checks[1:], "application/json")[0] == 200


@given(st.booleans(), st.sampled_from(["", "broken"]), st.booleans(), st.lists(st.sampled_from(get_args(State))))
def test_ready_is_what_has_no_failed_check(stopping: bool, unwritable: str, offline: bool, states: list[State]) -> None:
    status, text = said(*states, stopping=stopping, unwritable=unwritable, offline=offline)
    assert (status == 503) == any(line.startswith("NOT OK: ") for line in text.splitlines())
    without = not offline and set(states) == {"down"}
    assert (status == 503) == (stopping or bool(unwritable) or without)


async def test_a_folder_is_tried_now_and_then_and_nothing_stays_in_it(tmp_path: Path) -> None:
    folder, clock = tmp_path / "cache", Clock()
    folder.mkdir()
    trial = Trial(folder, clock)
    assert await trial.problem() == ""
    assert not list(folder.iterdir())
    folder.rmdir()
    assert await trial.problem() == "", "it was tried just now"
    clock.now += 5
    assert await trial.problem() == "No such file or directory"
    folder.mkdir()
    clock.now += 4.9
    assert await trial.problem() != ""
    clock.now += 0.1
    assert await trial.problem() == ""
