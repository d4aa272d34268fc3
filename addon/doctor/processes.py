"""Programs that run on this machine, as far as /proc shows them: proc(5)."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LISTENING = "0A"


@dataclass(frozen=True)
class Process:
    """`environment` is None where this user may not see it. `root` is its `/`; `network` stands for its network."""

    pid: int
    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] | None = field(repr=False)
    root: Path
    network: str

    def option(self, name: str) -> str | None:
        """What an option on its command line says: --name=VALUE or --name VALUE."""
        for argument, following in zip(self.arguments, (*self.arguments[1:], ""), strict=True):
            if argument.startswith(f"{name}="):
                return argument.partition("=")[2]
            if argument == name:
                return following
        return None


def running(proc: Path = Path("/proc")) -> Iterator[Process]:
    """Lowest number first."""
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdigit()):
        if found := process(pid, proc):
            yield found


def process(pid: int, proc: Path = Path("/proc")) -> Process | None:
    """None where there is no such process any more."""
    folder = proc / str(pid)
    try:
        name = (folder / "comm").read_text().strip()
        arguments = tuple((folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    except OSError:
        return None
    try:
        pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        network = os.readlink(folder / "ns/net")
        files = os.readlink(folder / "ns/mnt"), os.readlink(folder / "root")
        here = os.readlink(proc / "self/ns/mnt"), "/"
    except OSError:
        return Process(pid, name, arguments, None, folder / "root", "")
    return Process(pid, name, arguments, environment, Path("/") if files == here else folder / "root", network)


def listener(port: int, proc: Path = Path("/proc")) -> Process | None:
    """Who listens on a TCP port of this machine, as far as this user may see that."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    return next((each for each in running(proc) if sockets and sockets & _open(proc / str(each.pid) / "fd")), None)


def log(pid: int, proc: Path = Path("/proc")) -> str | None:
    """The file to which a process writes what it says; "" where that is the journal; None: not known."""
    try:
        target = os.readlink(proc / str(pid) / "fd/2")
    except OSError:
        return None
    if target.startswith("socket:"):
        return ""
    return target if target.startswith("/") and not target.startswith("/dev/") else None


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for name in "tcp", "tcp6":
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _open(folder: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for each in folder.iterdir():
            # One that is closed meanwhile must not hide the others.
            with suppress(OSError):
                found.add(os.readlink(each))
    return found
