"""Replacing the root: what clients that trust the old, the new or both roots make of each step."""

from __future__ import annotations

import shutil
import ssl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from support.verifiers import handshake, openssl_verify

from ca import files, rotation
from ca.authority import Authority, AuthorityError, subtrees
from ca.files import KeyIsEncrypted
from ca.holding import IN_FOLDER, KeyPlace
from ca.issuing import fingerprint
from ca.lives import Lives
from ca.making import init
from ca.renewing import renew

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = subtrees(["docker.io", "ghcr.io"])
HOST = "ghcr.io"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


def switch(folder: Path, place: KeyPlace = IN_FOLDER) -> None:
    rotation.switch(folder, subtrees(["unused.example"]), Lives(), place, keep=True)


def trusted_by(folder: Path, *builders: Path) -> list[bool]:
    """Which builders, each with the file it trusts, take what a proxy of this folder shows."""
    leaf = Authority.open(folder, NAMES).leaf(HOST)
    told = []
    for roots in builders:
        try:
            handshake(roots, leaf, HOST)
            told.append(True)
        except ssl.SSLCertVerificationError:
            told.append(False)
    return told


def test_a_rotation(folder: Path, tmp_path: Path) -> None:
    old, both, new = tmp_path / "old.pem", tmp_path / "both.pem", tmp_path / "new.pem"
    first = Authority.open(folder, NAMES)
    old.write_bytes(first.roots_pem)
    assert len(x509.load_pem_x509_certificates(first.roots_pem)) == 1

    begun = rotation.begin(folder, IN_FOLDER)
    assert begun.next_root
    proxy = Authority.open(folder, NAMES)
    assert proxy.intermediate == first.intermediate
    both.write_bytes(proxy.roots_pem)
    assert x509.load_pem_x509_certificates(proxy.roots_pem) == [first.root, begun.next_root]
    assert trusted_by(folder, old, both) == [True, True]

    switch(folder)
    proxy = Authority.open(folder, NAMES)
    assert proxy.root == begun.next_root
    assert set(x509.load_pem_x509_certificates(proxy.roots_pem)) == {first.root, begun.next_root}
    assert trusted_by(folder, old, both) == [False, True]
    # Both roots may have the same name, if they were made on the same day.
    assert openssl_verify(both, proxy.leaf(HOST)) == ""
    assert "unable to get" in openssl_verify(old, proxy.leaf(HOST))

    assert rotation.finish(folder) == first.fingerprint
    new.write_bytes(Authority.open(folder, NAMES).roots_pem)
    assert trusted_by(folder, old, both, new) == [False, True, True]
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "ca.crt",
        "ca.key",
        "intermediate.crt",
        "intermediate.key",
    ]
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    # The new one's key is the one that is kept: another host needs nothing.
    assert Authority.open(folder, ["quay.io"]).leaf("quay.io")


def test_giving_up(folder: Path) -> None:
    first = Authority.open(folder, NAMES)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    begun = rotation.begin(folder, IN_FOLDER)
    assert begun.next_root
    assert rotation.abort(folder) == fingerprint(begun.next_root)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert Authority.open(folder, NAMES).roots_pem == first.roots_pem


def test_steps_out_of_order(folder: Path) -> None:
    def refused(step: Callable[[], object], told: str) -> None:
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(AuthorityError, match=told):
            step()
        assert {path: path.read_bytes() for path in folder.iterdir()} == before

    with pytest.raises(AuthorityError, match="there is no CA; mirrortap ca init makes one"):
        rotation.begin(folder, IN_FOLDER)
    Authority.open(folder, NAMES)
    refused(lambda: switch(folder), "no rotation is under way; mirrortap ca rotate begins one")
    refused(lambda: rotation.finish(folder), "no rotation is under way; mirrortap ca rotate begins one")
    refused(lambda: rotation.abort(folder), "no rotation is under way")
    rotation.begin(folder, IN_FOLDER)
    refused(lambda: rotation.begin(folder, IN_FOLDER), "a rotation is under way; go on with --switch, or .* --abort")
    refused(lambda: rotation.finish(folder), "the old root still signs; --switch comes first")
    switch(folder)
    refused(lambda: switch(folder), "the new root signs already; --finish ends it")
    refused(lambda: rotation.abort(folder), "the new root signs already; rotate again instead")
    refused(lambda: rotation.begin(folder, IN_FOLDER), "the last rotation has not ended; end it with --finish")


