"""What commands find of a running proxy."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from addon import running
from addon.running import LOCK, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = Running(7, "1.2.3", "regular", ("127.0.0.1", 3128), ("::1", 5000), ("mirror.test",), 2, 1_700_000_000.5)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose proxy lives."""
    fd = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield tmp_path
    os.close(fd)


@pytest.mark.parametrize("told", [ONE, replace(ONE, mirror=None, mirror_names=())])
def test_what_was_told_is_found(locked: Path, told: Running) -> None:
    running.tell(locked, told)
    assert running.find(locked) == told


def test_a_proxy_that_has_died_is_not_found(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    running.tell(tmp_path, ONE)
    assert running.find(tmp_path) is None


def test_none_is_found_where_there_is_none(tmp_path: Path) -> None:
    assert running.find(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid": "x"}', b"\xff", b'{"pid": 1, "mirror": 5}'])
def test_nonsense_is_no_proxy(locked: Path, content: bytes) -> None:
    (locked / "running.json").write_bytes(content)
    assert running.find(locked) is None


@pytest.mark.parametrize("told", [replace(ONE, pid=10**12), replace(ONE, pid=-1), replace(ONE, proxy=("::1", 70_000))])
def test_numbers_that_cannot_be_are_no_proxys(locked: Path, told: Running) -> None:
    running.tell(locked, told)
    assert running.find(locked) is None


def test_only_what_oneself_has_told_is_forgotten(locked: Path) -> None:
    running.tell(locked, ONE)
    running.forget(locked, 8)
    assert running.find(locked) == ONE
    running.forget(locked, 7)
    assert running.find(locked) is None
    running.forget(locked, 7)
