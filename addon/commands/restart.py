"""The `mirrortap restart` command: the running proxy is replaced by a new process, without a transfer that is cut."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

from addon import running, upgrade
from addon.commands.options import DATA

if TYPE_CHECKING:
    from pathlib import Path

    from addon.running import Running
    from addon.upgrade import Outcome

# Seconds between two looks at what the old process says.
_INTERVAL = 0.05


class _NoWord(Exception):
    """Nobody says what became of it, and why."""


@click.command()
@DATA
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the new process is up, or cannot be.",
)
def restart(data: Path, timeout: float) -> None:
    """Replace the running proxy by what is installed now, without a failed pull.

    A new process gets the ports of the running one, which then finishes its transfers and ends. When the new one cannot
    start, the running one goes on, and this exits with 1.
    """
    old = running.find(data)
    if old is None:
        _fail(f"{data}: no mirrortap is running there; start it with: mirrortap serve, or name its folder with --data")
    if old.pid == 1:
        _fail(
            f"{data}: mirrortap is process 1 of a container, which ends with it: start a new container beside this one"
        )
    before = upgrade.outcome(data)
    process = _signalled(data, old)
    try:
        told = _outcome(data, process, before, time.monotonic() + timeout)
    except _NoWord as silence:
        _fail(f"pid {old.pid} {silence}; its log says more")
    finally:
        os.close(process)
    if told.failure:
        _fail(f"pid {old.pid} goes on, no other process could take over: {told.failure}")
    new = running.find(data)
    if new is None or new.pid != told.successor:
        _fail(f"pid {told.successor} took over, and has ended since; its log says more")
    click.echo(f"pid {old.pid} -> pid {new.pid}, version {old.version} -> {new.version}; {_finishing(told)}")


def _signalled(data: Path, old: Running) -> int:
    """A descriptor of the process, which has got its signal (pidfd_open(2))."""
    try:
        process = os.pidfd_open(old.pid)
        # Another process may have this number by now, or here: most would die of the signal.
        if not _has_open(old.pid, data / running.LOCK):
            os.close(process)
            _fail(
                f"pid {old.pid} does not have {data} open: if mirrortap runs in a container, run this in there, and"
                " otherwise as root or as the same user"
            )
        signal.pidfd_send_signal(process, signal.SIGUSR2)
    except OSError as error:
        _fail(f"pid {old.pid} cannot be told to be replaced: {error.strerror}; run this as the user that it runs as")
    return process


def _has_open(pid: int, path: Path) -> bool:
    """proc(5). Raises OSError."""
    wanted = path.stat()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            if os.path.samestat(entry.stat(), wanted):
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def _outcome(data: Path, process: int, before: Outcome | None, deadline: float) -> Outcome:
    """What the process says after `before`. Raises _NoWord when that is nothing until the deadline, or its end."""
    ended = False
    while True:
        told = upgrade.outcome(data)
        if told and told != before:
            return told
        if ended:
            raise _NoWord("has ended without a word")
        if time.monotonic() >= deadline:
            raise _NoWord("has not said yet what became of it")
        # That it has ended makes it readable; what it had to say before that is read once more.
        ended = bool(select.select([process], [], [], _INTERVAL)[0])


def _finishing(told: Outcome) -> str:
    if not told.finishing:
        return "no transfer was running in the old one"
    return f"{told.finishing} transfer{'s are' if told.finishing > 1 else ' is'} finishing in the old one"


def _fail(message: str) -> NoReturn:
    click.echo(f"mirrortap: {message}", err=True)
    sys.exit(1)
