"""What mirrortap is to reach, as ratios of one run wherever machines differ, and whether it has (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.results import Results

Find = Callable[["Results"], float | None]


@dataclass(frozen=True)
class Target:
    what: str
    find: Find
    floor: float | None
    aim: float | None = None
    more: bool = False  # more is better
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    target: Target
    figure: float | None

    @property
    def said(self) -> str:
        if self.figure is None:
            return "not measured"
        if not _reached(self.target, self.target.floor, self.figure):
            return "floor missed"
        if not _reached(self.target, self.target.aim, self.figure):
            return "aim missed" if self.target.floor is None else "floor met, aim missed"
        return "met"


def _reached(target: Target, bound: float | None, figure: float) -> bool:
    return bound is None or (figure >= bound if target.more else figure <= bound)


def value(scenario: str, target: str, key: str) -> Find:
    def find(results: Results) -> float | None:
        found = results.figure(scenario, target, key)
        return found.median if found else None

    return find


def ratio(scenario: str, target: str, base: str, key: str) -> Find:
    def find(results: Results) -> float | None:
        found = results.ratio(scenario, target, base, key)
        return found.median if found else None

    return find


def to_alone(scenario: str, alone: str) -> Find:
    """The slowest of many, to a client that is alone with the same server."""

    def find(results: Results) -> float | None:
        many, one = (results.figure(each, "mirrortap", "seconds") for each in (scenario, alone))
        return many.median / one.median if many and one else None

    return find


_DIRECT, _CPU, _LAST = "x nginx direct", " CPU-s/GB", " s"
_ONE, _STREAM = "mirrortap", "mirrortap-one-stream"

TARGETS: tuple[Target, ...] = (
    Target("S1, 1 worker: rate", ratio("S1", _ONE, "nginx", "rate"), 0.65, 0.9, True, _DIRECT),
    Target("S1, 1 worker: CPU", value("S1", _ONE, "cpu"), 1.1, 0.75, unit=_CPU),
    Target("S2, 2 workers: rate", ratio("S2", "mirrortap-2", "nginx", "rate"), 0.70, 0.95, True, _DIRECT),
    Target("S3: time", ratio("S3", _ONE, "nginx", "seconds"), 3.2, 2.0, unit=_DIRECT),
    Target("S3: CPU", value("S3", _ONE, "cpu"), 2.6, 1.8, unit=_CPU),
    Target("S3L, one stream: time", ratio("S3L", _STREAM, "nginx", "seconds"), 1.02, 1.0, unit=_DIRECT),
    Target("S3L, one stream: CPU", value("S3L", _STREAM, "cpu"), 2.6, 1.8, unit=_CPU),
    Target("S3L, parallel ranges: time", ratio("S3L", _ONE, "nginx", "seconds"), 0.40, unit=_DIRECT),
    Target("S4: from the origin", value("S4", _ONE, "upstream"), 1.004, unit="x the blob"),
    Target("S4: slowest client", value("S4", _ONE, "seconds"), 8.5, unit=_LAST),
    Target("S4: slowest client, to one alone", to_alone("S4", "S4A"), None, 1.05, unit="x"),
    Target("S4: last first byte", value("S4", _ONE, "first"), 0.3, unit=_LAST),
    Target("S4L: from the origin", value("S4L", _ONE, "upstream"), 1.004, unit="x the blob"),
    Target("S4L: slowest client", value("S4L", _ONE, "seconds"), 14.5, unit=_LAST),
    Target("S4L: slowest client, to one alone", to_alone("S4L", "S4LA"), None, 1.05, unit="x"),
    Target("S4L: last first byte", value("S4L", _ONE, "first"), 0.3, unit=_LAST),
    Target("S5, 1 worker: 8 connections", value("S5", _ONE, "rate8"), 1500, 4000, True, " req/s"),
    Target("S5, 1 worker: p99 of these", value("S5", _ONE, "p99-8"), 12, 5, unit=" ms"),
    Target("S5, 1 worker: new connections", value("S5", _ONE, "new"), 300, 600, True, "/s"),
    Target("first byte of a hit, idle", value("S5", _ONE, "idle"), 3, 1, unit=" ms"),
    Target("S2, 1 worker: peak RSS", value("S2", _ONE, "peak"), 150, 100, unit=" MiB"),
    Target("S2, 2 workers: peak RSS of the larger", value("S2", "mirrortap-2", "peak"), 150, 100, unit=" MiB"),
    Target("S1H, mirror door: rate", ratio("S1H", _ONE, "nginx", "rate"), 0.9, None, True, "x nginx plain http"),
    Target("S6L, cold `skopeo copy`: time", ratio("S6L", _ONE, "nginx", "seconds"), 0.40, unit=_DIRECT),
)


def judge(results: Results) -> list[Verdict]:
    return [Verdict(target, target.find(results)) for target in TARGETS]
