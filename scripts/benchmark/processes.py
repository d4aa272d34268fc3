"""The processes that a benchmark starts, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from benchmark.errors import BenchError
from benchmark.measure import processes_of, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# nginx and squid are where only root has them on PATH.
PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


class Processes:
    """All that were started and have not been ended, so that none of them stays behind."""

    def __init__(self, folder: Path) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        # No proxy settings, curlrc or TLS settings of the caller's may change what is measured.
        self.environment = {"PATH": PATH, "HOME": str(folder), "TMPDIR": str(folder), "LC_ALL": "C"}
        self._folder = folder

    def spawn(
        self,
        *command: str,
        stdout: int | None = None,
        stderr: int | None = None,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """With `log`, both its outputs are written there."""
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(log.open("wb")) if log else None
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out or stdout,
                stderr=out or stderr,
                cwd=self._folder,
                env={**self.environment, **(env or {})},
                start_new_session=True,  # a terminal's Ctrl-C ends the benchmark, and that ends them
            )
        self._running[process.pid] = process
        return process

    def serve(
        self, name: str, *command: str, address: tuple[str, int] | str, log: Path, env: Mapping[str, str] | None = None
    ) -> int:
        """The pid of a server, when it accepts connections there (a string: a unix socket); `name` is for people."""
        process = self.spawn(*command, log=log, env=env)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), _connect(address):
                return process.pid
            time.sleep(0.05)
        self.end(process.pid)
        said = log.read_text(errors="replace").strip()
        raise BenchError(f"{name} does not start: {said[-800:] or 'it says nothing'}")

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> bytes:
        """To its end, and what it wrote to its standard output; a failure is an error with what it said."""
        process = self.spawn(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        told, said = process.communicate()
        self.ended(process)
        if process.returncode:
            raise BenchError(f"{os.path.basename(command[0])} failed: {said.decode(errors='replace').strip()[-800:]}")
        return told

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """It has ended by itself, and was waited for."""
        self._running.pop(process.pid, None)

    def end(self, pid: int) -> None:
        """Not gently: nothing of what they have is kept, and a proxy would wait for its transfers."""
        process = self._running.pop(pid, None)
        if process is None:
            return
        members = processes_of(pid)
        for each in members:  # the eldest first, which would replace one that dies
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        while any(running(each) for each in members) and time.monotonic() < deadline:
            time.sleep(0.01)  # somebody else's children by now; they still have files open

    def end_all(self) -> None:
        for pid in list(self._running):
            self.end(pid)


def free_port() -> int:
    """nginx and Squid cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _connect(address: tuple[str, int] | str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
