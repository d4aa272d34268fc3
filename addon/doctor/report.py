"""Findings for people and for programs. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from addon.doctor.findings import Finding, Verdict

_MARKS: dict[Verdict, tuple[str, str | None]] = {
    "ok": ("ok", "green"),
    "warning": ("! ", "yellow"),
    "failed": ("!!", "red"),
    "skipped": ("--", None),
}


def line(finding: Finding, width: int) -> str:
    """With its mark; a code stands behind what is wrong."""
    mark, colour = _MARKS[finding.verdict]
    code = f" [{finding.code}]" if finding.code else ""
    text = _wrapped(f"{finding.step}: {_shown(finding.what)}{code}", width, "   ", "   ")
    return click.style(mark, fg=colour) + text[2:]


def remedies(findings: Sequence[Finding], width: int) -> Iterator[str]:
    """What to do, each thing once; what has failed comes first."""
    wrong = sorted((each for each in findings if each.remedy), key=lambda each: each.verdict != "failed")
    if not wrong:
        return
    yield ""
    yield "What to do"
    for number, remedy in enumerate(dict.fromkeys(each.remedy for each in wrong), 1):
        first = f"{number}. "
        for each in map(_shown, remedy.splitlines()):
            if each.startswith("  "):
                # To be copied: a terminal breaks it without a line break.
                yield f"   {each}"
            else:
                yield _wrapped(each, width, first, "   ")
            first = "   "


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "ok": not any(each.verdict == "failed" for each in findings),
        "findings": [
            {
                "step": each.step,
                "verdict": each.verdict,
                "code": each.code,
                "what": each.what,
                "remedy": each.remedy or None,
            }
            for each in findings
        ],
    }


def _shown(text: str) -> str:
    """Nothing of what servers and files say is a terminal's to obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _wrapped(text: str, width: int, first: str, others: str) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=True,
    )
