"""What people and programs see of the doctor's findings, and that the documentation has every code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from addon.cli import main
from addon.doctor import report
from addon.doctor.findings import Code, Finding, failed, ok, skipped, warning

ROOT = Path(__file__).resolve().parents[2]
CODES = get_args(Code)


def test_the_documentation_has_all_codes() -> None:
    table = re.findall(r"(?m)^\| `([a-z-]+)` \| .+ \| (.+) \|$", (ROOT / "docs/doctor.md").read_text())
    assert sorted(code for code, _ in table if code in CODES) == sorted(CODES)
    assert all(remedy.strip() for _, remedy in table)


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_given(code: str) -> None:
    sources = [file for file in (ROOT / "addon/doctor").glob("*.py") if file.name != "findings.py"]
    assert any(f'"{code}"' in file.read_text() for file in sources)


def test_marks_and_codes() -> None:
    lines = [
        report.line(each, 80)
        for each in (
            ok("a", "well"),
            failed("b", "dns", "bad", "do"),
            warning("c", "clock", "so", "do"),
            skipped("d", "-"),
        )
    ]
    assert [click.unstyle(each) for each in lines] == ["ok a: well", "!! b: bad [dns]", "!  c: so [clock]", "-- d: -"]


def test_what_to_do_is_said_once_and_what_failed_first() -> None:
    findings = [
        warning("a", "clock", "x", "Set it:\n  timedatectl"),
        failed("b", "dns", "y", "Look:\n  getent hosts y"),
        failed("c", "dns", "z", "Look:\n  getent hosts y"),
    ]
    assert list(report.remedies(findings, 80)) == [
        *("", "What to do", "1. Look:", "     getent hosts y", "2. Set it:", "     timedatectl"),
    ]
    assert list(report.remedies([ok("a", "well")], 80)) == []


@given(st.text(max_size=300), st.integers(20, 100))
@example("\x1b[2J\x9b1A\r\a", 40)
def test_lines_fit_the_terminal(text: str, width: int) -> None:
    finding = failed(
        "a step", "not-the-daemon", text, f"{text}\n  a command that is left whole, however long it may be"
    )
    for line in click.unstyle(report.line(finding, width)).split("\n"):
        assert len(line) <= width
        assert line.isprintable()
    *prose, command = report.remedies([finding], width)
    # Of a text's own lines, some may be commands.
    words = [line for each in prose if not each.startswith("     ") for line in each.split("\n")]
    assert all(len(line) <= width and line.isprintable() for line in words)
    assert command == "     a command that is left whole, however long it may be"


def test_for_programs() -> None:
    told = report.as_json([ok("a", "well"), Finding("b", "failed", "bad", "dns", "do")])
    assert json.loads(json.dumps(told)) == {
        "ok": False,
        "findings": [
            {"step": "a", "verdict": "ok", "code": None, "what": "well", "remedy": None},
            {"step": "b", "verdict": "failed", "code": "dns", "what": "bad", "remedy": "do"},
        ],
    }
    assert report.as_json([warning("a", "clock", "x", "do")])["ok"]


@pytest.mark.parametrize(
    "arguments", [["docker.io/UPPER"], ["--proxy", "http://u:s3cret@:x"], ["--builder", "kaniko"], ["--ca", "/nowhere"]]
)
def test_what_is_not_understood(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["doctor", *arguments])
    assert done.exit_code == 2
    assert "s3cret" not in done.output
