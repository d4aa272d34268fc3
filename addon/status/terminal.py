"""Facts for a terminal, in the page's words; and as plain lines, for what is none."""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from addon.status import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from addon.counts.facts import Facts

_STYLES = {"up": "green", "limited": "yellow", "down": "bold red", "unknown": "dim"}
# Columns from which on rows stand in a table.
_NARROW = 80
# Of the recent requests, so many are shown.
_REQUESTS = 10


class Part:
    """A title, and rows of the same number of cells; `styles`: of whole rows."""

    def __init__(self, title: str, rows: Iterable[Sequence[str]], styles: Iterable[str] = ()) -> None:
        self.title = title
        self.rows = [tuple(map(_printable, row)) for row in rows]
        self._styles = list(styles)

    @property
    def styled(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Each row, and its style."""
        return zip(self.rows, chain(self._styles, repeat("")), strict=False)


def plain(facts: Facts) -> str:
    """A line for each fact, without a width."""
    lines = []
    for part in _parts(facts):
        lines.append(part.title)
        lines += [f"  {'  '.join(filter(None, row))}" for row in part.rows]
    return "\n".join(lines)


def drawn(facts: Facts, width: int) -> RenderableType:
    """For so many columns."""
    return Group(*(_stacked(part) if width < _NARROW else _table(part) for part in _parts(facts)))


def _table(part: Part) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in part.rows[0]:
        table.add_column(overflow="fold")
    for row, style in part.styled:
        # As text: what clients have written may look like markup.
        table.add_row(*map(Text, row), style=style)
    return Group(Text(part.title, "bold"), Padding(table, (0, 0, 1, 2)))


def _stacked(part: Part) -> RenderableType:
    rows: list[RenderableType] = []
    for (first, *rest), style in part.styled:
        rows.append(Padding(Text(first, style, overflow="fold"), (0, 0, 0, 2)))
        rows.append(Padding(Text(", ".join(filter(None, rest)), style, overflow="fold"), (0, 0, 0, 4)))
    return Group(Text(part.title, "bold", overflow="fold"), *rows, Text())


def _parts(facts: Facts) -> list[Part]:
    parts = [_proxy(facts), _warnings(facts), _traffic(facts), _fills(facts), _endpoints(facts), _quotas(facts)]
    return [part for part in (*parts, _requests(facts), _cache(facts), _ca(facts)) if part.rows]


def _proxy(facts: Facts) -> Part:
    rows = [
        (f"proxy {facts.listening.proxy}", f"up {words.lasting(facts.now - facts.started)}"),
        (
            f"mirror {facts.listening.mirror or words.NONE}",
            f"{facts.connections} connection{'' if facts.connections == 1 else 's'}",
        ),
    ]
    if facts.offline:
        rows.append(("offline", "only what is cached is served"))
    return Part(f"mirrortap {facts.version}", rows)


def _warnings(facts: Facts) -> Part:
    return Part(
        "Warnings", [(warned.what, warned.remedy) for warned in facts.warnings], ["yellow"] * len(facts.warnings)
    )


def _traffic(facts: Facts) -> Part:
    spans = (("hour", facts.traffic.hour), ("day", facts.traffic.day), ("30 days", facts.traffic.month))
    sums = [(name, words.Sum(each)) for name, each in spans]
    return Part("Traffic", [(f"last {name}", f"{each.ratio} hits", each.bytes) for name, each in sums])


def _fills(facts: Facts) -> Part:
    rows = [
        (
            f"{each.registry}/{words.of_content(each)}",
            f"{words.progress(each)}, {words.rate(each.rate)}",
            f"from {each.endpoint or words.NONE}",
        )
        for each in facts.fills
    ]
    return Part("Downloads in progress", rows)


def _endpoints(facts: Facts) -> Part:
    rows = [
        (
            f"{each.registry}: {each.endpoint}",
            words.kind_of(each),
            words.state(each),
            ", ".join(
                filter(None, (words.standing(each, facts.now), words.latency(each.latency) if each.asked else ""))
            ),
        )
        for each in facts.endpoints
    ]
    return Part("Endpoints", rows, [_STYLES[each.state] for each in facts.endpoints])


def _quotas(facts: Facts) -> Part:
    return Part("Quota left", [(each.endpoint, each.credential, words.left(each)) for each in facts.quotas])


def _requests(facts: Facts) -> Part:
    rows = [
        (
            words.moment(each.at, facts.now),
            each.outcome,
            f"{each.method} {each.registry}/{words.of_content(each).lstrip('/')} {words.reference(each)}".rstrip(),
            f"{each.status}, {words.size(each.sent)}{f', cut: {each.cut}' if each.cut else ''}",
        )
        for each in facts.requests[:_REQUESTS]
    ]
    return Part("Recent requests (times are UTC)", rows)


def _cache(facts: Facts) -> Part:
    cache = facts.cache
    rows = [
        ("size", words.used(cache)),
        ("files", str(cache.files)),
        ("pinned", words.size(cache.pinned)),
        ("free on the disk", words.size(cache.free)),
    ]
    if cache.next:
        rows.append(("evicted next", f"{words.short(cache.next[0].digest)}, {words.size(cache.next[0].size)}"))
    return Part(f"Cache in {cache.folder}", rows)


def _ca(facts: Facts) -> Part:
    both = (("root", facts.ca.root), ("intermediate", facts.ca.intermediate))
    return Part(
        "Certificate authority",
        [(which, words.subject(each.name), f"until {words.day(each.ends)}") for which, each in both],
    )


def _printable(text: str) -> str:
    """A terminal must not be told to do what a client has written."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
