"""Everything that stands behind the doors, built from the configuration and a data folder."""

from __future__ import annotations

import fcntl
import os
from functools import cached_property
from pathlib import Path

from addon import database, rebuild
from addon.access import Links
from addon.config import buildkit
from addon.config.model import ConfigError
from addon.contents import Contents
from addon.download import Pace
from addon.engine import Engine
from addon.fills import Fills
from addon.janitor import Janitor
from addon.pins import Pins
from addon.store import Store, StoreError
from addon.tags import Tags
from addon.upstream import Upstream
from ca.authority import Authority, AuthorityError


class StartError(Exception):
    """The proxy cannot start; the message says what is wrong, where, and what to do."""


class Service:
    """The CA, the cache and the engine of one data folder."""

    def __init__(self, config_file: Path | None = None, data: Path | None = None) -> None:
        """Reads the configuration (built in when None), opens the data folder (XDG when None). Raises StartError."""
        data = data or default_data()
        try:
            self.config = buildkit.read(config_file) if config_file else buildkit.defaults()
            self._open(data)
        except (ConfigError, AuthorityError, StoreError) as error:
            raise StartError(str(error)) from None

    def _open(self, data: Path) -> None:
        self._lock = _lock(data)
        try:
            self._open_locked(data)
        except BaseException:
            os.close(self._lock)
            raise

    def _open_locked(self, data: Path) -> None:
        self.authority = Authority.open(data / "ca", self.config.certificate_names())
        self._store = Store(data / "cache")
        self._store.sweep()
        self._database = database.connect(data / "cache" / "mirrortap.sqlite")
        self._contents = Contents(self._store, self._database)
        self._tags, self._links = Tags(self._database), Links(self._database)
        rebuild.reconcile(self._store, self._contents, self._tags, self._links)

    @cached_property
    def engine(self) -> Engine:
        """Made at the first request, for it needs a running event loop."""
        downloads = self.config.downloads
        pace = Pace(downloads.min_rate, self.config.timeouts.stall)
        self._janitor.start()
        return Engine(
            self._store,
            self._contents,
            self._tags,
            self._links,
            Fills(self._store, pace, downloads.keep_from),
            Upstream(self.config),
            pace,
        )

    @cached_property
    def _janitor(self) -> Janitor:
        janitor = Janitor(self._store, self._contents, Pins(self._database, self._tags), self.config.space)
        self._contents.grew = janitor.nudge
        return janitor

    @property
    def cache(self) -> Path:
        return self._store.folder

    async def close(self) -> None:
        if "engine" in self.__dict__:
            await self.engine.close()
            await self._janitor.close()
        self._database.close()
        os.close(self._lock)


def default_data() -> Path:
    """Where the XDG base directory specification wants a user's data."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "share") / "mirrortap"


def _lock(data: Path) -> int:
    """Keeps a second proxy out of the folder; the lock ends with the process."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{data}: cannot be written: {error.strerror}; choose another folder with --data") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StoreError(
            f"{data}: is in use by another mirrortap; stop it, or choose another folder with --data"
        ) from None
    return lock
