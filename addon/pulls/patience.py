"""How long upstream is waited for when the cache could answer, given what has happened lately. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds that endpoints which have just been silent are given; and how long "just" is.
_BRIEFLY, _SILENCE = 1.0, 30.0
# Seconds that endpoints which have just failed are not asked again about each part of an image.
_HOPELESS = 5.0


class Lately[K]:
    """Remembers keys for `seconds`. Times are seconds on one clock, given by the caller."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[K, float] = {}

    def note(self, key: K, now: float) -> None:
        # Clients name hosts as they like (*.azurecr.io): what is over is forgotten.
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[key] = now + self._seconds

    def forget(self, key: K) -> None:
        self._until.pop(key, None)

    def has(self, key: K, now: float) -> bool:
        return self._until.get(key, now) > now


class Patience:
    """Seconds that all endpoints of a registry together have: `usual`, or less when they seem to be out of reach."""

    def __init__(self, usual: Callable[[], float]) -> None:
        self._usual = usual
        self._silent: Lately[str] = Lately(_SILENCE)
        self._failed: Lately[str] = Lately(_HOPELESS)

    def ended(self, registry: str, now: float) -> None:
        """No endpoint has answered in time."""
        self._silent.note(registry, now)
        self._failed.note(registry, now)

    def failed(self, registry: str, now: float) -> None:
        """All endpoints have failed."""
        self._failed.note(registry, now)

    def answered(self, registry: str) -> None:
        self._silent.forget(registry)
        self._failed.forget(registry)

    def hopeless(self, registry: str, now: float) -> bool:
        """Whether what is only to be checked again need not be asked for just now."""
        return self._failed.has(registry, now)

    def seconds(self, registry: str, now: float, *, suspect: bool = False) -> float:
        """`suspect`: something else says that the registry cannot be reached."""
        usual = self._usual()
        return min(_BRIEFLY, usual) if suspect or self._silent.has(registry, now) else usual
