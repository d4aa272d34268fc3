"""What is said of the results: markdown for people, JSON for programs (pure)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmark.targets import judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmark.results import Figure, Results
    from benchmark.scenarios import Scenario
    from benchmark.targets import Target, Verdict

_NOTHING = "–"


def markdown(about: str, scenarios: Sequence[Scenario], titles: Mapping[str, str], results: Results) -> str:
    """A table for each scenario, what was left out, and the targets; `titles` of the servers, in their order."""
    parts = [about]
    parts += [_scenario(scenario, titles, results) for scenario in scenarios]
    if results.left_out:
        parts.append("\n".join(["Left out:", "", *(f"- {what}: {why}." for what, why in results.left_out.items())]))
    parts.append(_targets(judge(results)))
    return "\n\n".join(parts) + "\n"


def as_json(about: Mapping[str, Any], results: Results) -> dict[str, Any]:
    return {
        **about,
        "samples": [asdict(sample) for sample in results.samples],
        "failed": [{"scenario": each[0], "target": each[1], "why": why} for each, why in results.failed.items()],
        "left_out": results.left_out,
        "targets": [{"what": each.target.what, "figure": each.figure, "verdict": each.said} for each in judge(results)],
    }


def _scenario(scenario: Scenario, titles: Mapping[str, str], results: Results) -> str:
    headers = ["server"]
    for metric in scenario.metrics:
        headers += [metric.header, *(["x direct"] if metric.ratio and scenario.base else [])]
    rows = []
    for name in (each for each in titles if each in scenario.targets):
        if why := results.failed.get((scenario.name, name)):
            rows.append([titles[name], f"FAILED: {_cell(why)}"] + [""] * (len(headers) - 2))
        elif any((sample.scenario, sample.target) == (scenario.name, name) for sample in results.samples):
            rows.append([titles[name], *_cells(scenario, name, results)])
        elif name in results.left_out:
            rows.append([titles[name], "left out"] + [""] * (len(headers) - 2))
    if not rows:
        return f"**{scenario.name}**: {scenario.title}: {results.left_out.get(scenario.name, 'nothing was measured')}"
    return f"**{scenario.name}**: {scenario.title}\n\n" + table(headers, rows)


def _cells(scenario: Scenario, name: str, results: Results) -> list[str]:
    cells = []
    for metric in scenario.metrics:
        cells.append(show(results.figure(scenario.name, name, metric.key), metric.digits))
        if metric.ratio and scenario.base:
            cells.append(show(results.ratio(scenario.name, name, scenario.base, metric.key), 2))
    return cells


def show(figure: Figure | None, digits: int) -> str:
    """The median, and from least to most where rounds differ as it is written."""
    if figure is None:
        return _NOTHING
    median, least, most = (f"{value:.{digits}f}" for value in (figure.median, figure.least, figure.most))
    return median if least == most else f"{median} ({least}–{most})"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] + ["--:"] * (len(headers) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _targets(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [
            each.target.what,
            f"{each.figure:.2f}{each.target.unit}",
            _bound(each.target, each.target.floor),
            _bound(each.target, each.target.aim),
            each.said,
        ]
        for each in verdicts
        if each.figure is not None
    ]
    said = "**Targets**\n\n" + table(["what", "figure", "floor", "aim", "verdict"], rows)
    without = [each.target.what for each in verdicts if each.figure is None]
    return f"{said}\n\nNot measured: {'; '.join(without)}." if without else said


def _bound(target: Target, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"{'≥' if target.more else '≤'} {bound:g}"


def _cell(text: str) -> str:
    """As one line of a table."""
    return " ".join(text.split()).replace("|", "\\|")
