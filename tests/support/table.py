"""The table of clients in README.md: written from what tests found, and compared with it. Pure but for the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BEGIN, END = "<!-- clients -->", "<!-- /clients -->"


class Column(StrEnum):
    TAG = "by tag"
    DIGEST = "by digest"
    INDEX = "multi-arch index"
    PRIVATE = "private, after login"
    RESUME = "resume after a cut"
    PUSH = "push"
    BUILD = "build with `RUN`"
    OTHER = "other registries"


@dataclass(frozen=True)
class Cell:
    works: bool
    note: str | None = None


@dataclass
class Block:
    """The rows of one door."""

    columns: Sequence[Column]
    rows: dict[str, str]  # name -> what has to be set
    cells: dict[tuple[str, Column], Cell] = field(default_factory=dict)

    def missing(self) -> list[str]:
        return [f"{row}: {column}" for row in self.rows for column in self.columns if (row, column) not in self.cells]

    def lines(self, notes: list[str]) -> list[str]:
        """`notes`: footnotes so far; the block's own are added."""
        lines = [_line(["client", "what to set", *self.columns]), _line(["---"] * (2 + len(self.columns)))]
        for row, told in self.rows.items():
            shown = [_shown(self.cells[row, column], notes) for column in self.columns]
            lines.append(_line([row, told, *shown]))
        return lines


def render(blocks: dict[str, Block]) -> str:
    """Headline -> block, as Markdown."""
    notes: list[str] = []
    lines: list[str] = []
    for headline, block in blocks.items():
        lines += [headline, "", *block.lines(notes), ""]
    return "\n".join([*lines, *(f"{number}. {note}" for number, note in enumerate(notes, 1))])


def read(file: Path) -> str:
    """What is between the two comments."""
    return _split(file)[1].strip()


def write(file: Path, table: str) -> None:
    before, _, after = _split(file)
    file.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _split(file: Path) -> tuple[str, str, str]:
    before, _, rest = file.read_text().partition(BEGIN)
    table, found, after = rest.partition(END)
    assert found, f"{file.name} has no {BEGIN} ... {END}"
    return before, table, after


def _shown(cell: Cell, notes: list[str]) -> str:
    word = "yes" if cell.works else "no"
    if cell.note is None:
        return word
    if cell.note not in notes:
        notes.append(cell.note)
    return f"{word} ({notes.index(cell.note) + 1})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
