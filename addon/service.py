"""Everything that stands behind the doors, built from the configuration and a data folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from addon.admission import rules
from addon.admission.gate import Gate, leads_to
from addon.cache.cache import Cache
from addon.cache.janitor import Janitor
from addon.cache.store import StoreError
from addon.config.current import Current
from addon.config.load import load
from addon.config.model import ConfigError
from addon.counts.tally import Tally
from addon.engine import Engine
from addon.fingerprints import FingerprintError, Fingerprints
from addon.home import NoHome
from addon.loops import Via
from addon.parent import ParentError, Parents
from addon.pulls.access import Access
from addon.pulls.fills import Fills
from addon.pulls.prefetch import Prefetch
from addon.renewal import Renewal
from addon.running import LOCK, default_data
from addon.status.health import Trial
from addon.status.pages import Pages
from addon.status.reporter import Place, Reporter
from addon.tickets import Tickets
from addon.upstream.client import Upstream
from addon.watching import Watch, Watching
from ca.authority import AuthorityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from addon.config.model import Config
    from addon.counts.facts import Facts
    from ca.authority import Authority

_THREADS = 64  # at most; they are made when they are needed
# Seconds for which the lock may be another's who only looks whether somebody has it, as `mirrortap status` does.
_LOOKING = 0.3


class StartError(Exception):
    """The proxy cannot start; the message says what is wrong, where, and what to do."""


class Service:
    """The CA, the cache and the engine of one data folder."""

    def __init__(
        self,
        config_files: Sequence[Path] = (),
        data: Path | None = None,
        *,
        offline: bool = False,
        own_names: Sequence[str] = (),
        modes: Sequence[str] = ("regular",),
        plain_mirror: bool = False,
        lock: int | None = None,
    ) -> None:
        """Reads the configuration (built in when there is no file) and opens the data folder (XDG when None).

        Raises StartError. `offline`: nothing is connected to, whatever the configuration says. `own_names`: DNS names
        that the CA must have certificates for besides the registries'. `modes`: how clients come to the proxy's port.
        `plain_mirror`: whether `plain_doors` will be said. `lock`: the folder's, from the process that this one
        takes over from, and which has the folder open as well.
        """

        def read() -> Config:
            config = load(config_files)
            for mode in modes:
                if why := rules.unfit(config.admission, mode):
                    raise ConfigError(why)
            if not plain_mirror and (why := rules.without_door(config)):
                raise ConfigError(why)
            return config.taken_offline() if offline else config

        self._own_names = tuple(own_names)
        self.place = Place(started=time.time())
        """Which of the workers this process is."""
        self.tally = Tally()
        self.stopping = False
        """Whether the doors let nobody in any more."""
        self.plain_doors: Sequence[tuple[str, int]] = ()
        """Where a mirror door listens (IP address and port) that clients of the proxy can be sent to."""
        try:
            self.data = data or default_data()
            self.parents = Parents.from_environment(os.environ)
            self._watch = Watch(read, config_files)
            self._current = Current(self._watch.config)
            self._open(self.data, lock)
            self._watch.adopt = self._adopt
        except (ConfigError, AuthorityError, FingerprintError, ParentError, StoreError) as error:
            raise StartError(str(error)) from None
        except NoHome as error:
            raise StartError(f"{error}: name the data folder, or set XDG_DATA_HOME") from None

    @property
    def config(self) -> Config:
        """The configuration in use; another one from time to time."""
        return self._current.config

    def _adopt(self, config: Config) -> None:
        """Takes another configuration into use as a whole. Raises ConfigError. Not for the event loop."""
        try:
            self._renewal.change(self._names(config), config.lives)
        except AuthorityError as error:
            raise ConfigError(f"{', '.join(map(str, config.sources))}: {error}") from None
        self._current.replace(config)

    def _names(self, config: Config) -> list[str]:
        """Those that the CA must have certificates for."""
        return [*config.certificate_names(), *self._own_names]

    def _open(self, data: Path, inherited: int | None) -> None:
        lock = _lock(data) if inherited is None else _inherited(data, inherited)
        try:
            self._renewal = Renewal(data / "ca", self._names(self.config), self.config.lives)
            self._fingerprints = Fingerprints.open(data / "fingerprints.key")
            self.cache = Cache(data / "cache", lambda: self.config.beliefs)
            if inherited is None:
                # Else somebody is preparing it.
                self.cache.store.sweep()
            self.cache.reconcile()
        except BaseException:
            os.close(lock)
            raise
        self._lock: int | None = lock
        self._watching: Watching | None = None

    def before_fork(self) -> None:
        """Leaves the lock alone open: SQLite's connections must not be carried over a fork.

        From now on changes of the configuration are for the forked processes to tell.
        """
        self.cache.close()
        self._watch.quiet = True

    def after_fork(self, number: int) -> None:
        """In the forked process, opens the cache anew; the lock stays with the other one alone. Raises StartError.

        `number`: which of the workers it is.
        """
        self.place = replace(self.place, number=number)
        self._unlock()
        try:
            self.cache = Cache(self.cache.folder, lambda: self.config.beliefs)
        except StoreError as error:
            raise StartError(str(error)) from None
        self._watch.quiet = False
        self._watch.remind()
        self._watch.look(settled=True)

    def look(self, *, anyway: bool = False) -> float:
        """Whether the configuration has changed, or, `anyway`, what it says now: for a process that serves nobody.

        Returns the seconds until it should be called again.
        """
        return self._watch.look(anyway=anyway)

    def reload(self) -> None:
        """Reads the configuration at once. Needs a running event loop."""
        if self._watching:
            self._watching.ask()

    @property
    def authority(self) -> Authority:
        """The CA; another one from time to time."""
        return self._renewal.authority

    async def valid_authority(self) -> Authority:
        """The CA to show clients a certificate of."""
        return await self._renewal.valid()

    @cached_property
    def gate(self) -> Gate:
        """What all doors ask before they serve somebody."""
        return Gate(self._current, self.parents)

    @cached_property
    def via(self) -> Via:
        """This proxy's mark on what it sends."""
        return Via(self._fingerprints)

    @cached_property
    def tickets(self) -> Tickets:
        """By which clients of the proxy are served at the mirror door."""
        return Tickets(self._fingerprints)

    def refuse_itself(self, listening: Iterable[tuple[str, int]]) -> None:
        """Raises StartError when the parent proxy is this one, which listens there."""
        for parent in self.parents.all:
            if leads_to(parent.host, parent.port, listening):
                raise StartError(
                    f"{parent.variable}: names {parent.authority}, where this mirrortap itself listens: in its"
                    " environment, name the proxy behind it, or unset the variable"
                )

    @cached_property
    def pages(self) -> Pages:
        """What the doors show of the proxy itself."""
        return Pages(self)

    @cached_property
    def engine(self) -> Engine:
        """Made when the proxy is up, for it needs a running event loop; from then on cache and CA are kept in order."""
        # Name lookups that hang must not keep reads and writes of the cache waiting for a thread.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        self._janitor.start()
        self._renewal.start()
        fills = Fills(self.cache.store, self._current, self._janitor.write_failed, tally=self.tally)
        engine = Engine(
            self.cache,
            Access(self.cache.rights, self.cache.links, self._fingerprints),
            fills,
            Prefetch(self.cache.contents, fills, self._current),
            Upstream(self._current, self.via, self.parents),
            self._current,
            self.via,
            self.tickets,
            self.tally,
        )
        self._watching = Watching(self._watch)
        self._reporter = Reporter(
            self.place,
            self.data,
            self._current,
            self._watch,
            self._renewal,
            self.gate,
            self.tally,
            fills,
            engine.standing,
            self.trial,
        )
        return engine

    @cached_property
    def trial(self) -> Trial:
        """Whether the cache can be written; for all who ask."""
        return Trial(self.cache.folder)

    async def facts(self) -> Facts:
        """What the whole proxy, all its workers, can say of itself; only when it is up."""
        return await self._reporter.facts()

    @cached_property
    def _janitor(self) -> Janitor:
        cache = self.cache
        janitor = Janitor(cache.store, cache.contents, cache.pins, lambda: self.config.space)
        cache.contents.grew = janitor.nudge
        janitor.evicted = self.tally.evicted
        return janitor

    @property
    def lock(self) -> int:
        """The folder's, held: for a process that is to take over."""
        assert self._lock is not None
        return self._lock

    def release(self) -> None:
        """Another process has the lock now, and keeps it."""
        self._unlock()

    async def succeeded(self) -> None:
        """Another process has taken over, and with it what is said of the configuration. What runs here goes on."""
        self.release()
        if self._watching:
            await self._watching.close()

    async def close(self) -> None:
        if "engine" in self.__dict__:
            if self._watching:
                await self._watching.close()
            await self._reporter.close()
            await self.engine.close()
            await self._janitor.close()
            await self._renewal.close()
        self.cache.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _inherited(data: Path, lock: int) -> int:
    """The same, held already by way of this descriptor."""
    try:
        ours = os.path.samestat(os.fstat(lock), os.stat(data / LOCK))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        ours = False
    if not ours:
        raise StoreError(f"{data}: is not the folder of the process that is to be taken over from; stop it, and start")
    return lock


def _lock(data: Path) -> int:
    """Keeps a second proxy out of the folder; the lock ends with the process."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{data}: cannot be written: {error.strerror}; choose another folder with --data") from None
    deadline = time.monotonic() + _LOOKING
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            os.close(lock)
            raise StoreError(
                f"{data}: is in use by another mirrortap; stop it, or choose another folder with --data"
            ) from None
        return lock
