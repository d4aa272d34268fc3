"""scripts/bench at its smallest: it measures, says so, leaves nothing behind, and notices wrong bytes."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from benchmark.clients import Clients
from benchmark.content import Content
from benchmark.errors import BenchError
from benchmark.origin import Origin
from benchmark.processes import Processes
from benchmark.servers import Nginx
from support.processes import Program, clean_env, needs, run
from support.proxy import ROOT
from support.waiting import until

PROGRAM = f"import sys; sys.path[0] = {str(ROOT / 'scripts')!r}; from benchmark.main import main; main()"
BENCH = (sys.executable, "-c", PROGRAM, "--quick", "--size", "8M", "--scenario", "S1")


def left_behind(home: Path) -> list[str]:
    """Processes and files of a benchmark that had `home`."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(home) in line] + [str(path) for path in (home / "tmp").iterdir()]


@needs("nginx", "curl", "openssl")
def test_a_quick_run(tmp_path: Path) -> None:
    home, report, figures = tmp_path / "home", tmp_path / "report.md", tmp_path / "report.json"
    options = ["--target", "nginx,mirrortap", "--markdown", str(report), "--json", str(figures)]
    done = run([*BENCH, *options], env=clean_env(home))
    assert done.stdout == report.read_text()
    assert "| mirrortap, 1 worker | " in done.stdout
    assert "S1, 1 worker: rate" in done.stdout
    told = json.loads(figures.read_text())
    assert (told["size"], told["failed"]) == (8 << 20, [])
    for sample in told["samples"]:
        assert sample["scenario"] == "S1"
        assert sample["values"]["rate"] > 0
        assert sample["values"]["peak"] > 1
    assert [sample["target"] for sample in told["samples"]] == ["nginx", "mirrortap"]
    assert left_behind(home) == []


@needs("nginx", "curl", "openssl")
def test_nothing_is_left_behind_by_a_run_that_is_stopped(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Program([*BENCH, "--target", "nginx", "--rounds", "1000"], env=clean_env(home)) as bench:
        bench.err.wait_for("round 2 of 1000", timeout=60)
        assert left_behind(home)
        bench.signal(signal.SIGTERM)
        assert bench.wait(60) == 128 + signal.SIGTERM
    assert left_behind(home) == []


@needs("nginx", "curl", "openssl")
def test_wrong_bytes_are_noticed(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    try:
        origin, content = Origin(tmp_path, processes), Content(tmp_path / "www", 100_000)
        blob = content.big
        origin.start()
        server = Nginx(tmp_path / "nginx", origin, content, processes)
        server.start("unlimited")
        clients, mark = Clients(processes), origin.mark()
        clients.check(server.way, blob, clients=2)
        # nginx writes them down when it has answered.
        until(lambda: origin.since(mark, "unlimited", blob.where).requests == 2)
        with blob.path.open("r+b") as file:
            file.seek(50_000)
            byte = file.read(1)[0]
            file.seek(50_000)
            file.write(bytes([byte ^ 1]))
        with pytest.raises(BenchError, match="clients got wrong bytes: sha256:"):
            clients.check(server.way, blob, clients=2)
        with blob.path.open("r+b") as file:
            file.truncate(50_000)
        with pytest.raises(BenchError, match=r"of 100000 bytes clients got .* \['200', '50000'"):
            clients.fetch(server.way, blob)
    finally:
        processes.end_all()
