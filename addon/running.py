"""A proxy's data folder, and what the one that uses it says of itself there, for commands that look for it."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from addon.home import home_folder

_FILE = "running.json"
_PIDS = 1 << 22  # the most that there can be (proc(5), pid_max)
LOCK = ".lock"
"""The file in a data folder that its proxy holds locked."""


@dataclass(frozen=True)
class Running:
    """`proxy` and `mirror` (None: there is none) are listened on; `since` in seconds since the epoch.

    `mirror_names`: the DNS names that the mirror has in TLS; plain http without any.
    """

    pid: int
    version: str
    mode: str
    proxy: tuple[str, int]
    mirror: tuple[str, int] | None
    mirror_names: tuple[str, ...]
    workers: int
    since: float


def default_data() -> Path:
    """Where the XDG base directory specification wants a user's data. Raises NoHome."""
    named = os.environ.get("XDG_DATA_HOME", "")
    return (Path(named) if named.startswith("/") else home_folder() / ".local" / "share") / "mirrortap"


def tell(data: Path, running: Running) -> None:
    """For others to read. Raises OSError."""
    file = data / f".{_FILE}.{running.pid}"
    file.write_text(json.dumps(asdict(running)))
    file.replace(data / _FILE)


def forget(data: Path, pid: int) -> None:
    """To be called at the end: nothing of this process is left there, what another has told stays."""
    found = _read(data)
    if found and found.pid == pid:
        with suppress(OSError):
            (data / _FILE).unlink()


def find(data: Path) -> Running | None:
    """The proxy that uses the folder just now; None when there is none, or it is not up yet."""
    return _read(data) if _is_locked(data / LOCK) else None


def _read(data: Path) -> Running | None:
    try:
        told = json.loads((data / _FILE).read_bytes())
        mirror = told["mirror"]
        return Running(
            pid=_positive(told["pid"], _PIDS),
            version=str(told["version"]),
            mode=str(told["mode"]),
            proxy=_place(told["proxy"]),
            mirror=_place(mirror) if mirror else None,
            mirror_names=tuple(map(str, told["mirror_names"])),
            workers=int(told["workers"]),
            since=float(told["since"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _place(told: list[object]) -> tuple[str, int]:
    host, port = told
    return str(host), _positive(port, 65535)


def _positive(told: object, most: int) -> int:
    """Raises ValueError: another number would be an error wherever it is used."""
    number = int(str(told))
    if not 0 < number <= most:
        raise ValueError(f"{number} is not in 1..{most}")
    return number


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
