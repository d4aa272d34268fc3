"""Who pulls: curl for blobs, a generator of requests for manifests, and real programs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.content import ACCEPT
from benchmark.errors import BenchError

if TYPE_CHECKING:
    from benchmark.content import Item
    from benchmark.processes import Processes
    from benchmark.servers import Way

# HTTP/1.1, for curl would ask for HTTP/2, which some servers have and some have not.
_CURL = ("curl", "-q", "-sS", "-L", "--http1.1", "--max-time", "600", "-H", f"Accept: {ACCEPT}")


@dataclass(frozen=True)
class Transfer:
    """Of several clients that began together: seconds until the slowest had all, and the last its first byte."""

    seconds: float
    first: float


class Clients:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def fetch(self, way: Way, item: Item, clients: int = 1) -> Transfer:
        """By so many at once; nothing is done with what they get but to see that it is all there."""
        said = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}"
        curls = [self._curl(way, item, "-o", "/dev/null", "-w", said) for _ in range(clients)]
        told = [self._said(curl).split() for curl in curls]
        if wrong := [answer for answer in told if answer[:2] != ["200", str(item.size)]]:
            raise BenchError(f"of {item.size} bytes clients got (status, bytes, seconds): {wrong[0]}")
        return Transfer(max(float(answer[3]) for answer in told), max(float(answer[2]) for answer in told))

    def check(self, way: Way, item: Item, clients: int = 1) -> None:
        """Hashes what each gets. Not timed: hashing costs a client more than receiving."""
        curls = [self._curl(way, item, "-f", "-o", "-") for _ in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            digests = list(pool.map(self._digest, curls))
        if wrong := [digest for digest in digests if digest != item.digest]:
            raise BenchError(f"clients got wrong bytes: {wrong[0]} in place of {item.digest}")

    def load(self, way: Way, item: Item, mode: str, count: int, seconds: float) -> dict[str, float]:
        """What load.py says."""
        options = {
            "connect": way.proxy or f"{way.host}:{way.port}",
            "host": way.host,
            "port": way.port,
            "ca": str(way.ca or ""),
            "tunnel": bool(way.proxy),
            "path": way.path(item.where),
            "accept": ACCEPT,
            "digest": item.digest,
            "mode": mode,
            "count": count,
            "seconds": seconds,
        }
        generator = str(Path(__file__).with_name("load.py"))
        told = json.loads(self._processes.run(sys.executable, "-I", generator, json.dumps(options)))
        return {str(key): float(value) for key, value in told.items()}

    def run(self, *command: str, way: Way) -> float:
        """Seconds that a program takes which pulls."""
        begun = time.monotonic()
        self._processes.run(*command, env=way.environment)
        return time.monotonic() - begun

    def _curl(self, way: Way, item: Item, *options: str) -> subprocess.Popen[bytes]:
        return self._processes.spawn(
            *(*_CURL, *options, *way.curl(item.where)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _said(self, curl: subprocess.Popen[bytes]) -> str:
        told, why = curl.communicate()
        self._processes.ended(curl)
        if curl.returncode:
            raise BenchError(why.decode(errors="replace").strip() or f"curl ended with {curl.returncode}")
        return told.decode()

    def _digest(self, curl: subprocess.Popen[bytes]) -> str:
        assert curl.stdout
        assert curl.stderr
        digest = hashlib.sha256()
        with curl.stdout, curl.stderr:
            while piece := curl.stdout.read(1 << 20):
                digest.update(piece)
            why = curl.stderr.read().decode(errors="replace").strip()
        code = curl.wait()
        self._processes.ended(curl)
        return f"sha256:{digest.hexdigest()}" if code == 0 else f"nothing complete ({why})"