def test_keys_that_are_not_at_hand(folder: Path, tmp_path: Path) -> None:
    init(folder, NAMES, Lives(), KeyPlace(tmp_path / "old.key", b"old"))
    with pytest.raises(AuthorityError, match=r"not in .* in the clear; say where the new one's goes, with --root-key"):
        rotation.begin(folder, IN_FOLDER)  # it would be kept with less care than the old one
    new = KeyPlace(tmp_path / "new.key", b"new")
    begun = rotation.begin(folder, new)
    assert b"ENCRYPTED" in (tmp_path / "new.key").read_bytes()
    with pytest.raises(AuthorityError, match=r"the key of the new root is not in .*; name it with --root-key FILE"):
        switch(folder)
    with pytest.raises(KeyIsEncrypted):
        switch(folder, KeyPlace(tmp_path / "new.key"))
    with pytest.raises(AuthorityError, match=r"is not the key of .*next\.crt; name the right file"):
        switch(folder, KeyPlace(tmp_path / "old.key", b"old"))
    switch(folder, new)
    proxy = Authority.open(folder, NAMES)
    assert proxy.root == begun.next_root
    rotation.finish(folder)
    assert [path.name for path in folder.glob("*.key")] == ["intermediate.key"]
    assert trusted_by(folder, folder / "ca.crt") == [True]


class Cut:
    """Ends the process, so to speak, before the so-manieth time that something is written, moved or removed."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self._left = after
        patch.setattr(Path, "replace", self._counted(Path.replace))
        patch.setattr(Path, "unlink", self._counted(Path.unlink))
        patch.setattr(files, "write_key", self._counted(files.write_key))
        patch.setattr(files, "write_certificates", self._counted(files.write_certificates))

    def _counted[**P, T](self, function: Callable[P, T]) -> Callable[P, T]:
        def counted(*arguments: P.args, **options: P.kwargs) -> T:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return counted


def cut(monkeypatch: pytest.MonkeyPatch, after: int, step: Callable[[], object]) -> bool:
    """Whether that was before the end."""
    with monkeypatch.context() as patch:
        Cut(patch, after)
        try:
            step()
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_a_switch_that_is_cut_short_anywhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A proxy goes on with a root that builders trust, and the switch can be done again, or not at all."""
    key = IN_FOLDER if place == "inside" else KeyPlace(tmp_path / "new.key")
    first = Authority.open(folder, NAMES)
    begun = rotation.begin(folder, key)
    (both := tmp_path / "both.pem").write_bytes(Authority.open(folder, NAMES).roots_pem)
    for count in range(20):
        again = copied(folder, count)
        if not cut(monkeypatch, count, partial(switch, again, key)):
            break
        if (again / "next.crt").exists():
            assert trusted_by(again, both) == [True]
            other = copied(again, 100)
            rotation.abort(other)
            assert Authority.open(other, NAMES).root == first.root
            assert trusted_by(other, both) == [True]
            assert (other / "ca.key").exists()
            switch(again, key)
        elif place == "outside":
            with pytest.raises(AuthorityError, match=r"intermediate.crt is (not signed|missing).* mirrortap ca renew"):
                Authority.open(again, NAMES)
            renew(again, NAMES, Lives(), key, keep=True)
        assert trusted_by(again, both) == [True]
        assert Authority.open(again, NAMES).root == begun.next_root
        rotation.finish(again)
    assert count >= 6


def copied(folder: Path, number: int) -> Path:
    return shutil.copytree(folder, folder.parent / f"{folder.name}-{number}")
