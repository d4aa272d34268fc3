"""How warming goes, on stderr: bars on a terminal, a line for each image otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Column
from rich.text import Text

from addon.warming.words import plain

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from addon.oci import Digest
    from addon.warming.outcome import Outcome

# Columns from which on there is room for more than names, bars and percentages.
_WIDE = 72


def display(console: Console) -> Bars | Lines:
    """As the console allows."""
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


class _Said:
    """What is said in lines, the log's warnings included, as long as it is entered."""

    def __enter__(self) -> Self:
        self._handler = _Handler(self)
        logging.getLogger("mirrortap").addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("mirrortap").removeHandler(self._handler)

    def tell(self, outcome: Outcome) -> None:
        self.say(outcome.line)

    def say(self, text: str) -> None:
        self._write(plain(text))

    def hush(self) -> None:
        self._handler.setLevel(logging.ERROR)

    def _write(self, line: str) -> None:
        raise AssertionError


class Lines(_Said):
    """For logs and pipes."""

    def expect(self, size: int) -> None:
        pass

    def begin(self, digest: Digest, size: int) -> _NoBar:
        return _NoBar()

    def _write(self, line: str) -> None:
        click.echo(line, err=True)


class _NoBar:
    def move(self, came: int) -> None:
        pass

    def end(self) -> None:
        pass


class Bars(_Said):
    """One for each blob that is coming, one for all of them; lines stay above."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
            *((DownloadColumn(), TransferSpeedColumn()) if console.width >= _WIDE else ()),
            console=console,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._all = self._progress.add_task("all", total=0, visible=False)
        self._total = 0
        self._done = 0
        self._coming: dict[TaskID, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._progress.stop()

    def expect(self, size: int) -> None:
        self._total += size
        self._moved()

    def begin(self, digest: Digest, size: int) -> _Bar:
        return _Bar(self, self._progress.add_task(digest.encoded[:12], total=size or None))

    def move(self, task: TaskID, came: int) -> None:
        self._coming[task] = came
        self._progress.update(task, completed=came)
        self._moved()

    def end(self, task: TaskID) -> None:
        self._done += self._coming.pop(task, 0)
        self._progress.remove_task(task)

    def _moved(self) -> None:
        come = self._done + sum(self._coming.values())
        # Manifests may say too little of what there is.
        self._progress.update(self._all, total=max(self._total, come), completed=come, visible=True)

    def _write(self, line: str) -> None:
        self._progress.console.print(Text(line))


class _Bar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def move(self, came: int) -> None:
        self._bars.move(self._task, came)

    def end(self) -> None:
        self._bars.end(self._task)


class _Handler(logging.Handler):
    def __init__(self, said: _Said) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.say(record.getMessage())
