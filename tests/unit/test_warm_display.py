"""How warming is shown: bars that fit a narrow terminal, lines where there is none."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from addon.cache.reference import normalised
from addon.oci import Digest
from addon.warming.display import Bars, Lines, display
from addon.warming.outcome import Outcome, summary
from addon.warming.platforms import Platform
from addon.warming.wanted import Wanted

ALPINE = Wanted(normalised("alpine:3.20"), (Platform("linux", "amd64"), Platform("linux", "arm64")))
DONE = Outcome(ALPINE, blobs=5, size=30_000_000, cached=2)
FAILED = Outcome(ALPINE, problems=("a: HTTP 404", "b\x1b[31m\n: no"))
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (DONE, "docker.io/library/alpine:3.20 linux/amd64, linux/arm64: 5 blobs, 30.0 MB, 2 were cached"),
        (
            Outcome(Wanted(ALPINE.reference, None), 1, 9, 1),
            "docker.io/library/alpine:3.20 all platforms: 1 blob, 9 B, 1 was cached",
        ),
        (Outcome(ALPINE, 3, 9), "docker.io/library/alpine:3.20 linux/amd64, linux/arm64: 3 blobs, 9 B"),
        (FAILED, "docker.io/library/alpine:3.20 linux/amd64, linux/arm64: failed"),
    ],
)
def test_lines(outcome: Outcome, line: str) -> None:
    assert outcome.line == line


def test_the_end() -> None:
    assert summary([DONE], 1500) == "1 image ready, 1.5 kB downloaded"
    assert summary([DONE, FAILED, DONE], 0) == "2 images ready, 0 B downloaded, 1 failed"
    assert FAILED.failure == "docker.io/library/alpine:3.20 linux/amd64, linux/arm64: a: HTTP 404; b?[31m?: no"


def console(width: int, **kind: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, height=24, **kind), file  # type: ignore[arg-type]


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = display(console(80, force_terminal=False)[0])
    assert isinstance(shown, Lines)
    with shown:
        shown.expect(10)
        bar = shown.begin(Digest.of(b""), 10)
        bar.move(10)
        bar.end()
        shown.tell(DONE)
        logging.getLogger("mirrortap").warning("of %s", "the log")
        logging.getLogger("mirrortap").info("not this")
        shown.say("a\x1b[31m\nb")
    logging.getLogger("mirrortap").warning("not this either")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{DONE.line}\nof the log\na?[31m?b\n"


def test_a_terminal_that_can_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display(console(80, force_terminal=True)[0]), Lines)


@pytest.mark.parametrize(("width", "amounts"), [(40, False), (100, True)])
def test_bars_fit_the_terminal(width: int, amounts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, file = console(width, force_terminal=True)
    one, two = Digest.of(b"1"), Digest.of(b"2")
    shown = display(terminal)
    assert isinstance(shown, Bars)
    with shown:
        shown.expect(3_000_000_000)
        bars = [shown.begin(one, 1_000_000_000), shown.begin(two, 0)]
        bars[0].move(750_000_000)
        bars[1].move(1)
        shown.tell(DONE)
        logging.getLogger("mirrortap").warning("[red]of the log[/red] \x1b[31m")
        bars[1].end()
    text = ESCAPE.sub("", file.getvalue())
    lines = re.split(r"[\r\n]+", text)
    assert all(cell_len(line) <= width for line in lines), lines
    assert re.search(rf"{one.encoded[:12]} \S+ *75%", text)
    assert re.search(r"all +\S+ *25%", text)
    assert ("GB" in text) is amounts
    words = " ".join(text.split())
    assert DONE.line in words
    assert "[red]of the log[/red] ?[31m" in words
