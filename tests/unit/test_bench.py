"""scripts/bench: what it makes of what it reads and measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark.content import Content, link_registry
from benchmark.main import main, size_of
from benchmark.measure import TICK, Stat, cpu_seconds, family, parse_peak, parse_stat, processes_of
from benchmark.origin import Fetched, parse_log
from benchmark.report import as_json, markdown, show
from benchmark.results import Figure, Results, Sample
from benchmark.scenarios import SCENARIOS
from benchmark.servers import SERVERS, missing
from benchmark.targets import TARGETS, Target, Verdict, judge, value
from hypothesis import given
from hypothesis import strategies as st

BLOB, OTHER = "/v2/bench/image/blobs/sha256:ab", "/v2/bench/image/blobs/sha256:cd"
NAMES = {scenario.name: scenario for scenario in SCENARIOS}
TITLES = {server.name: server.title for server in SERVERS}


def sampled(*samples: tuple[str, str, dict[str, float]]) -> Results:
    return Results([Sample(*each) for each in samples])


def test_a_processs_name_may_hold_spaces_and_parentheses() -> None:
    line = "12 (tmux: ) (x) S 7 12 12 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7\n"
    assert parse_stat(line) == Stat(7, 127 * TICK)


def test_all_that_descend_from_a_process_count() -> None:
    parents = {1: 0, 5: 1, 6: 5, 7: 6, 8: 1}
    assert sorted(family(5, parents)) == [5, 6, 7]


def test_the_cpu_of_a_child_counts_also_when_it_has_ended() -> None:
    work = "sum(range(4_000_000))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        parent.stdout.readline()
        utime, stime = Path("/proc", str(parent.pid), "stat").read_text().rpartition(")")[2].split()[11:13]
        assert set(processes_of(parent.pid)) == {parent.pid}
        assert cpu_seconds(parent.pid) > (int(utime) + int(stime)) * TICK
        parent.communicate(b"\n")


@pytest.mark.parametrize(
    ("status", "size"), [("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n", 2 << 20), ("Name:\tkthreadd\n", 0)]
)
def test_peak_memory(status: str, size: int) -> None:
    assert parse_peak(status) == size


def test_only_what_is_given_of_a_file_counts_as_fetched() -> None:
    log = f"""\
