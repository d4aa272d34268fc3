"""The command: what is asked for, and where the report goes."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from benchmark.errors import BenchError
from benchmark.processes import Processes
from benchmark.profiling import Profiler
from benchmark.report import as_json, markdown
from benchmark.runner import Bench, say
from benchmark.scenarios import SCENARIOS
from benchmark.servers import NEVER, OPTIONAL, SERVERS, missing, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmark.scenarios import Scenario
    from benchmark.servers import Server

_NEEDED = {"nginx": "nginx", "curl": "curl", "openssl": "openssl"}
_QUICK = {"scenario": ["S1", "S2", "S3", "S5"], "target": ["nginx", "mirrortap"]}

_ABOUT = """\
How fast mirrortap serves, next to nginx, Squid and docker-registry on the same machine in the same run.

Everything is on loopback, with TLS to the clients; what is cached is in $TMPDIR, on a disk for true misses.
docs/performance.md says what the figures mean. Exits with 1 when something could not be measured or gave wrong bytes;
whether a figure is good is for people to say.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark that the command line asks for; ends the process with its exit code."""
    options, begun = _parse(arguments), time.monotonic()
    if why := missing(_NEEDED):
        sys.exit(f"bench: nothing is measured without: {why}")
    kinds = [kind for kind in SERVERS if kind.name in options.target]
    scenarios = [each for each in SCENARIOS if each.name in options.scenario]
    with TemporaryDirectory(prefix="mirrortap-bench.") as name:
        processes = Processes(Path(name))

        def stop(number: int, _: object) -> NoReturn:
            # First of all, for what waits for a client waits until it ends.
            processes.end_all()
            sys.exit(128 + number)

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, stop)
        try:
            profiler = Profiler(options.profile, processes) if options.profile else None
            bench = Bench(Path(name), processes, scenarios, kinds, options.size)
            bench.results.left_out |= NEVER
            bench.prepare()
            for number in range(1, options.rounds + 1):
                say(f"round {number} of {options.rounds}")
                bench.round()
            if profiler:
                bench.profile(profiler)
            about = _about(options, [*kinds, *scenarios], processes)
        except (BenchError, OSError) as error:
            sys.exit(f"bench: {error}")
        finally:
            processes.end_all()
    results = bench.results
    say(f"done in {time.monotonic() - begun:.0f} s")
    report = markdown(_heading(about), scenarios, {kind.name: kind.title for kind in kinds}, results)
    print(report, end="")
    if options.markdown:
        options.markdown.write_text(report)
    if options.json:
        options.json.write_text(json.dumps(as_json(about, results), indent=2) + "\n")
    sys.exit(1 if results.failed else 0)


def size_of(text: str) -> int:
    """Bytes; K, M and G are powers of 1024."""
    match = re.fullmatch(r"([1-9]\d*)([KMG]?)", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write 500M, 1G or a number of bytes (K is 1024)")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _one_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    names = list(known)

    def parse(text: str) -> list[str]:
        asked = text.split(",")
        if wrong := [name for name in asked if name not in names]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)!r}: there are {', '.join(names)}")
        return asked

    return parse


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    scenarios = [each.name for each in SCENARIOS]
    targets = [kind.name for kind in SERVERS]
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", type=_one_of(scenarios), metavar="NAME,...", help=f"of {', '.join(scenarios)}")
    parser.add_argument(
        "--target",
        type=_one_of(targets),
        metavar="NAME,...",
        help=f"of {', '.join(targets)}; without this option, all but {', '.join(OPTIONAL)}",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="of all scenarios, taken in turn (3)")
    parser.add_argument("--size", type=size_of, help="of the large blob, like 500M or 1G (1G); others are a quarter")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"unless said otherwise: --size 256M --rounds 1 --scenario {','.join(_QUICK['scenario'])}"
        f" --target {','.join(_QUICK['target'])}",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="after the rounds, each scenario once more with py-spy or perf at mirrortap, which writes there",
    )
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is 1 or more")
    default = [name for name in targets if name not in OPTIONAL]
    options.scenario = options.scenario or (_QUICK["scenario"] if options.quick else scenarios)
    options.target = options.target or (_QUICK["target"] if options.quick else default)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.size = options.size or (256 << 20 if options.quick else 1 << 30)
    return options


def _about(
    options: argparse.Namespace, asked: Iterable[type[Server] | Scenario], processes: Processes
) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _machine(),
        "versions": versions(processes, {program for each in asked for program in each.programs}),
        "size": options.size,
        "rounds": options.rounds,
    }


def _heading(about: dict[str, Any]) -> str:
    return (
        f"{about['date']}, {about['machine']}; {', '.join(about['versions'])}. The blob is {about['size'] >> 20} MiB,"
        f" a quarter {about['size'] >> 22} MiB; rounds: {about['rounds']}; medians (least–most)."
    )


def _machine() -> str:
    """Without its name, which is nobody's business."""
    told = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)", told, re.MULTILINE)
    kind = "a virtual machine" if "hypervisor" in told else "a machine"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    cpu = f"{os.cpu_count()} CPUs ({model[1] if model else 'unknown'})"
    return f"{kind} with {cpu} and {memory:.0f} GiB, Linux {os.uname().release}"
