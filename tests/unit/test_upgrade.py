"""One process takes over from another: what passes between the two, and what `mirrortap restart` makes of it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.processes import Program, clean_env, needs, run

from addon import running, upgrade
from addon.cli import main
from addon.doors.listening import Listener, ListenError, adopt, bind
from addon.notify import notify
from addon.running import LOCK, Running
from addon.service import Service, StartError
from addon.upgrade import InheritanceError, Inherited

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

# The successor is the same program, which sees by what it inherits that it is one.
SCRIPT = """
import logging, os, select, signal, sys, time
from pathlib import Path
from addon.upgrade import Inherited, Upgrade, outcome

logging.basicConfig(format="%(message)s", level=logging.INFO)
inherited = Inherited.take(os.environ)
if inherited:
    assert not any(os.get_inheritable(fd) for fd in (inherited.lock, inherited.news, *inherited.proxy))
    assert not any(name.startswith("MIRRORTAP") for name in os.environ)
    print(os.read(inherited.lock, 100), os.read(inherited.proxy[0], 100), inherited.mirror, flush=True)
{successor}
    sys.exit(3)
for name in "lock", "proxy":
    Path(name).write_text(name)
opened = [os.open(name, os.O_RDONLY) for name in ("lock", "proxy")]
upgrade = Upgrade(Path(), lambda: (opened[0], (opened[1:], [])))
if upgrade.begin():
{begun}
    while upgrade.news is not None:
        select.select([upgrade.news], [], [])
        if upgrade.hear():
            upgrade.finishing(7)
            os.kill(outcome(Path()).successor, signal.SIGKILL)
"""


def ran(folder: Path, successor: str, begun: str = "pass", *before: str) -> tuple[str, str]:
    """What both wrote."""
    script = SCRIPT.format(successor=textwrap.indent(successor, "    "), begun=textwrap.indent(begun, "    "))
    env = clean_env(folder / "home", PYTHONPATH=str(ROOT))
    ended = run([*before, sys.executable, "-c", script], env=env, cwd=folder)
    return ended.stdout, ended.stderr


def test_a_successor_has_what_was_handed_over_and_says_that_it_is_up(tmp_path: Path) -> None:
    said, log = ran(tmp_path, "inherited.up()\ntime.sleep(1000)")
    assert said == "b'lock' b'proxy' ()\n"
    assert log.startswith("another process is to take over: pid ")
    outcome = upgrade.outcome(tmp_path)
    assert outcome
    assert (outcome.failure, outcome.finishing) == ("", 7)
    assert f"pid {outcome.successor}\n" in log
    assert not list(tmp_path.glob(".upgrade*"))


@pytest.mark.parametrize(
    ("successor", "begun", "failure"),
    [
        ("inherited.failed('no such\\nthing')", "pass", "no such\nthing"),
        ("pass", "pass", "it ended before it was up; its own words are above"),
        ("time.sleep(1000)", "upgrade.expire()", "it was not up after 60 s"),
        ("time.sleep(1000)", "upgrade.abandon()", "both were told to stop"),
        ("pass", "upgrade.begin()", "it ended before it was up; its own words are above"),
    ],
    ids=["says why", "ends", "takes too long", "is not wanted any more", "is the only one"],
)
def test_why_there_is_no_successor(tmp_path: Path, successor: str, begun: str, failure: str) -> None:
    _, log = ran(tmp_path, successor, begun)
    outcome = upgrade.outcome(tmp_path)
    assert outcome
    assert (outcome.successor, outcome.failure) == (None, failure)
    assert "stop" in failure or f"this one goes on: {failure.replace('\n', '; ')}\n" in log
    assert ("SIGUSR2 is ignored" in log) == ("begin" in begun)


@needs("unshare")
@pytest.mark.parametrize("init", [(), ("./tini", "-c", '"$@"; exit', "-")])
def test_what_a_container_ends_with_has_none(tmp_path: Path, init: tuple[str, ...]) -> None:
    (tmp_path / "tini").symlink_to("/bin/sh")
    container = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")
    said, log = ran(tmp_path, "pass", "pass", *container, *init)
    assert said == ""
    told = "the container that this runs in ends with it: start a new container beside this one"
    assert log == f"no other process could take over, and this one goes on: {told}\n"
    outcome = upgrade.outcome(tmp_path)
    assert outcome
    assert outcome.failure == told


def test_nothing_is_inherited_where_nothing_is_said() -> None:
    assert Inherited.take({"PATH": "/bin"}) is None


@pytest.mark.parametrize("value", ["", "[]", "{}", "5", '{"lock": 99999, "news": 99998, "proxy": [], "mirror": []}'])
def test_what_is_not_there_cannot_be_inherited(value: str) -> None:
    environment = {"MIRRORTAP_INHERITED": value}
    with pytest.raises(InheritanceError, match=r"MIRRORTAP_INHERITED: .*unset it"):
        Inherited.take(environment)
    assert environment == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": 1}', b"\xff"])
def test_nonsense_is_no_outcome(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "upgrade.json").write_bytes(content)
    assert upgrade.outcome(tmp_path) is None


# --- what is handed over ---


def dup(listeners: list[Listener]) -> list[int]:
    return [os.dup(each.fileno()) for each in listeners]


@pytest.mark.parametrize("any_port", [True, False])
def test_listeners_are_taken_over_as_they_are(any_port: bool) -> None:
    (bound,) = bind("127.0.0.1", 0)
    with bound:
        port = bound.getsockname()[1]
        (adopted,) = adopt(dup([bound]), "127.0.0.1", 0 if any_port else port)
        with adopted, socket.create_connection(("127.0.0.1", port)):
            assert adopted.getsockname() == bound.getsockname()
            adopted.accept()[0].close()


@pytest.mark.parametrize(("host", "off"), [("127.0.0.1", 1), ("127.0.0.2", 0), ("nowhere.invalid", 0)])
def test_listeners_elsewhere_are_refused(host: str, off: int) -> None:
    (bound,) = bind("127.0.0.1", 0)
    with bound:
        descriptors = dup([bound])
        with pytest.raises(ListenError, match=r": (it is not where|there is no such).*start anew to change --here$"):
            adopt(descriptors, host, bound.getsockname()[1] ^ off, "--here")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptors[0])


def test_the_folder_is_that_of_the_lock(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "another", os.O_RDWR | os.O_CREAT)
    with pytest.raises(StartError, match="is not the folder of the process that is to be taken over from"):
        Service(data=tmp_path, lock=lock)
    os.close(lock)


def test_what_somebody_is_preparing_stays_when_the_folder_is_taken_over(tmp_path: Path) -> None:
    first = Service(data=tmp_path)
    preparing = tmp_path / "cache" / "partial" / ".new-1"
    preparing.touch()
    second = Service(data=tmp_path, lock=os.dup(first.lock))
    assert preparing.exists()
    first.release()
    with pytest.raises(StartError, match="is in use by another mirrortap"):
        Service(data=tmp_path)
    second.release()
    third = Service(data=tmp_path)
    assert not preparing.exists()
    third.release()
    for service in first, second, third:
        service.cache.close()


# --- mirrortap restart ---

OLD = """
import fcntl, os, signal, sys, time
from pathlib import Path
from addon import running
from addon.running import Running

