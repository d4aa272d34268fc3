"""The supervisor, in a process of its own, over work that begins, fails and ends as a test wants it."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import Program, clean_env

from addon.workers import pause

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

SCRIPT = """
import logging, os, select, signal, sys, time
from pathlib import Path
from addon.service import StartError
from addon.upgrade import Inherited, Upgrade
from addon.workers import supervise

logging.basicConfig(format="%(message)s", level=logging.INFO)

def say(what):
    os.write(1, (what + "\\n").encode())  # at once: all processes write into one pipe

def serve(worker):
    # SIGTERM ends it as it ends any process: a handler of Python's could come too late for the read below.
    say(f"worker {{worker.number}} is {{os.getpid()}}")
    worker.up()
    os.read(worker.lifeline, 1)
    say(f"worker {{worker.number}} is alone")

def starts():
    "How often this has been called; not for two at a time."
    with open("starts", "a") as file:
        file.write(".")
    return Path("starts").stat().st_size

def look(anyway=False):
    often = Path("often").exists()
    if anyway or often:
        say("looks anyway" if anyway else "looks")
    return 0.01 if often else 3600.0

inherited = Inherited.take(os.environ)

def ready():
    say("ready")
    if inherited:
        inherited.up()

def work(worker):
{work}

try:
    supervise(
        2,
        work,
        ready=ready,
        stopping=lambda: say("stopping"),
        look=look,
        upgrade=Upgrade(Path(), lambda: (os.open("lock", os.O_CREAT), ([], []))),
        succeeded=lambda: say("succeeded"),
    )
except StartError as error:
    sys.exit(str(error))
