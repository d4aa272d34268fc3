"""The key in its file, and what stands for a credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from addon.fingerprints import FingerprintError, Fingerprints

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = "Bearer the-clients-own"


def test_the_key_is_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "fingerprints.key"
    first = Fingerprints.open(path).of(LOGIN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Fingerprints.open(path).of(LOGIN) == first
    assert Fingerprints.open(path).of("Bearer another") != first
    assert Fingerprints.open(tmp_path / "other.key").of(LOGIN) != first
    assert LOGIN not in first


def test_what_is_no_text_has_a_fingerprint_too(tmp_path: Path) -> None:
    prints = Fingerprints.open(tmp_path / "key")
    assert prints.of("Basic \udcff") != prints.of("Basic \udcfe")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fingerprints.key"
    Fingerprints.open(path)
    path.chmod(0o640)
    with pytest.raises(FingerprintError, match=f"{path}: is open to other users; chmod 600 {path}"):
        Fingerprints.open(path)


@pytest.mark.parametrize("content", [b"short", b"x" * 33])
def test_a_damaged_key(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fingerprints.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(FingerprintError, match="is damaged; delete it"):
        Fingerprints.open(path)
    assert path.read_bytes() == content


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(FingerprintError, match=f"{tmp_path}: cannot be read or written: Is a directory"):
        Fingerprints.open(tmp_path)
