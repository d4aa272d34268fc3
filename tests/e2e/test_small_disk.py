"""A cache on a disk that is smaller than what is pulled, and that something else fills up meanwhile.

SMALL_DISK_MIB=2048 pulls 5 GiB through a disk of 2 GiB.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from support.bulk import Bulk
from support.config import toml
from support.proxy import serve
from support.waiting import until
from support.wire import Wire

from addon.cache import reserve
from addon.cache.cache import Cache
from addon.cache.store import StoreError
from addon.config.model import Beliefs
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxy import Proxy
    from support.threads import LoopThread

MIB = 1 << 20
DIGEST = Digest("sha256", "0" * 64)
DISK = int(os.environ.get("SMALL_DISK_MIB", "256")) * MIB


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
    return loop_thread.enter(Bulk(count=40, size=DISK // 16))


@pytest.fixture
def wire(bulk: Bulk, loop_thread: LoopThread) -> Wire:
    return loop_thread.enter(Wire(bulk.endpoint))


@pytest.fixture
def proxy(disk: Path, wire: Wire, tmp_path: Path) -> Iterator[Proxy]:
    config = toml(
        {"docker.io": {"mirrors": [wire.endpoint], "fallback": False}, wire.endpoint: {"http": True}},
        {"cache-size": "75%", "min-free": "10%"},
    )
    with serve(tmp_path / "proxy", config, data=disk / "data") as proxy:
        yield proxy


def pull(proxy: Proxy, digest: str) -> None:
    assert proxy.client("registry-1.docker.io").digest_of(f"/v2/library/app/blobs/{digest}") == digest


def test_more_than_fits_passes_through(proxy: Proxy, bulk: Bulk, disk: Path) -> None:
    assert len(bulk.digests) * bulk.size > 2 * DISK
    for digest in bulk.digests:
        pull(proxy, digest)
    held = {f"sha256:{file.name}" for file in (proxy.cache / "blobs" / "sha256").iterdir()}
    # The first ones have made room for later ones, and the room is used.
    assert bulk.digests[0] not in held
    assert held & set(bulk.digests[len(bulk.digests) // 2 :])
    assert DISK // 4 <= len(held) * bulk.size <= DISK
    print(len(held) * bulk.size / DISK, len(proxy.log.matching("cannot be written")))
    assert bulk.sent == len(bulk.digests) * bulk.size, "something was fetched twice"


def test_a_disk_that_something_else_fills_costs_no_pull(
    proxy: Proxy, bulk: Bulk, wire: Wire, loop_thread: LoopThread, disk: Path
) -> None:
    first, second, *others = bulk.digests
    pull(proxy, first)
    hog = disk / "hog"
    partial = proxy.cache / "partial" / second.replace(":", "-")
    wire.hold_at(wire.carried + bulk.size // 4)
    with proxy.client("registry-1.docker.io").asking(f"/v2/library/app/blobs/{second}") as asking:
        until(lambda: partial.exists() and partial.stat().st_size >= bulk.size // 8)
        fill_up(hog)
        loop_thread.call(wire.release)
    assert asking.digest == second, "whose download met the full disk was cut"
    for digest in others[:3]:
        pull(proxy, digest)
    said = "cannot be written: .*; serving past it"
    proxy.log.wait_for(said)
    assert len(proxy.log.matching(said)) == 1, "one warning a minute, not one a blob"
    hog.unlink()
    last = proxy.cache / "blobs" / others[3].replace(":", "/")

    def cached_again() -> bool:
        pull(proxy, others[3])
        return last.exists()

    until(cached_again)


def test_a_cache_can_be_opened_on_a_full_disk(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As when its proxy is started anew then: SQLite wants some space for that."""
    folder = disk / "cache"
    with closing(Cache(folder, Beliefs)):
        reserve.keep(folder)
    fill_up(disk / "hog")
    reserve.keep(folder)
    with closing(Cache(folder, Beliefs)) as cache:
        assert "used the space that was kept for a full disk" in caplog.text
        cache.links.add("docker.io", "library/app", DIGEST)
        assert cache.links.known("docker.io", "library/app", DIGEST)
        reserve.keep(folder)
        assert not (folder / "reserve").exists(), "the last of it is needed"
    fill_up(disk / "more")
    with pytest.raises(StoreError, match=r"mirrortap.sqlite: cannot be used .* free space"):
        Cache(folder, Beliefs)


def fill_up(hog: Path) -> None:
    """All that is free just now."""
    with hog.open("wb", buffering=0) as file:
        for piece in bytes(MIB), bytes(4096):
            with suppress(OSError):
                while file.write(piece):
                    pass