1 GET {BLOB} 200 100
1 HEAD {BLOB} 200 0
1 GET {BLOB} 206 30
1 GET {OTHER} 200 7
2 GET {BLOB} 200 100
1 GET {BLOB} 404 153
"""
    assert parse_log(log, 1, BLOB) == Fetched(2, 130)
    assert parse_log("", 1, BLOB) == Fetched(0, 0)


def test_a_ratio_is_of_figures_of_the_same_round() -> None:
    results = sampled(
        ("S1", "nginx", {"rate": 100}),
        ("S1", "mirrortap", {"rate": 50}),
        ("S1", "nginx", {"rate": 1000}),
        ("S1", "mirrortap", {"rate": 800}),
        ("S1", "nginx", {"rate": 10}),
        ("S1", "mirrortap", {"rate": 6}),
    )
    assert results.ratio("S1", "mirrortap", "nginx", "rate") == Figure(0.6, 0.5, 0.8)
    assert results.figure("S1", "mirrortap", "rate") == Figure(50, 6, 800)
    assert results.ratio("S1", "squid", "nginx", "rate") is None


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_an_aim_is_met_only_with_the_floor(figure: float, floor: float, step: float, more: bool) -> None:
    target = Target("x", value("S1", "mirrortap", "cpu"), floor, floor + step if more else floor - step, more)
    said = Verdict(target, figure).said
    good, best = (figure >= floor, figure >= floor + step) if more else (figure <= floor, figure <= floor - step)
    assert said == ("met" if best else "floor met, aim missed" if good else "floor missed")


def test_targets_are_judged_by_what_was_measured() -> None:
    results = sampled(
        ("S1", "nginx", {"rate": 1000, "cpu": 0.6}),
        ("S1", "mirrortap", {"rate": 700, "cpu": 1.2}),
        ("S4L", "mirrortap", {"seconds": 14, "upstream": 1.0, "first": 0.5}),
        ("S4LA", "mirrortap", {"seconds": 13.5}),
    )
    said = {each.target.what: (each.figure, each.said) for each in judge(results)}
    assert said["S1, 1 worker: rate"] == (0.7, "floor met, aim missed")
    assert said["S1, 1 worker: CPU"] == (1.2, "floor missed")
    assert said["S4L: slowest client"] == (14, "met")
    assert said["S4L: slowest client, to one alone"] == (14 / 13.5, "met")
    assert said["S4L: last first byte"] == (0.5, "floor missed")
    assert said["S3: CPU"] == (None, "not measured")


def test_each_target_is_of_a_figure_that_is_measured() -> None:
    """With every metric of every scenario there, none is left unjudged."""
    results = sampled(
        *(
            (scenario.name, name, {metric.key: 1.0 for metric in scenario.metrics})
            for scenario in SCENARIOS
            for name in scenario.targets
        )
    )
    assert [each.target.what for each in judge(results) if each.figure is None] == []
    assert len(TARGETS) == len({target.what for target in TARGETS})


def test_scenarios_name_servers_that_there_are() -> None:
    for scenario in SCENARIOS:
        assert set(scenario.targets) <= set(TITLES)
        assert scenario.base in ("", *scenario.targets)


def test_the_report_says_what_is_not_there() -> None:
    results = sampled(("S1", "nginx", {"rate": 1000, "cpu": 0.5, "peak": 9}))
    results.failed["S1", "mirrortap"] = "clients got\nwrong | bytes"
    results.left_out["squid"] = "squid not installed (apt-get install squid-openssl)"
    results.left_out["S6C"] = "ctr not installed (apt-get install containerd)"
    said = markdown("HEAD", [NAMES["S1"], NAMES["S6C"]], TITLES, results)
    assert "| nginx TLS, no proxy (the limit) | 1000 | 1.00 | 0.50 | 9 |" in said
    assert "| mirrortap, 1 worker | FAILED: clients got wrong \\| bytes |  |  |  |" in said
    assert "| Squid, ssl-bump | left out |  |  |  |" in said
    assert "- squid: squid not installed (apt-get install squid-openssl)." in said
    assert "**S6C**: warm image of 4 layers, `ctr content fetch` of :latest: ctr not installed" in said
    told = json.loads(json.dumps(as_json({"size": 1}, results)))
    assert told["failed"] == [{"scenario": "S1", "target": "mirrortap", "why": "clients got\nwrong | bytes"}]
    assert told["samples"][0]["values"]["rate"] == 1000
    assert len(told["targets"]) == len(TARGETS)


def test_a_spread_is_said_where_there_is_one() -> None:
    assert show(Figure(1.0, 0.5, 2.0), 1) == "1.0 (0.5–2.0)"
    assert show(Figure(1.0, 0.99, 1.01), 1) == "1.0"
    assert show(None, 1) == "–"


def test_sizes() -> None:
    assert [size_of(text) for text in ("500", "8k", "256M", "1G")] == [500, 8 << 10, 256 << 20, 1 << 30]


@pytest.mark.parametrize(
    ("option", "text", "why"),
    [
        ("--size", "0", "'0' is not a size: write 500M, 1G"),
        ("--scenario", "S1,S9", "'S9': there are S1, "),
        ("--target", "nginx,apache", "'apache': there are nginx, squid"),
        ("--rounds", "0", "--rounds is 1 or more"),
    ],
)
def test_what_is_asked_wrongly_is_an_error(
    capsys: pytest.CaptureFixture[str], option: str, text: str, why: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, text])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_a_missing_program_is_named_with_its_package() -> None:
    told = missing({"sh": "dash", "no-such-squid": "squid-openssl"})
    assert told == "no-such-squid not installed (apt-get install squid-openssl)"
    assert missing({"sh": "dash"}) == ""


def test_an_image_in_a_registrys_own_storage(tmp_path: Path) -> None:
    content = Content(tmp_path / "www", 4000)
    image = content.image
    blobs = content.parts(image)
    assert [blob.digest for blob in blobs[1:]] == [layer.digest for layer in content.layers]
    link_registry(tmp_path / "storage", image, blobs)
    root = tmp_path / "storage" / "docker" / "registry" / "v2"
    tag = root / "repositories/bench/image/_manifests/tags/latest/current/link"
    assert tag.read_text() == image.digest
    for item in (image, *blobs):
        name = item.digest.removeprefix("sha256:")
        assert (root / "blobs" / "sha256" / name[:2] / name / "data").samefile(item.path)