say("over")
"""


@contextmanager
def supervised(folder: Path, work: str) -> Iterator[Program]:
    script = SCRIPT.format(work=textwrap.indent(textwrap.dedent(work), "    "))
    env = clean_env(folder / "home", PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
    with Program([sys.executable, "-c", script], env=env, cwd=folder) as program:
        yield program


def pid(program: Program, number: int, count: int = 1) -> int:
    return int(program.out.wait_for(rf"^worker {number} is (\d+)$", count=count)[1])


def test_the_first_ends_cost_no_pause() -> None:
    assert [pause(early) for early in range(8)] == [0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0]


@given(st.integers(0, 10**6))
def test_pauses_only_grow_and_stay_short(early: int) -> None:
    assert pause(early) <= pause(early + 1) <= 5.0


def test_ready_is_said_once_and_over_when_all_have_ended(tmp_path: Path) -> None:
    with supervised(tmp_path, "serve(worker)") as program:
        program.out.wait_for("^ready$")
        pids = {pid(program, 1), pid(program, 2), program.pid}
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
    assert len(pids) == 3
    assert program.out.all()[-3:] == ["ready", "stopping", "over"]
    assert program.err.all() == []


def test_a_replacement_has_the_number_of_the_dead(tmp_path: Path) -> None:
    with supervised(tmp_path, "serve(worker)") as program:
        program.out.wait_for("^ready$")
        dead = pid(program, 2)
        os.kill(dead, signal.SIGKILL)
        assert pid(program, 2, count=2) != dead
        program.err.wait_for(rf"^worker 2 \(pid {dead}\) was ended by signal 9 \(Killed\); starting another$")
        assert program.stop() == 0
    assert program.out.all().count("ready") == 1


def test_a_worker_that_ends_by_itself_is_replaced(tmp_path: Path) -> None:
    work = """
    if worker.number == 1 and starts() == 1:
        worker.up()
    else:
        serve(worker)
    """
    with supervised(tmp_path, work) as program:
        program.err.wait_for(r"^worker 1 \(pid \d+\) ended with exit code 0(; starting another)?$")
        pid(program, 1)
        assert program.stop() == 0


def test_what_no_worker_can_start_with_is_the_error(tmp_path: Path) -> None:
    with supervised(tmp_path, 'raise StartError("no such luck")') as program:
        assert program.wait() == 1
        assert program.out.all() == []
        *lines, last = program.err.all()
        assert last == "no such luck"
        assert sorted(re.sub(r"\d+\)", "N)", line) for line in lines) == [
            "worker 1 (pid N) could not start: no such luck",
            "worker 2 (pid N) could not start: no such luck",
        ]


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os._exit(3)", r"ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was ended by signal 9 \(Killed\)"),
        ("1 / 0", "ended with exit code 1"),
    ],
)
def test_workers_that_end_without_a_word(tmp_path: Path, end: str, how: str) -> None:
    with supervised(tmp_path, end) as program:
        assert program.wait() == 1
        assert program.out.all() == []
        assert re.fullmatch(rf"worker \d \(pid \d+\) {how}", program.err.all()[-1])
        assert ("ZeroDivisionError: division by zero" in program.err.all()) == (end == "1 / 0")


def test_one_that_cannot_start_at_first_is_started_again_once_another_is_up(tmp_path: Path) -> None:
    work = """
    if worker.number == 1 and not os.path.exists("failed"):
        open("failed", "w").close()
        raise StartError("not yet")
    serve(worker)
    """
    with supervised(tmp_path, work) as program:
        program.out.wait_for("^ready$")
        pid(program, 1)
        program.err.wait_for(r"^worker 1 \(pid \d+\) could not start: not yet$")
        assert program.stop() == 0


def test_one_that_never_lasts_is_not_started_in_a_loop(tmp_path: Path) -> None:
    work = """
    if worker.number == 1 and starts() > 1:
        os._exit(1)
    serve(worker)
    """
    with supervised(tmp_path, work) as program:
        program.out.wait_for("^ready$")
        os.kill(pid(program, 1), signal.SIGKILL)
        program.err.wait_for(r"starting another in 1 s$")
        # Told while it waits for the next start, it stops at once.
        assert program.stop() == 0
    # Told late, it may have come to the next.
    pauses = program.err.matching(r"^worker 1 .*; starting another(.*)$")
    assert [each[1] for each in pauses][:4] == ["", " in 0.25 s", " in 0.5 s", " in 1 s"]
    assert (tmp_path / "starts").stat().st_size in (4, 5)


def test_a_stop_before_all_are_up_is_heard(tmp_path: Path) -> None:
    work = """
    if worker.number == 1:
        say("slow")
        while not os.path.exists("go"):
            time.sleep(0.01)
    serve(worker)
    """
    with supervised(tmp_path, work) as program:
        program.out.wait_for("^slow$")
        pid(program, 2)
        program.signal(signal.SIGTERM)
        program.out.wait_for("^stopping$")
        (tmp_path / "go").touch()
        assert program.wait() == 0
    assert "ready" not in program.out.all()
    # It was held back until the worker could take it.
    pid(program, 1)


def test_signals_one_after_another_are_one_stop(tmp_path: Path) -> None:
    work = """
    def leave(*_):
        while not os.path.exists("go"):
            time.sleep(0.01)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    worker.up()
    say("waiting")
    while True:
        # Python heeds a signal that comes just before a sleep only after it.
        time.sleep(0.01)
    """
    with supervised(tmp_path, work) as program:
        program.out.wait_for("^waiting$", count=2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            program.signal(number)
            program.out.wait_for("^stopping$")
        (tmp_path / "go").touch()
        assert program.wait() == 0
    assert program.out.all().count("stopping") == 1


def test_workers_learn_that_they_are_alone(tmp_path: Path) -> None:
    with supervised(tmp_path, "serve(worker)") as program:
        program.out.wait_for("^ready$")
        dead = pid(program, 1)
        # A replacement is forked with what has come since the others were.
        os.kill(dead, signal.SIGKILL)
        pid(program, 1, count=2)
        program.signal(signal.SIGKILL)
        for number in (1, 2):
            program.out.wait_for(rf"^worker {number} is alone$")
        assert program.wait() == -signal.SIGKILL


def test_no_worker_has_its_supervisors_descriptors(tmp_path: Path) -> None:
    work = """
    pipes = {os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}")}
    say(f"worker {worker.number} has {len([pipe for pipe in pipes if pipe.startswith('pipe')])}")
    worker.up()
    os.read(worker.lifeline, 1)
    """
    with supervised(tmp_path, work) as program:
        # Its lifeline, and the pipe to say on that it is up.
        for number in (1, 2):
            assert program.out.wait_for(rf"^worker {number} has (\d+)$")[1] == "2"
        assert program.stop() == 0


def test_a_hangup_is_for_all_of_them(tmp_path: Path) -> None:
    work = """
        signal.signal(signal.SIGHUP, lambda *_: say(f"worker {worker.number} is told"))
        worker.up()
        # Python heeds a signal that comes just before a read only after it.
        while not select.select([worker.lifeline], [], [], 0.05)[0]:
            pass
    """
    with supervised(tmp_path, work) as program:
        program.out.wait_for("^ready$")
        program.signal(signal.SIGHUP)
        for line in ("looks anyway", "worker 1 is told", "worker 2 is told"):
            program.out.wait_for(f"^{line}$")
        assert program.stop() == 0
        assert "starting another" not in program.output()


def test_what_has_changed_is_looked_for_now_and_then(tmp_path: Path) -> None:
    (tmp_path / "often").touch()
    with supervised(tmp_path, "serve(worker)") as program:
        program.out.wait_for("^ready$")
        program.out.wait_for("^looks$", since=len(program.out), count=3)
        assert program.stop() == 0
