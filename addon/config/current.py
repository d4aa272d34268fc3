"""The configuration in use, which another one may replace at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.config.model import Config


class Current:
    """Whoever depends on the configuration looks up `config` at each use, and keeps no part of it for the next one."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._derived: list[_Derived[Any]] = []

    @property
    def config(self) -> Config:
        """Never changed itself: who has got it may go on with it."""
        return self._config

    def replace(self, config: Config) -> None:
        """From now on it is this one, equal or not: files that it names may have changed. May be called in a thread."""
        values = [(derived, derived.make(config)) for derived in self._derived]
        for derived, value in values:
            derived.value = value
        self._config = config

    def derived[T](self, make: Callable[[Config], T]) -> Callable[[], T]:
        """A look-up of what is made of each configuration, before that is in use: not while somebody waits."""
        derived = _Derived(make, make(self._config))
        self._derived.append(derived)
        return lambda: derived.value


@dataclass
class _Derived[T]:
    make: Callable[[Config], T]
    value: T