lock = os.open(running.LOCK, os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
running.tell(Path(), Running(os.getpid(), "1.0", "regular", ("127.0.0.1", 1), None, (), 1, 0.0))
{then}
print("ready", flush=True)
time.sleep(1000)
"""


@contextmanager
def old(folder: Path, then: str) -> Iterator[Program]:
    """A process that runs there, which does this when it is to be replaced."""
    env = clean_env(folder / "home", PYTHONPATH=str(ROOT))
    with Program([sys.executable, "-c", OLD.format(then=then)], env=env, cwd=folder) as program:
        program.out.wait_for("ready")
        yield program


def restart(data: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["restart", "--data", str(data), *options])
    return result.exit_code, result.output


def test_where_none_runs_there_is_none_to_replace(tmp_path: Path) -> None:
    told = f"mirrortap: {tmp_path}: no mirrortap is running there; start it with: mirrortap serve, or name its folder"
    assert restart(tmp_path) == (1, f"{told} with --data\n")


def test_one_that_says_nothing_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    with old(tmp_path, "signal.signal(signal.SIGUSR2, signal.SIG_IGN)") as program:
        code, said = restart(tmp_path, "--timeout", "0.2")
        assert (code, said) == (
            1,
            f"mirrortap: pid {program.pid} has not said yet what became of it; its log says more\n",
        )


def test_one_that_dies_of_it_is_not_waited_for(tmp_path: Path) -> None:
    # What was said before is not about this time.
    (tmp_path / "upgrade.json").write_text(
        json.dumps({"pid": 5, "successor": 6, "failure": "", "finishing": 0, "at": 7})
    )
    with old(tmp_path, "") as program:
        assert restart(tmp_path) == (
            1,
            f"mirrortap: pid {program.pid} has ended without a word; its log says more\n",
        )


def test_a_process_that_is_another_by_now_gets_no_signal(tmp_path: Path) -> None:
    lock = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with Program(["sleep", "1000"], env={"PATH": os.environ["PATH"]}) as other:
        running.tell(tmp_path, Running(other.pid, "1.0", "regular", ("127.0.0.1", 1), None, (), 1, 0.0))
        code, said = restart(tmp_path)
        assert code == 1
        assert said.startswith(f"mirrortap: pid {other.pid} does not have {tmp_path} open: if mirrortap runs in a ")
        running.tell(tmp_path, Running(1, "1.0", "regular", ("127.0.0.1", 1), None, (), 1, 0.0))
        assert "is process 1 of a container" in restart(tmp_path)[1]
        assert other.running
    running.tell(tmp_path, Running(other.pid, "1.0", "regular", ("127.0.0.1", 1), None, (), 1, 0.0))
    assert "cannot be told to be replaced: No such process" in restart(tmp_path)[1]
    os.close(lock)


# --- systemd ---


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    place = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        notify("MAINPID=7", "READY=1")
        assert manager.recv(100) == b"MAINPID=7\nREADY=1"


@pytest.mark.parametrize("place", ["", "vsock:2:1", "/nowhere/notify"])
def test_nobody_need_want_to_know(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    notify("READY=1")
