"""Which of the recent requests somebody wants to see, as the page's address says it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from addon.counts.facts import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.counts.facts import Answered

# Characters of one value, and fields of a query, that are looked at.
_LONGEST, _MOST = 200, 20


@dataclass(frozen=True)
class Selection:
    """ "" is any. Names match by a part of them, in whatever case; an outcome as a whole."""

    registry: str = ""
    repository: str = ""
    client: str = ""
    outcome: str = ""

    @classmethod
    def parse(cls, query: str) -> Selection:
        """Of a URL, as it came; what says nothing here is left out."""
        try:
            given = dict(parse_qsl(query, errors="replace", max_num_fields=_MOST))
        except ValueError:
            return cls()
        registry, repository, client, outcome = (
            given.get(name, "").strip()[:_LONGEST] for name in ("registry", "repository", "client", "outcome")
        )
        return cls(registry, repository, client, outcome if outcome in OUTCOMES else "")

    def of(self, requests: Iterable[Answered]) -> list[Answered]:
        return [each for each in requests if self._takes(each)]

    def _takes(self, answered: Answered) -> bool:
        return (
            (not self.outcome or self.outcome == answered.outcome)
            and self.registry.lower() in answered.registry.lower()
            and self.repository.lower() in answered.repository.lower()
            and (self.client.lower() in answered.client.lower() or self.client.lower() in answered.agent.lower())
        )

    def __bool__(self) -> bool:
        return self != Selection()
