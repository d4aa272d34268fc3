"""What was measured, and what it comes to (pure)."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """Of some rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Sample:
    """One round of one scenario with one target; the keys are those of the scenario's metrics."""

    scenario: str
    target: str
    values: dict[str, float]


@dataclass
class Results:
    """In the order of the rounds. `failed` and `left_out` say why there are no samples, or no more of them."""

    samples: list[Sample] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)  # by scenario and target
    left_out: dict[str, str] = field(default_factory=dict)  # by what was left out

    def values(self, scenario: str, target: str, key: str) -> list[float]:
        of_one = [sample.values for sample in self.samples if (sample.scenario, sample.target) == (scenario, target)]
        return [values[key] for values in of_one if key in values]

    def figure(self, scenario: str, target: str, key: str) -> Figure | None:
        return figure(self.values(scenario, target, key))

    def ratio(self, scenario: str, target: str, base: str, key: str) -> Figure | None:
        """To another target, of each round by itself: its two figures are of the same minute."""
        pairs = zip(self.values(scenario, target, key), self.values(scenario, base, key), strict=False)
        return figure([one / other for one, other in pairs if other])


def figure(values: list[float]) -> Figure | None:
    return Figure(statistics.median(values), min(values), max(values)) if values else None
