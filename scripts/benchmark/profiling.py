"""Where a process spends its time: py-spy or perf at it while a scenario runs."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import BenchError
from benchmark.measure import processes_of
from benchmark.processes import PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.processes import Processes

_ATTACHED = 1.0  # seconds; neither says when it has begun


class Profiler:
    """Writes into `folder`. Raises BenchError where there is no program for it."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        path = f"{Path(sys.executable).parent}:{PATH}"
        self._program = shutil.which("py-spy", path=path) or shutil.which("perf", path=path)
        if not self._program:
            raise BenchError("--profile needs py-spy (pip install py-spy) or perf (apt-get install linux-perf)")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._processes = folder.resolve(), processes

    @contextmanager
    def around(self, pid: int, name: str) -> Iterator[None]:
        """Of `pid` and its processes until the block ends, as `name`.svg (py-spy) or `name`.perf (perf)."""
        assert self._program
        log = self._folder / f"{name}.log"
        if Path(self._program).name == "py-spy":
            file = self._folder / f"{name}.svg"
            options = ["record", "--subprocesses", "--rate", "200", "--native", "-p", str(pid), "-o", str(file)]
        else:
            file = self._folder / f"{name}.perf"
            pids = ",".join(str(each) for each in processes_of(pid))
            options = ["record", "-g", "-F", "499", "-p", pids, "-o", str(file)]
        profiler = self._processes.spawn(self._program, *options, log=log)
        time.sleep(_ATTACHED)
        try:
            yield
        finally:
            profiler.send_signal(signal.SIGINT)
            profiler.wait()
            self._processes.ended(profiler)
        if not file.exists():
            raise BenchError(f"{self._program} wrote no profile: {log.read_text(errors='replace').strip()[-400:]}")
        log.unlink()
        print(f"profile: {file}", file=sys.stderr)
