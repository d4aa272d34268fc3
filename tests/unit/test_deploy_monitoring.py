"""The dashboard and the alert rules ask for nothing but what the proxy tells; and the documentation knows all of it.

There is no promtool here: expressions are taken apart far enough to hold their names against an exposition.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML
from support.full_facts import full

from addon.counts.facts import State
from addon.status.metrics import exposition

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "monitoring.md"

# https://prometheus.io/docs/prometheus/latest/querying/: operators' words, and functions by what they take.
WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset", "group_left", "group_right"}
OF_RANGES = {"rate", "increase", "changes"}
FUNCTIONS = {*OF_RANGES, "sum", "min", "max", "avg", "count", "absent", "time", "histogram_quantile", "clamp_min"}
# What Prometheus adds to all that it scrapes, and what it tells of itself.
ADDED = {"instance", "job"}
UP = "up"

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"(?P<metric>[a-z_]+)(?P<labels>\{[^}]*\})?(?P<range>\[[^\]]+\])?")


def told() -> dict[str, tuple[str, set[str]]]:
    """Of each sample's name, the metric's type and the labels."""
    found: dict[str, tuple[str, set[str]]] = {UP: ("gauge", set())}
    for family in text_string_to_metric_families(exposition(full())[0].decode()):
        assert family.samples, f"the facts of tests have nothing for {family.name}"
        for sample in family.samples:
            found.setdefault(sample.name, (family.type, set()))[1].update(sample.labels)
    return found


TOLD = told()


@dataclass
class Query:
    """A PromQL expression, taken apart. `shown`: labels that its results have."""

    metrics: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)


def take_apart(expr: str) -> Query:
    """Fails for what is wrong with it."""
    query, grouped = Query(), []
    for opening, closing in "()", "{}", "[]":
        assert expr.count(opening) == expr.count(closing), expr
    bare = STRING.sub('""', expr)
    for by in re.findall(r"\bby \(([^)]*)\)", bare):
        grouped.append({label.strip() for label in by.split(",")})
    bare = re.sub(r"\s*\bby \([^)]*\)\s*", "", bare)
    for found in SELECTOR.finditer(bare):
        name, before, after = found["metric"], bare[: found.start()], bare[found.end() :]
        if name in WORDS or re.search(r"[\w$.]$", before):
            continue
        if after.startswith("("):
            assert name in FUNCTIONS, f"{name} is no function that is known here: {expr}"
            continue
        assert name in TOLD, f"{name} is told by nobody: {expr}"
        kind, labels = TOLD[name]
        if found["labels"]:
            asked = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", found["labels"]))
            assert asked
            assert asked <= labels | ADDED, f"{name} has no {asked - labels - ADDED}: {expr}"
        function = re.search(r"(\w+)\($", before)
        ranged = function is not None and function[1] in OF_RANGES
        assert ranged == bool(found["range"]), f"{name}: {expr}"
        if kind in ("counter", "histogram"):
            assert ranged, f"{name} only ever grows: {expr}"
        query.metrics.add(name)
        query.shown |= labels | ADDED
    assert query.metrics, expr
    for labels in grouped:
        assert labels <= query.shown, f"nothing has {labels - query.shown}: {expr}"
    if grouped:
        query.shown = set.union(*grouped)
    return query


def placeholders(text: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, text))


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(rate(mirrortap_requests[5m]))",
        "sum(mirrortap_requests_total)",
        "rate(mirrortap_requests_total)",
        'rate(mirrortap_requests_total{repository="x"}[5m])',
        "sum by (client) (rate(mirrortap_requests_total[5m]))",
        "quantile_of(0.5, mirrortap_connections)",
        "max(mirrortap_connections",
        "mirrortap_connections[5m]",
        "1 + 1",
    ],
)
def test_what_is_wrong_with_an_expression_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        take_apart(wrong)


# The alert rules.


def rules() -> list[dict[str, Any]]:
    loaded = YAML(typ="safe").load(ROOT / "deploy" / "prometheus" / "alerts.yaml")
    (group,) = loaded["groups"]
    assert set(group) == {"name", "rules"}
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_alerts_are_about_what_is_told() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Mirrortap[A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"[1-9]\d*[mh]", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        query = take_apart(rule["expr"])
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}
        for text in notes.values():
            assert placeholders(text, r"\$labels\.(\w+)") <= query.shown, (rule["alert"], text)
            assert text.count("{{") == text.count("}}")
        assert notes["summary"].endswith(".")


@pytest.mark.parametrize("alert", ["MirrortapEndpointDown", "MirrortapRegistryUnreachable"])
def test_an_endpoint_stays_in_its_alerts_while_nobody_asks_it_again(alert: str) -> None:
    """After a rest of 5 s at first, 5 min at most, it is no longer down, but unknown, until somebody pulls."""
    (rule,) = (rule for rule in rules() if rule["alert"] == alert)
    state, failed = rule["expr"].split(" and ")
    (matcher,) = re.findall(r'mirrortap_endpoint_state\{state=~"([a-z|]+)"\}', state)
    troubled = {"down", "unknown"} if state.endswith("== 1") else set(get_args(State)) - {"down", "unknown"}
    assert set(matcher.split("|")) == troubled
    assert re.search(r"increase\(mirrortap_endpoint_failures_total\[15m\]\)\) > 0$", failed)


def test_each_alert_has_a_place_in_the_documentation() -> None:
    headings = [line.removeprefix("### ") for line in DOCS.read_text().splitlines() if line.startswith("### Mirrortap")]
    assert headings == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{rule['alert'].lower()}"


# The dashboard.


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded = json.loads((ROOT / "deploy" / "grafana" / "mirrortap.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_the_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"] == "mirrortap"
    assert "id" not in dashboard, "that is Grafana's"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for name, variable in variables.items():
        if name != "datasource":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert asked
            assert asked[2] == name
            assert name in TOLD[asked[1]][1] | ADDED


def test_panels_show_what_is_told(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    titles = []
    for panel in panels:
        titles.append(panel["title"])
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in ("percentunit", "bytes", "Bps", "reqps", "s", "short")
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            query = take_apart(target["expr"])
            assert placeholders(target["legendFormat"], r"\{\{(\w+)\}\}") <= query.shown, panel["title"]
            assert placeholders(target["expr"], r"\$(\w+)") <= {*variables, "__rate_interval", "__range"}
    assert len(titles) == len(set(titles))


def test_panels_stand_side_by_side(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


# The documentation.


def test_the_documentation_has_all_metrics() -> None:
    rows = re.findall(r"^\| `(\w+)`(?: \| ([^|]*))? \|", DOCS.read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows if name.startswith("mirrortap_")}
    text = exposition(full())[0].decode()
    named = re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)
    assert list(documented) == named, "in this order"
    for name, labels in documented.items():
        samples = [told for each, (_, told) in TOLD.items() if each.startswith(name)]
        assert labels == set.union(*samples) - {"le"}, name
