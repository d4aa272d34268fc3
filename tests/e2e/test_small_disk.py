"""A cache on a disk that is smaller than what is pulled, and that something else fills up meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support.bulk import Bulk
from support.config import toml
from support.proxy import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxy import Proxy
    from support.threads import LoopThread

MIB = 1 << 20
DISK = 2048 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mount.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def bulk(loop_thread: LoopThread) -> Bulk:
    return loop_thread.enter(Bulk(count=40, size=128 * MIB))


@pytest.fixture
def proxy(disk: Path, bulk: Bulk, tmp_path: Path) -> Iterator[Proxy]:
    config = toml(
        {"docker.io": {"mirrors": [bulk.endpoint], "fallback": False}, bulk.endpoint: {"http": True}},
        {"cache-size": "75%", "min-free": "10%"},
    )
    with serve(tmp_path / "proxy", config, data=disk / "data") as proxy:
        yield proxy


def pull(proxy: Proxy, digest: str) -> None:
    assert proxy.client("registry-1.docker.io").digest_of(f"/v2/library/app/blobs/{digest}") == digest


def test_five_gigabytes_pass_through_two(proxy: Proxy, bulk: Bulk, disk: Path) -> None:
    assert len(bulk.digests) * bulk.size > 2 * DISK
    for digest in bulk.digests:
        pull(proxy, digest)
    held = {file.name for file in (proxy.cache / "blobs" / "sha256").iterdir()}
    # The last ones are here, and as many as fit.
    assert bulk.digests[-1].removeprefix("sha256:") in held
    assert bulk.digests[0].removeprefix("sha256:") not in held
    assert len(held) * bulk.size >= DISK // 2
    assert bulk.sent == len(bulk.digests) * bulk.size, "something was fetched twice"
    assert proxy.log.matching("cannot be written") == []


def test_a_disk_that_something_else_fills_costs_no_pull(proxy: Proxy, bulk: Bulk, disk: Path) -> None:
    first, second, *others = bulk.digests
    pull(proxy, first)
    hog = disk / "hog"
    partial = proxy.cache / "partial" / second.replace(":", "-")
    with proxy.client("registry-1.docker.io").asking(f"/v2/library/app/blobs/{second}") as asking:
        while not partial.exists() or partial.stat().st_size < bulk.size // 4:
            pass
        fill_up(disk, hog)
    assert asking.digest == second, "whose download met the full disk was cut"
    for digest in others[:3]:
        pull(proxy, digest)
    assert len(proxy.log.matching("cannot be written")) == 1, "one warning a minute, not one a blob"
    hog.unlink()
    deadline = time.monotonic() + 30
    last = proxy.cache / "blobs" / others[3].replace(":", "/")
    while not last.exists():
        assert time.monotonic() < deadline, "the cache is not used again"
        pull(proxy, others[3])


def fill_up(disk: Path, hog: Path) -> None:
    """All that is free, now and while the proxy makes room: until its own files are what fills the disk."""
    with hog.open("wb") as file:
        while free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize:
            try:
                os.posix_fallocate(file.fileno(), hog.stat().st_size, free)
            except OSError:
                break
