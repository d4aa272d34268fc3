"""systemd as the first process of a machine of its own: this one's files, seen through an overlay, and its network.

Needs to be root. Nothing is left of what it writes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import site
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support.processes import Program, require, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from subprocess import CompletedProcess

_ENV = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
_TARGET = "tests.target"
# With `--unit`, that alone is started; the console is a file, for what systemd has to say.
_BOOT = """
set -eu
cd "$1"
mount -t tmpfs tmpfs over
mkdir over/upper over/work
mount -t overlay overlay -o lowerdir=/,upperdir=over/upper,workdir=over/work root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount -t cgroup2 cgroup2 root/sys/fs/cgroup
mount --rbind /dev root/dev
mount --bind console root/dev/console
mount -t tmpfs tmpfs root/run
mount -t tmpfs tmpfs root/tmp
cp -R files/. root
shift
while [ $# -gt 1 ]; do
    mkdir -p "root$2"
    mount --bind "$1" "root$2"
    shift 2
done
cd root
# Not chroot: who is in one gets no user namespace (user_namespaces(7)).
pivot_root . mnt
umount --lazy /mnt
exec /lib/systemd/systemd --unit="$1" --log-target=console
"""


class Systemd:
    """`files` (path below /: text) are there besides, and `python` runs what this test's does, from no home folder.

    with Systemd(folder, files) as systemd:
        systemd.do("systemctl", "start", "mirrortap")
    """

    python = "/opt/python/bin/python3"
    environment: Mapping[str, str] = {"LD_LIBRARY_PATH": "/opt/python/lib", "PYTHONPATH": "/opt/source:/opt/packages"}

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        require("systemd-analyze", "mount")
        self._folder = folder
        self._files = {**files, f"run/systemd/system/{_TARGET}": "[Unit]\nDefaultDependencies=no\n"}

    def __enter__(self) -> Self:
        for name in "over", "root":
            (self._folder / name).mkdir(parents=True)
        (self._folder / "console").touch()
        for name, text in self._files.items():
            file = self._folder / "files" / name.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755 if text.startswith("#!") else 0o644)
        self._cgroup = _own_cgroup()
        argv: list[str | Path] = [
            *("sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', self._cgroup),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"),
            *("sh", "-c", _BOOT, "-", self._folder),
            *(sys.base_prefix, "/opt/python"),
            *(Path(__file__).parents[2], "/opt/source"),
            *(site.getsitepackages()[0], "/opt/packages"),
            _TARGET,
        ]
        self._program = Program(argv, env=_ENV | {"container": "tests"})
        try:
            self._until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._program.signal(signal.SIGKILL)
        self._program.wait()
        # Its processes end with its first one, which may take a moment.
        deadline = time.monotonic() + 20
        while "populated 1" in (self._cgroup / "cgroup.events").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for folder, _, _ in self._cgroup.walk(top_down=False):
            folder.rmdir()

    def do(self, *command: str, check: bool = True) -> CompletedProcess[str]:
        """Runs it there, as root."""
        inside = ["nsenter", "--target", str(self._first), "--all", "--root", "--wd", "--", *command]
        return run(inside, env=_ENV, check=check)

    def path(self, name: str) -> Path:
        """A file there, as it is seen from here."""
        return Path(f"/proc/{self._first}/root") / name.lstrip("/")

    @property
    def console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")

    @property
    def _first(self) -> int:
        """Its process 1, as it is numbered here."""
        children = Path(f"/proc/{self._program.pid}/task/{self._program.pid}/children")
        return int(children.read_text().split()[0])

    def _until_up(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError, LookupError):
                if self.path("run/systemd/private").exists():
                    return
            assert self._program.running, f"{self._program.output()}\n{self.console}"
            assert time.monotonic() < deadline, self.console
            time.sleep(0.02)


def _own_cgroup() -> Path:
    """A new one below that of this process: for another manager than what manages this machine's."""
    mounted = run(["findmnt", "--noheadings", "--types", "cgroup2", "--output", "TARGET"], env=_ENV).stdout.split()[0]
    here = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    own = Path(mounted) / here.removeprefix("0::").lstrip("/") / f"mirrortap-tests-{os.getpid()}"
    own.mkdir()
    return own
