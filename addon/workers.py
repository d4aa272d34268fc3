"""Several processes that do the same work: forked, watched, replaced, and ended together."""

from __future__ import annotations

import gc
import logging
import math
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from addon.service import StartError
from addon.upgrade import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.upgrade import Upgrade

log = logging.getLogger("mirrortap")

# Seconds. A worker that ends sooner than this after its start is likely to do so again.
_EARLY = 5.0
_LONGEST_PAUSE = 5.0
# What a worker says when it is up; whatever else it says is why it cannot be.
_UP = b"\0"
_MOST_SAID = 4096  # bytes; a pipe takes and gives so many at once

_STOP = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = {*_STOP, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD}


def pause(early: int) -> float:
    """Seconds until a worker that has ended is started again; `early` are its ends in a row soon after a start."""
    return 0.0 if early < 2 else min(0.25 * 2 ** min(early - 2, 10), _LONGEST_PAUSE)


class Worker:
    """What a worker has of its supervisor."""

    def __init__(self, number: int, lifeline: int, news: int, mask: set[int]) -> None:
        self.number = number
        """From 1 on; a replacement has its predecessor's."""
        self.lifeline = lifeline
        """A descriptor to read from, which ends when the supervisor does, however it does."""
        self._news = news
        self._mask = mask

    def up(self) -> None:
        """To be called when the work has begun and SIGTERM is handled: until then, signals are held back."""
        self.say(_UP)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def leaving(self, transfers: int) -> None:
        """To be called on SIGUSR2: it will end by itself, when what is running has ended."""
        self.say(b"%d" % transfers)

    def say(self, what: bytes) -> None:
        with suppress(OSError):  # the supervisor is gone
            os.write(self._news, what[:_MOST_SAID])


@dataclass
class _Place:
    """One of the workers, whichever process it is just now."""

    number: int
    pid: int | None = None
    news: int | None = None  # to hear it on, until it has ended
    up: bool = False
    finishing: int | None = None  # transfers, when it has said that it is leaving
    failure: str = ""  # why it could not start, when it has said so
    started: float = 0.0
    early: int = 0
    due: float = 0.0  # when to start the next process, while there is none


class Look(Protocol):
    """Looks for what has changed, or, `anyway`, reads it; returns the seconds until it is to be called again."""

    def __call__(self, *, anyway: bool = False) -> float: ...


def supervise(
    count: int,
    work: Callable[[Worker], None],
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None],
    look: Look,
    upgrade: Upgrade,
    succeeded: Callable[[], None],
) -> None:
    """Keeps `count` forks of this process at `work` until SIGTERM or SIGINT, or until another process has taken over
    (SIGUSR2 begins the `upgrade`), and returns when they have ended.

    This process must have no other thread. `work` ends on SIGTERM, with its lifeline and, in its own time, on SIGUSR2
    (see Worker.leaving); StartError is for what it cannot start with. `ready` is called once, when the workers are up;
    `stopping` before they are told to stop, `succeeded` before they are told to leave; `look` now and then, so that a
    replacement begins with what is good now. SIGHUP is for all of them.
    Raises StartError when none of them comes up.
    """
    _Supervisor(count, work, ready, stopping, look, upgrade, succeeded).run()


