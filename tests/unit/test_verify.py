"""Holding files against their digests."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from addon.cache import verify
from addon.oci import Digest

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 10_000  # more than two pieces
SHA512 = Digest("sha512", hashlib.sha512(CONTENT).hexdigest())


def sound(path: Path, digest: Digest) -> tuple[bool, int]:
    """And how many bytes were told."""
    pieces: list[int] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        return verify.sound(fd, digest, pieces.append), sum(pieces)
    finally:
        os.close(fd)


@pytest.mark.parametrize("digest", [Digest.of(CONTENT), SHA512], ids=["sha256", "sha512"])
def test_one_bit_is_enough(tmp_path: Path, digest: Digest) -> None:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    assert sound(path, digest) == (True, len(CONTENT))
    damaged = bytearray(CONTENT)
    damaged[2_000_000] ^= 1
    for wrong in (bytes(damaged), CONTENT[:-1], CONTENT + b"\0", b""):
        path.write_bytes(wrong)
        assert sound(path, digest) == (False, len(wrong))


def test_what_cannot_be_read_is_an_error_or_damage(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        sound(tmp_path, SHA512)
    # A process's memory gives EIO, as a broken disk does, where there is none.
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        assert not verify.sound(fd, SHA512, lambda count: None)
    finally:
        os.close(fd)
