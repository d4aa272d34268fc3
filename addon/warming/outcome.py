"""What became of an image, and of all of them, for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import journal
from addon.warming.words import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.warming.wanted import Wanted


@dataclass(frozen=True)
class Outcome:
    """`blobs` of `size` bytes in all are in the cache now, `cached` of which were before.

    `problems`: why not all of it is; each once.
    """

    wanted: Wanted
    blobs: int = 0
    size: int = 0
    cached: int = 0
    problems: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """As soon as it is known."""
        if self.problems:
            return f"{self.wanted}: failed"
        cached = f", {self.cached} {'was' if self.cached == 1 else 'were'} cached" if self.cached else ""
        return f"{self.wanted}: {_counted(self.blobs, 'blob')}, {journal.size(self.size)}{cached}"

    @property
    def failure(self) -> str:
        """At the end."""
        return plain(f"{self.wanted}: {'; '.join(self.problems)}")


def summary(outcomes: Sequence[Outcome], downloaded: int) -> str:
    """`downloaded`: bytes that were not cached before, whatever images they are of."""
    failed = sum(bool(each.problems) for each in outcomes)
    ready = f"{_counted(len(outcomes) - failed, 'image')} ready, {journal.size(downloaded)} downloaded"
    return f"{ready}, {failed} failed" if failed else ready


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
