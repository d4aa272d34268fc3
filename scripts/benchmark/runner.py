"""The order of things: everything started and checked, then rounds in which all take turns."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmark.clients import Clients
from benchmark.content import Content, read_ahead
from benchmark.errors import BenchError
from benchmark.measure import settle, touch_memory
from benchmark.origin import RATES, Origin
from benchmark.results import Results, Sample
from benchmark.scenarios import TAGGED, Ctr, Scenario, Stage
from benchmark.servers import Mirrortap, Server, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmark.processes import Processes
    from benchmark.profiling import Profiler


class Bench:
    """Of some scenarios with some servers. `results` has what was measured so far."""

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        scenarios: Sequence[Scenario],
        servers: Sequence[type[Server]],
        size: int,
    ) -> None:
        folder.chmod(0o711)  # Squid gives up being root, and has to get to its own
        self._folder, self._processes = folder, processes
        self._scenarios, self._kinds = list(scenarios), {each.name: each for each in servers}
        self._origin = Origin(folder, processes)
        self._content = Content(self._origin.www, size)
        self._clients = Clients(processes)
        self._warm: dict[str, Server] = {}
        self.results = Results()

    def prepare(self) -> None:
        """Starts what there is, has it cache what is measured warm, and holds against its digest what clients get."""
        self._leave_out()
        say("making what is pulled")
        for scenario in self._scenarios:
            scenario.items(self._content)
        tagged = self._content.image.digest if any(each in TAGGED for each in self._scenarios) else ""
        touch_memory(self._content.size * 8)
        self._origin.start(tagged)
        if any(isinstance(each, Ctr) for each in self._scenarios):
            self._containerd()
        for name in self._kinds:
            if any(name in scenario.targets for scenario in self._scenarios if not scenario.upstream):
                self._start_warm(name)
        for scenario in self._scenarios:
            say(f"checking {scenario.name}")
            # What waits for the origin can as well wait together.
            slow = scenario.upstream is not None and RATES[scenario.upstream] is not None
            targets = self._targets(scenario)
            with ThreadPoolExecutor(len(targets) if slow and targets else 1) as pool:
                list(pool.map(lambda name, scenario=scenario: self._guarded(scenario, name, self._check), targets))

    def round(self) -> None:
        for scenario in self._scenarios:
            for name in self._targets(scenario):
                say(f"{scenario.name} {name}")
                self._guarded(scenario, name, self._measure)

    def profile(self, profiler: Profiler) -> None:
        """Once more, what mirrortap does alone; these figures count for nothing."""
        for scenario in self._scenarios:
            for name in self._targets(scenario):
                if issubclass(self._kinds[name], Mirrortap):
                    say(f"profiling {scenario.name} {name}")
                    self._guarded(scenario, name, partial(_profiled, profiler))

    def _leave_out(self) -> None:
        for name, kind in list(self._kinds.items()):
            if why := missing(kind.programs):
                self.results.left_out[name] = why
                say(f"left out: {name}: {why}")
                del self._kinds[name]
        for scenario in list(self._scenarios):
            if why := missing(scenario.programs):
                self.results.left_out[scenario.name] = why
                say(f"left out: {scenario.name}: {why}")
                self._scenarios.remove(scenario)

    def _targets(self, scenario: Scenario) -> list[str]:
        return [
            name
            for name in self._kinds
            if name in scenario.targets and (scenario.name, name) not in self.results.failed
        ]

    def _start_warm(self, name: str) -> None:
        say(f"starting {name}")
        scenarios = [each for each in self._scenarios if not each.upstream and name in each.targets]
        try:
            server = self._kinds[name](self._folder / name, self._origin, self._content, self._processes)
            server.start(server.warm_upstream)
            if server.caches:
                for item in dict.fromkeys(item for each in scenarios for item in each.items(self._content)):
                    self._clients.fetch(server.way, item)
                settle(server.pid)
            self._warm[name] = server
        except BenchError as error:
            for scenario in scenarios:
                self._failed(scenario, name, error)

    def _guarded(self, scenario: Scenario, name: str, do: Callable[[Scenario, Stage], None]) -> None:
        """What goes wrong with one server says nothing of the others."""
        try:
            with self._cold(scenario, name) if scenario.upstream else nullcontext(self._warm[name]) as server:
                os.sync()  # what is still to be written to the disk is not this measurement's
                do(scenario, Stage(server, self._clients, self._content, self._folder))
        except (BenchError, OSError) as error:
            self._failed(scenario, name, error)

    @contextmanager
    def _cold(self, scenario: Scenario, name: str) -> Iterator[Server]:
        """A server that has nothing cached, but has served something: it has its connections and certificates."""
        assert scenario.upstream
        with TemporaryDirectory(prefix=f"{name}-", dir=self._folder) as folder:
            os.chmod(folder, 0o711)
            server = self._kinds[name](Path(folder, "cold"), self._origin, self._content, self._processes)
            try:
                server.start(scenario.upstream)
                self._clients.fetch(server.way, self._content.small)
                read_ahead(scenario.items(self._content))
                settle(server.pid)
                yield server
            finally:
                server.stop()

    def _failed(self, scenario: Scenario, name: str, error: Exception) -> None:
        self.results.failed[scenario.name, name] = str(error)
        say(f"FAILED: {scenario.name} {name}: {error}")

    def _containerd(self) -> None:
        """What ctr leads: with no plugin for Kubernetes, which would want a network of its own."""
        folder = self._folder / "containerd"
        folder.mkdir()
        (folder / "config.toml").write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{folder}/socket"\n'
        )
        self._processes.serve(
            "containerd",
            *("containerd", "--config", str(folder / "config.toml")),
            address=str(folder / "socket"),
            log=folder / "log",
        )

    def _check(self, scenario: Scenario, stage: Stage) -> None:
        scenario.check(stage)

    def _measure(self, scenario: Scenario, stage: Stage) -> None:
        self.results.samples.append(Sample(scenario.name, stage.server.name, scenario.measure(stage)))


def _profiled(profiler: Profiler, scenario: Scenario, stage: Stage) -> None:
    def around(server: Server) -> AbstractContextManager[None]:
        return profiler.around(server.pid, f"{scenario.name}-{server.name}")

    scenario.measure(replace(stage, profile=around))


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
