"""Replacing the root: a new one beside the old, trusted by builders first, then signing, then alone.

    begin    ca.*           next.*     the old root signs, builders are given both
    switch   ca.* = next    old.*      the new root signs, builders are given both
    finish   ca.*                      the old one is gone

A step that was cut short is done again: with next.crt there, the switch has not happened; once it is gone, it has.
"""

from pathlib import Path

from ca import clock, files, making
from ca.errors import AuthorityError
from ca.files import (
    IMPORTED_CRT,
    NEXT_CRT,
    NEXT_KEY,
    OLD_CRT,
    OLD_KEY,
    ROOT_CRT,
    ROOT_KEY,
)
from ca.holding import Holding, KeyPlace, read, settle
from ca.issuing import fingerprint
from ca.lives import Lives
from ca.renewing import ensured

_BEGIN = "mirrortap ca rotate begins one"


def begin(folder: Path, key: KeyPlace) -> Holding:
    """A new root, whose key goes where `key` says, encrypted if that has a passphrase. Raises AuthorityError."""
    with files.locked(folder) as present:
        present = settle(folder, present)
        holding = read(folder, present)
        if IMPORTED_CRT in present:
            raise AuthorityError(f"{folder}: this CA was imported; import the one that is to follow it")
        if NEXT_CRT in present:
            raise AuthorityError(f"{folder}: a rotation is under way; go on with --switch, or end it with --abort")
        if OLD_CRT in present:
            raise AuthorityError(f"{folder}: the last rotation has not ended; end it with --finish")
        if not (holding.key or key.file or key.passphrase):
            raise AuthorityError(
                f"the key of the present root is not in {folder} in the clear; say where the new one's goes, with "
                "--root-key FILE, or have it encrypted, with --passphrase-file FILE or --encrypt"
            )
        made = making.new_root()
        # The certificate first: a key without one means that a switch was cut short.
        files.write_certificates(folder / NEXT_CRT, made.certificate)
        try:
            making.write_key(folder, NEXT_KEY, made.key, key)
        except BaseException:
            (folder / NEXT_CRT).unlink()
            raise
        return read(folder, present | {NEXT_CRT})


def switch(folder: Path, names: tuple[str, ...], lives: Lives, key: KeyPlace, *, keep: bool) -> Holding:
    """The new root signs, from a new intermediate on; `keep`: for the names that the present one permits.

    `key`: where the new root's key is, if not in the folder, and its passphrase. Raises AuthorityError.
    """
    with files.locked(folder) as present:
        present = settle(folder, present)
        if NEXT_CRT not in present:
            switched = OLD_CRT in present
            raise AuthorityError(
                f"{folder}: "
                + (
                    "the new root signs already; --finish ends it"
                    if switched
                    else f"no rotation is under way; {_BEGIN}"
                )
            )
        holding = read(folder, present)
        names = (keep and holding.permitted) or names
        _check_next(holding, present, key)
        files.write_certificates(folder / OLD_CRT, holding.root)
        if ROOT_KEY in present:
            (folder / ROOT_KEY).replace(folder / OLD_KEY)
        (folder / NEXT_CRT).replace(folder / ROOT_CRT)
        if NEXT_KEY in present:
            (folder / NEXT_KEY).replace(folder / ROOT_KEY)
        present = {ROOT_CRT, OLD_CRT} | ({ROOT_KEY} if NEXT_KEY in present else set())
        return ensured(read(folder, present, key), names, lives)


def finish(folder: Path) -> str:
    """Only the new root is left; gives the fingerprint of the one that is gone. Raises AuthorityError."""
    with files.locked(folder) as present:
        present = settle(folder, present)
        if NEXT_CRT in present:
            raise AuthorityError(f"{folder}: the old root still signs; --switch comes first")
        if OLD_CRT not in present:
            raise AuthorityError(f"{folder}: no rotation is under way; {_BEGIN}")
        holding = read(folder, present)
        assert holding.old_root
        # The key first: should this be cut short, the certificate is what says that it has to be done again.
        (folder / OLD_KEY).unlink(missing_ok=True)
        (folder / OLD_CRT).unlink()
        return fingerprint(holding.old_root)


def abort(folder: Path) -> str:
    """As if the rotation had not begun; gives the fingerprint of the root that is gone. Raises AuthorityError."""
    with files.locked(folder) as present:
        present = settle(folder, present)
        if NEXT_CRT not in present:
            switched = OLD_CRT in present
            raise AuthorityError(
                f"{folder}: "
                + ("the new root signs already; rotate again instead" if switched else "no rotation is under way")
            )
        holding = read(folder, present)
        assert holding.next_root
        if OLD_KEY in present and ROOT_KEY not in present:
            (folder / OLD_KEY).replace(folder / ROOT_KEY)
        (folder / OLD_CRT).unlink(missing_ok=True)
        (folder / NEXT_KEY).unlink(missing_ok=True)
        (folder / NEXT_CRT).unlink()
        return fingerprint(holding.next_root)


def _check_next(holding: Holding, present: set[str], key: KeyPlace) -> None:
    """That the new root can sign, before anything is moved."""
    path = holding.folder / NEXT_CRT
    assert holding.next_root
    if flaw := clock.flaw(holding.next_root, clock.now()):
        raise AuthorityError(f"root certificate {path} {flaw}; check the clock, or end the rotation with --abort")
    where = key.file or (holding.folder / NEXT_KEY if NEXT_KEY in present else None)
    if where is None:
        raise AuthorityError(f"the key of the new root is not in {holding.folder}; name it with --root-key FILE")
    files.key(where, holding.next_root, path, key.passphrase, files.NAME_ANOTHER if key.file else None)
