"""Clocks that go when a test says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from datetime import tzinfo


class Clock:
    """Seconds since the epoch, or since any other moment."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def shifted(days: float) -> type[datetime]:
    """`datetime`, whose `now` is so many days from now."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            later = datetime.now(UTC) + timedelta(days=days)
            return cls.fromtimestamp(later.timestamp(), tz)

    return Shifted
