"""The proxy's own machine: its disk, its CA, its configuration."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from addon.cache.eviction import Disk
from addon.config.model import Amount, Space
from addon.doctor.premises import Written, another, judge_authority, judge_disk, look, process, write
from addon.running import LOCK, Running, tell
from ca import clock, files, holding
from ca.authority import Authority

if TYPE_CHECKING:
    from ca.holding import Holding

CACHE = Path("/cache")
GIB = 1 << 30
SPACE = Space(free=Amount(share=0.1))


@pytest.mark.parametrize(
    ("free", "error", "inodes", "owner", "code"),
    [
        (5 * GIB, 0, 1, None, None),
        (GIB // 2, 0, 1, None, "disk-low"),
        (0, errno.ENOSPC, 1, None, "disk-full"),
        (5 * GIB, errno.EDQUOT, 1, None, "disk-full"),
        (5 * GIB, 0, 0, None, "disk-full"),
        (5 * GIB, errno.EROFS, 1, None, "cache-unwritable"),
        (5 * GIB, errno.EACCES, 1, None, "cache-unwritable"),
        (5 * GIB, errno.EACCES, 1, 999, None),
    ],
)
def test_disks(free: int, error: int, inodes: int, owner: int | None, code: str | None) -> None:
    finding = judge_disk(CACHE, Written(Disk(10 * GIB, free), error, inodes, owner), SPACE)
    assert finding.code == code
    assert str(CACHE) in finding.what
    assert (f"df -h {CACHE}" in finding.remedy) == (code in ("disk-low", "disk-full"))


def test_writing_leaves_nothing(tmp_path: Path) -> None:
    found = write(tmp_path)
    assert (found.error, found.owner) == (0, None)
    assert found.disk.total >= found.disk.free > 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def held(tmp_path: Path) -> Holding:
    folder = tmp_path / "data/ca"
    Authority.open(folder, ["docker.io"])
    with files.locked(folder) as present:
        return holding.read(folder, present)


def test_the_ca_now_and_later(held: Holding) -> None:
    now = clock.now()
    assert [each.verdict for each in judge_authority(held, now)] == ["ok"]
    ended = list(judge_authority(held, now + timedelta(days=400)))
    assert [each.code for each in ended] == ["ca-broken"]
    assert "mirrortap ca renew" in ended[0].remedy
    soon = list(judge_authority(held, held.root.not_valid_after_utc - timedelta(days=300)))
    assert soon[0].code == "ca-broken"


def test_a_folder_in_which_something_is_wrong(held: Holding, tmp_path: Path) -> None:
    (held.folder / "ca.crt").unlink()
    config = tmp_path / "mirrortap.toml"
    config.write_text('[registry."docker.io"]\nmirors = []\n')
    found = {each.code: each for each in look(tmp_path / "data", [config], ("docker.io", 443), {})}
    assert "ca.crt is missing" in found["ca-broken"].what
    assert "did you mean mirrors?" in found["configuration"].what
    assert f"mirrortap config check --config {config}" in found["configuration"].remedy


def test_who_has_the_folder(tmp_path: Path) -> None:
    assert process(tmp_path)[1].verdict == "skipped"
    running = Running(os.getpid(), "1.0", "regular", ("127.0.0.1", 3128), None, (), 1, 0.0)
    tell(tmp_path, running)
    # Without the lock it is what an earlier one has left.
    (tmp_path / LOCK).touch()
    assert process(tmp_path)[0] is None
    assert another(None, "127.0.0.1", 1, "http://127.0.0.1:1") is None
    assert another(running, "127.0.0.1", 3128, "http://127.0.0.1:3128") is None
    assert another(running, "proxy.test", 1, "http://proxy.test:1") is None
    finding = another(running, "127.0.0.1", 8080, "http://127.0.0.1:8080")
    assert finding
    assert finding.code == "another-proxy"
    assert "export HTTPS_PROXY=http://127.0.0.1:3128" in finding.remedy
