"""What is put aside is there until nobody wants it any more, and no longer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.descriptors import descriptors

from addon.cache.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path


def read(spool: Spool, offset: int, count: int) -> bytes:
    buffer = memoryview(bytearray(count))
    return bytes(buffer[: spool.read(buffer, offset)])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def test_what_has_landed_can_be_read(spool: Spool) -> None:
    spool.write(b"one")
    spool.write(memoryview(b"two"))
    assert spool.landed == 6
    assert read(spool, 0, 100) == b"onetwo"
    assert read(spool, 2, 2) == b"et"
    assert read(spool, 6, 100) == b""


def test_what_was_there_before_is_not_read(spool: Spool) -> None:
    spool.write(b"something longer")
    spool.rewind()
    spool.write(b"else")
    assert read(spool, 0, 100) == b"else"


def test_it_has_no_name(spool: Spool, tmp_path: Path) -> None:
    spool.write(b"secret")
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    before = descriptors()
    spool = Spool(tmp_path)
    spool.close()
    spool.close()
    assert descriptors() == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Spool(tmp_path / "nowhere")


def test_it_tells_what_is_free(spool: Spool, tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert 0 < spool.free <= status.f_blocks * status.f_frsize
