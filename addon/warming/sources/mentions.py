"""What a file says of images: a value for each time that it names one. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from addon.warming.platforms import Platform


class Unusable(Exception):
    """What stands in line `line` (from 1; 0: nowhere in particular) cannot be used; the message says why."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Mention:
    """An image as it is written, in line `line`; for a platform of its own, or as is asked for otherwise (None)."""

    image: str
    line: int
    platform: Platform | None = None


@dataclass(frozen=True)
class Mentions:
    """`notes`: what stands there and is not warmed, for people."""

    images: list[Mention] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
