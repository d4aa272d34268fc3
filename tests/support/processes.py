"""Programs that a test starts: their output as lines to wait for, and their end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The test is skipped (or fails, with MIRRORTAP_NO_SKIP=1) where one of these is not on PATH: @needs("skopeo")
needs = pytest.mark.programs


def require(*programs: str) -> None:
    """`needs` for fixtures and helpers."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")


class Failed(AssertionError):
    """A program did not do what it was asked to; the text is what it said."""


class Lines:
    """What a program writes, read as it comes."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()

    def follow(self, stream: IO[str]) -> threading.Thread:
        thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        thread.start()
        return thread

    def __len__(self) -> int:
        return len(self.all())

    def all(self, since: int = 0) -> list[str]:
        with self._changed:
            return self._lines[since:]

    def matching(self, pattern: str, since: int = 0) -> list[re.Match[str]]:
        return [match for line in self.all(since) if (match := re.search(pattern, line))]

    def wait_for(self, pattern: str, *, since: int = 0, count: int = 1, timeout: float = 60) -> re.Match[str]:
        """The count-th matching line from line number `since` on; fails when time or the output ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._find(pattern, since)) >= count, timeout)
            found = self._find(pattern, since)
            assert len(found) >= count, f"no {pattern!r} (x{count}) in:\n" + "\n".join(self._lines[since:])
            return found[count - 1]

    def _find(self, pattern: str, since: int) -> list[re.Match[str]]:
        return [match for line in self._lines[since:] if (match := re.search(pattern, line))]

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Program:
    """A running program. `stop` asks it to end and gives its exit code; so does leaving the `with` block."""

    def __init__(self, argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.argv = [str(part) for part in argv]
        self.out, self.err = Lines(), Lines()
        # A session of its own: a terminal's Ctrl-C ends the test, and the test ends the program.
        self._process = subprocess.Popen(
            self.argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stdout
        assert self._process.stderr
        self._readers = [self.out.follow(self._process.stdout), self.err.follow(self._process.stderr)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Its exit code, with all of its output read."""
        code = self._process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return code

    def stop(self, timeout: float = 60) -> int:
        if self.running:
            self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            # Its whole session, since children of a killed daemon would stay.
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError(f"{self.argv[0]} did not end on SIGTERM\n{self.output()}") from None

    def output(self) -> str:
        return "\n".join(self.out.all() + self.err.all())

    def until_connectable(self, address: tuple[str, int] | Path, timeout: float = 60) -> None:
        """Until something accepts connections there, as long as the program runs."""
        deadline = time.monotonic() + timeout
        while not connectable(address):
            assert self.running, f"{self.argv[0]} ended: {self.output()}"
            assert time.monotonic() < deadline, f"{self.argv[0]} does not listen: {self.output()}"
            time.sleep(0.02)


def connectable(address: tuple[str, int] | Path) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.connect(str(address) if isinstance(address, Path) else address)
        except OSError:
            return False
        return True


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; with `check`, a failure shows what it wrote."""
    try:
        result = subprocess.run(
            [str(part) for part in argv],
            env=dict(env),
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as late:
        told = b"\n".join(part for part in (late.stdout, late.stderr) if part).decode(errors="replace")
        raise AssertionError(f"{late.cmd} does not end:\n{told}") from None
    if check and result.returncode != 0:
        raise Failed(f"{' '.join(result.args)}\nexit code {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def clean_env(home: Path, **more: str) -> dict[str, str]:
    """An environment with nothing of this machine but PATH: no proxies, no CA bundles, no logins."""
    home.mkdir(parents=True, exist_ok=True)
    scratch = home / "tmp"
    scratch.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        **more,
    }
