"""This machine with scratch folders in place of those that hold its trust: what is done there is done to them."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.processes import clean_env, require, run

if TYPE_CHECKING:
    from collections.abc import Iterator

# What programs need of /etc to run at all.
_KEPT = ("alternatives", "ld.so.cache", "group", "hosts", "nsswitch.conf", "os-release", "passwd", "containers")
_PLACES = {"etc": "/etc", "share": "/usr/local/share", "lib": "/var/lib"}


@contextmanager
def scratch_machine(folder: Path) -> Iterator[Path]:
    """Until the block ends, this thread and the programs that it starts see `folder`/etc as /etc, and so on.

    Its system store holds two CAs, so that there is something to lose. Gives the folder that has all that can change.
    """
    require("unshare", "mount", "update-ca-certificates", "openssl")
    root = folder / "machine"
    for name in ("etc/ssl/certs", "etc/ca-certificates/update.d", "share/ca-certificates", "lib"):
        (root / name).mkdir(parents=True)
    for name in _KEPT:
        source = Path("/etc") / name
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, symlinks=True)
        elif source.exists():
            shutil.copy2(source, root / "etc" / name)
    present = [
        path.relative_to("/usr/share/ca-certificates") for path in Path("/usr/share/ca-certificates").rglob("*.crt")
    ]
    (root / "etc/ca-certificates.conf").write_text("".join(f"{path}\n" for path in sorted(present)[:2]))

    env, cwd = clean_env(folder / "home"), os.getcwd()
    outside = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    os.unshare(os.CLONE_NEWNS)
    try:
        run(["mount", "--make-rprivate", "/"], env=env)
        for name, place in _PLACES.items():
            run(["mount", "--bind", root / name, place], env=env)
        run(["update-ca-certificates"], env=env)
        yield root
    finally:
        os.setns(outside, os.CLONE_NEWNS)
        os.close(outside)
        os.chdir(cwd)
