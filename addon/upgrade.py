"""One process takes over from another: the new one is started by the old one, gets its listening sockets and the data
folder's lock, and says when it is up, or why it cannot be. Until then nothing changes for the old one.

A socket that both listen on has one queue: no connection is lost, whoever takes it. A lock (flock) is that of an open
file, whichever processes have it: it is held throughout.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

log = logging.getLogger("mirrortap")

# Seconds until the new process must be up: it reads the configuration and the database, and forks its workers.
PATIENCE = 60.0
# What a process says when it is up; whatever else it says is why it cannot be.
_UP = b"\0"
_MOST_SAID = 4096  # bytes; a pipe takes and gives so many at once
# The successor is started by a process that ends at once, and is thereby process 1's child: systemd kills a service's
# main process that is not its own child without waiting for it to stop (main_pid_alien in its src/core/unit.c).
_ORPHANING = """
import os, sys
told, *argv = sys.argv[1:]
pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, int(told))])
os.write(int(told), b"%d" % pid)
"""
# Of containers, as `docker run --init`: they end with the process that they have started.
_INITS = {"catatonit", "docker-init", "dumb-init", "tini"}
_VARIABLE = "MIRRORTAP_INHERITED"
_FILE = "upgrade.json"


class InheritanceError(Exception):
    """What the variable says is not there."""


@dataclass(frozen=True)
class Inherited:
    """Descriptors: of the data folder's lock, what is listened on for the proxy and the mirror, and where to say
    whether this process is up."""

    lock: int
    news: int
    proxy: tuple[int, ...]
    mirror: tuple[int, ...]

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Inherited | None:
        """What this process has of one that it is to take over from; None when there is none.

        Not for the processes that this one starts. Raises InheritanceError.
        """
        told = environment.pop(_VARIABLE, None)
        if told is None:
            return None
        try:
            found = json.loads(told)
            inherited = cls(found["lock"], found["news"], tuple(found["proxy"]), tuple(found["mirror"]))
            for fd in inherited._all():
                os.set_inheritable(fd, False)
        except (OSError, ValueError, TypeError, LookupError):
            raise InheritanceError(f"{_VARIABLE}: is set by mirrortap itself, for its successor: unset it") from None
        return inherited

    def _all(self) -> Iterable[int]:
        return self.lock, self.news, *self.proxy, *self.mirror

    def up(self) -> None:
        """This process serves now."""
        self._say(_UP)

    def failed(self, why: str) -> None:
        """It does not, and ends."""
        self._say(why.encode())

    def _say(self, what: bytes) -> None:
        with suppress(OSError):  # the other process is gone
            os.write(self.news, what[:_MOST_SAID])
        os.close(self.news)


@dataclass(frozen=True)
class Outcome:
    """Of an attempt: `pid` was to be taken over from, by `successor`; `failure` says why it was not.

    `finishing`: transfers that the old process had still to finish. `at`: seconds on the machine's monotonic clock.
    """

    pid: int
    successor: int | None
    failure: str
    finishing: int
    at: float


def outcome(data: Path) -> Outcome | None:
    """Of the last attempt there, if there was one."""
    try:
        told = json.loads((data / _FILE).read_bytes())
        successor = told["successor"]
        return Outcome(
            pid=int(told["pid"]),
            successor=None if successor is None else int(successor),
            failure=str(told["failure"]),
            finishing=int(told["finishing"]),
            at=float(told["at"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


class Upgrade:
    """The attempts of one process to be taken over from, one at a time.

    `begin` it; as long as there are `news` to be read, `hear` them when they come and `expire` it after PATIENCE.
    """

    def __init__(self, data: Path, handed: Callable[[], tuple[int, tuple[list[int], list[int]]]]) -> None:
        """`handed` gives the descriptors of the lock, and of what is listened on for the proxy and the mirror."""
        self._data = data
        self._handed = handed
        self._successor: int | None = None
        self._failure = ""
        self.news: int | None = None
        """A descriptor to read from, while a successor is coming up."""
        self.over = False
        """Whether it has come up."""

    def begin(self) -> bool:
        """Whether there is a successor now that may come up; the log says why not. Does not wait for it."""
        if self.news is not None or self.over:
            log.warning("SIGUSR2 is ignored: another process is taking over already")
            return False
        self._failure = ""
        if _container_ends_with_this():
            self._failed("the container that this runs in ends with it: start a new container beside this one")
            return False
        lock, (proxy, mirror) = self._handed()
        self.news, news = os.pipe()
        inherited = Inherited(lock, news, tuple(proxy), tuple(mirror))
        try:
            self._successor = _started(inherited)
        except OSError as error:
            self._close()
            self._failed(f"{sys.executable}: cannot be started: {error.strerror}")
            return False
        finally:
            os.close(news)
        log.info("another process is to take over: pid %d", self._successor)
        return True

    def hear(self) -> bool:
        """Reads what there is to read; True once, when the successor is up. Does not wait."""
        assert self.news is not None
        said = os.read(self.news, _MOST_SAID)
        if said == _UP:
            self.over = True
        elif said:
            self._failure = self._failure or said.decode(errors="replace")
            return False
        self._close()
        if not self.over:
            # It has closed the pipe by ending.
            self._failed(self._failure or "it ended before it was up; its own words are above")
        return self.over

    def expire(self) -> None:
        """There has been time enough."""
        if self.news is not None:
            self._end(signal.SIGKILL)
            self._failed(self._failure or f"it was not up after {PATIENCE:g} s")

    def abandon(self) -> None:
        """This process is to end, and so is one that is coming up."""
        if self.news is not None:
            self._end(signal.SIGTERM)
            self._tell(None, "both were told to stop", 0)

    def finishing(self, transfers: int) -> None:
        """To be said once, when the successor is up: what is still running here."""
        self._tell(self._successor, "", transfers)

    def _end(self, number: signal.Signals) -> None:
        """The successor, which has not ended by itself: its end of the pipe is open."""
        assert self._successor
        self._close()
        with suppress(ProcessLookupError):  # it has just now
            os.kill(self._successor, number)

    def _close(self) -> None:
        assert self.news is not None
        os.close(self.news)
        self.news = None

    def _failed(self, why: str) -> None:
        log.error("no other process could take over, and this one goes on: %s", "; ".join(why.splitlines()))
        self._tell(None, why, 0)

    def _tell(self, successor: int | None, failure: str, finishing: int) -> None:
        told = Outcome(os.getpid(), successor, failure, finishing, time.monotonic())
        file = self._data / f".{_FILE}.{told.pid}"
        try:
            file.write_text(json.dumps(asdict(told)))
            file.replace(self._data / _FILE)
        except OSError as error:
            log.warning("%s: mirrortap restart will not hear of it: %s", self._data, error.strerror)


def _container_ends_with_this() -> bool:
    """Whether this is what a container was started for: by somebody outside, or by an init that waits for it alone."""
    if (parent := os.getppid()) != 1:
        return parent == 0  # of another pid namespace (pid_namespaces(7))
    try:
        return Path("/proc/1/comm").read_text().strip() in _INITS
    except OSError:
        return False


def _started(inherited: Inherited) -> int:
    """The process id of a successor. Raises OSError."""
    said, told = os.pipe()
    try:
        subprocess.run(
            # Not what this process was, but what is there now under the same name.
            [sys.executable, "-ISc", _ORPHANING, str(told), sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, _VARIABLE: json.dumps(asdict(inherited))},
            pass_fds=(*inherited._all(), told),
            check=True,
        )
        return int(os.read(said, 32))
    except subprocess.CalledProcessError as error:
        raise OSError(errno.ECHILD, "its own words are above") from error
    finally:
        os.close(said)
        os.close(told)


class InLoop:
    """An Upgrade whose news the running event loop hears; `over` is called when the successor is up."""

    def __init__(self, upgrade: Upgrade, over: Callable[[], None]) -> None:
        self._upgrade = upgrade
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._upgrade.begin():
            self._timer = self._loop.call_later(PATIENCE, self._expire)
            self._listen()

    def abandon(self) -> None:
        self._forget()
        self._upgrade.abandon()

    def _listen(self) -> None:
        assert self._upgrade.news is not None
        self._loop.add_reader(self._upgrade.news, self._hear)

    def _forget(self) -> None:
        if self._upgrade.news is not None:
            self._loop.remove_reader(self._upgrade.news)

    def _hear(self) -> None:
        self._forget()
        over = self._upgrade.hear()
        if self._upgrade.news is not None:
            self._listen()
        elif self._timer:
            self._timer.cancel()
        if over:
            self._over()

    def _expire(self) -> None:
        self._forget()
        self._upgrade.expire()
