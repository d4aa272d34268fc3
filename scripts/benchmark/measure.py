"""What processes use of the machine, as Linux tells in /proc (proc(5))."""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """Of one process: its parent, and the CPU seconds of itself and of its children that have ended.

    It does not run any more when it has only not been waited for yet.
    """

    parent: int
    seconds: float
    running: bool = True


def parse_stat(text: str) -> Stat:
    """/proc/PID/stat: state and ppid are its 3rd and 4th field; utime, stime, cutime, cstime its 14th to 17th."""
    fields = text.rpartition(")")[2].split()  # the command's name, in parentheses, may hold spaces and parentheses
    return Stat(int(fields[1]), sum(int(ticks) for ticks in fields[11:15]) * TICK, fields[0] not in "ZX")


def parse_peak(text: str) -> int:
    """/proc/PID/status: VmHWM in bytes; 0 for a process that has no memory any more."""
    rest = text.partition("VmHWM:")[2].split(maxsplit=1)
    return int(rest[0]) * 1024 if rest else 0


def family(pid: int, parents: dict[int, int]) -> list[int]:
    """`pid` and all that descend from it, given each process's parent."""
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def processes_of(pid: int) -> dict[int, Stat]:
    """`pid` and its descendants that there are now."""
    stats = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                stats[int(entry.name)] = parse_stat((entry / "stat").read_text())
    members = family(pid, {each: stat.parent for each, stat in stats.items()})
    return {each: stats[each] for each in members if each in stats}


def running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text()).running
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    return sum(stat.seconds for stat in processes_of(pid).values())


def forget_peaks(pid: int) -> None:
    for each in processes_of(pid):
        with suppress(OSError):
            (_PROC / str(each) / "clear_refs").write_text("5")


def peak(pid: int) -> int:
    """Bytes of the largest of its processes since `forget_peaks`."""
    peaks = [0]
    for each in processes_of(pid):
        with suppress(OSError):
            peaks.append(parse_peak((_PROC / str(each) / "status").read_text()))
    return max(peaks)


def settle(pid: int, seconds: float = 0.4, patience: float = 60) -> None:
    """Until it has used no CPU for so long: what clients have is not yet on disk, or is still being fetched again.

    Goes on after `patience` all the same: some programs never are quite idle.
    """
    deadline = time.monotonic() + patience
    used, since = cpu_seconds(pid), time.monotonic()
    while time.monotonic() < min(since + seconds, deadline):
        time.sleep(0.05)
        if (now := cpu_seconds(pid)) != used:
            used, since = now, time.monotonic()


def touch_memory(size: int) -> None:
    """Writes to so many bytes of memory, at most to two thirds of what is free, and gives them back.

    On a virtual machine the first write to memory that was never touched has the host find it: cold figures double.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    piece = 64 << 20
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    touched = [mmap.mmap(-1, piece, flags=flags) for _ in range(min(size, free * 2 // 3) // piece)]
    for each in touched:
        each.close()
