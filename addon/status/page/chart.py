"""The bars of a traffic chart: where they are, and how high. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from addon.status import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.counts.facts import Span

WIDTH, HEIGHT = 360, 132
# Where the bars stand, with room for the scale above and the times below.
_TOP, _BOTTOM = 18, 112
_GAP = 0.25  # of a bar's width


@dataclass(frozen=True)
class Bar:
    """In units of the drawing. `fetched` stands on `cached`; `label` says it in words."""

    x: float
    width: float
    cached_y: float
    cached_height: float
    fetched_y: float
    fetched_height: float
    label: str


@dataclass(frozen=True)
class Tick:
    x: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Chart:
    """`name` is good for an id. `highest` is what the tallest bar stands for, in bytes."""

    name: str
    title: str
    highest: int
    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    spans: Sequence[Span]
    form: str

    @property
    def sum(self) -> words.Sum:
        return words.Sum(self.spans)

    @property
    def busy(self) -> list[Span]:
        """Newest first, without those in which nothing happened."""
        return [span for span in reversed(self.spans) if span.cached or span.fetched or span.hits or span.misses]

    def time(self, span: Span) -> str:
        return _time(span.start, self.form)


def chart(name: str, title: str, spans: Sequence[Span], form: str) -> Chart:
    """`form`: of the times below, for strftime."""
    highest = max((span.cached + span.fetched for span in spans), default=0)
    step = WIDTH / max(1, len(spans))
    scale = (_BOTTOM - _TOP) / highest if highest else 0
    bars = []
    for number, span in enumerate(spans):
        if not span.cached and not span.fetched:
            continue
        cached, fetched = span.cached * scale, span.fetched * scale
        bars.append(
            Bar(
                x=round(number * step + step * _GAP / 2, 2),
                width=round(step * (1 - _GAP), 2),
                cached_y=round(_BOTTOM - cached, 2),
                cached_height=round(cached, 2),
                fetched_y=round(_BOTTOM - cached - fetched, 2),
                fetched_height=round(fetched, 2),
                label=f"{_time(span.start, form)}: {words.Sum([span]).bytes}",
            )
        )
    return Chart(name, title, highest, bars, _ticks(spans, step, form), spans, form)


def _ticks(spans: Sequence[Span], step: float, form: str) -> list[Tick]:
    if not spans:
        return []
    middle = len(spans) // 2
    return [
        Tick(0, "start", _time(spans[0].start, form)),
        Tick(round((middle + 0.5) * step, 2), "middle", _time(spans[middle].start, form)),
        Tick(WIDTH, "end", _time(spans[-1].start, form)),
    ]


def _time(at: float, form: str) -> str:
    return format(datetime.fromtimestamp(at, UTC), form)