class _Supervisor:
    def __init__(
        self,
        count: int,
        work: Callable[[Worker], None],
        ready: Callable[[], None],
        stopping: Callable[[], None],
        look: Look,
        upgrade: Upgrade,
        succeeded: Callable[[], None],
    ) -> None:
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._work = work
        self._say_ready = ready
        self._say_stopping = stopping
        self._look = look
        self._next_look = 0.0
        self._upgrade = upgrade
        self._expiry = 0.0  # of the upgrade that is under way, on the monotonic clock
        self._say_succeeded = succeeded
        self._ready = False
        self._stopping = False
        self._leaving = False
        self._counted = False
        self._failure = ""
        # Nothing is ever written: that the writing end is closed is the news.
        self._lifeline, held = os.pipe()
        self._signals, noted = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._own = [held, self._signals, noted]
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)

    def run(self) -> None:
        # Memory is shared with the workers until somebody writes to it, which the collector would do.
        gc.collect()
        gc.freeze()
        while not self._ending or any(place.pid for place in self._places):
            self._start_due()
            self._wait()
            self._reap()
            if not self._ready and not self._ending:
                self._watch_start()
        # Python gives signals their defaults back before the process is gone: told once more, it would die of that.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._leaving

    def _watch_start(self) -> None:
        if any(place.pid and not place.up for place in self._places):
            return
        if not any(place.up for place in self._places):
            raise StartError(self._failure)
        self._ready = True
        self._say_ready()
        for place in self._places:
            place.due = time.monotonic()

    def _start_due(self) -> None:
        for place in self._places:
            if place.pid is None and place.due <= time.monotonic() and not self._ending:
                self._start(place)

    def _start(self, place: _Place) -> None:
        place.started = time.monotonic()
        place.news, news = os.pipe()
        place.finishing, place.failure = None, ""
        # A new worker has its supervisor's handlers at first: no signal may reach them there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            place.pid = os.fork() or self._become(Worker(place.number, self._lifeline, news, mask))
        except OSError as error:
            os.write(news, f"there can be no further process: {error.strerror}".encode())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(news)
        if place.pid is None:
            self._ended(place, "")

    def _become(self, worker: Worker) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            heard = (self._upgrade.news, *(place.news for place in self._places))
            for fd in (*self._own, *(fd for fd in heard if fd is not None)):
                os.close(fd)
            self._work(worker)
            code = 0
        except StartError as error:
            worker.say(str(error).encode())
        except BaseException:
            log.exception("a fault in mirrortap")
        finally:
            os._exit(code)

    def _wait(self) -> None:
        """Until a signal has come, a worker says something, or one is due."""
        said = {place.news: place for place in self._places if place.news is not None}
        due = min((place.due for place in self._places if place.pid is None and not self._ending), default=math.inf)
        upgrade = self._upgrade.news
        if upgrade is not None:
            due = min(due, self._expiry)
        if not self._ending:
            if self._next_look <= time.monotonic():
                self._next_look = time.monotonic() + self._look()
            due = min(due, self._next_look)
        timeout = None if due == math.inf else max(0.0, due - time.monotonic())
        listened = [self._signals, *said, *([upgrade] if upgrade is not None else [])]
        readable, _, _ = select.select(listened, [], [], timeout)
        for fd in readable:
            if fd in said:
                self._hear(said[fd])
            elif fd == upgrade:
                if self._upgrade.hear():
                    self._leave()
            else:
                self._handle(set(os.read(fd, 65536)))
        if self._upgrade.news is not None and self._expiry <= time.monotonic():
            self._upgrade.expire()

    def _handle(self, came: set[int]) -> None:
        if _STOP & came:
            self._stop()
            return
        if signal.SIGHUP in came:
            self._pass_on_hangup()
        if signal.SIGUSR2 in came:
            if not self._ready or self._ending:
                log.warning("SIGUSR2 is ignored: this process is %s", "ending" if self._ending else "still starting")
            elif self._upgrade.begin():
                self._expiry = time.monotonic() + PATIENCE

    def _hear(self, place: _Place) -> None:
        if place.news is None:
            return
        said = os.read(place.news, _MOST_SAID)
        if not said:
            os.close(place.news)
            place.news = None
        if said.startswith(_UP):
            place.up, said = True, said.removeprefix(_UP)
        if said and place.up:
            place.finishing = int(said)
            self._count()
        elif said:
            place.failure = said.decode(errors="replace")

    def _pass_on_hangup(self) -> None:
        self._signal(signal.SIGHUP)
        self._next_look = time.monotonic() + self._look(anyway=True)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._upgrade.abandon()
            if not self._leaving:
                self._say_stopping()
            self._signal(signal.SIGTERM)

    def _leave(self) -> None:
        self._leaving = True
        self._say_succeeded()
        self._signal(signal.SIGUSR2)
        self._count()

    def _count(self) -> None:
        """Tells what is still running when the last worker has said so."""
        here = [place for place in self._places if place.pid]
        if self._leaving and not self._counted and all(place.finishing is not None for place in here):
            self._counted = True
            self._upgrade.finishing(sum(place.finishing or 0 for place in here))

    def _signal(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.pid:
                os.kill(place.pid, number)

    def _reap(self) -> None:
        for place in self._places:
            if place.pid:
                pid, status = os.waitpid(place.pid, os.WNOHANG)
                if pid:
                    self._ended(place, _how(os.waitstatus_to_exitcode(status)))

    def _ended(self, place: _Place, how: str) -> None:
        while place.news is not None:
            self._hear(place)  # to its end, which is here
        what = f"worker {place.number}" + (f" (pid {place.pid})" if place.pid else "")
        what += f" could not start: {place.failure}" if place.failure else f" {how}"
        place.pid, place.up = None, False
        self._count()
        if self._ending:
            return
        place.early = place.early + 1 if time.monotonic() - place.started < _EARLY else 0
        if self._ready:
            wait = pause(place.early)
            place.due = time.monotonic() + wait
            log.warning("%s; starting another%s", what, f" in {wait:g} s" if wait else "")
        else:
            # What becomes of it is seen when it is known whether any worker comes up.
            place.due = math.inf
            self._failure = self._failure or place.failure or what
            log.warning("%s", what)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"
