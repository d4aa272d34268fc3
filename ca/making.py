"""Making a root, with its key where it is wanted."""

import socket
from pathlib import Path

from ca import clock, files, issuing
from ca.errors import AuthorityError
from ca.files import ROOT_CRT, ROOT_KEY
from ca.holding import IN_FOLDER, Holding, KeyPlace, read
from ca.issuing import CaKey, fingerprint
from ca.lives import ROOT_LIFE, Lives
from ca.renewing import ensured


def init(folder: Path, names: tuple[str, ...], lives: Lives, key: KeyPlace) -> Holding:
    """A new CA whose root's key goes where `key` says, encrypted if that has a passphrase.

    Raises AuthorityError, also when there is a CA already.
    """
    with files.locked(folder, make=True) as present:
        if present:
            what = (
                f"root {fingerprint(read(folder, present).root)}" if ROOT_CRT in present else ", ".join(sorted(present))
            )
            raise AuthorityError(
                f"{folder}: there is a CA already ({what}); mirrortap ca show describes it, "
                "mirrortap ca rotate replaces its root"
            )
        return ensured(read(folder, root(folder, key), key), names, lives)


def root(folder: Path, key: KeyPlace = IN_FOLDER) -> set[str]:
    """Writes ca.crt and its key; gives the names of what is in the folder then. Raises AuthorityError, OSError."""
    made = new_root()
    where = key.file or folder / ROOT_KEY
    write_key(folder, ROOT_KEY, made.key, key)
    try:
        files.write_certificates(folder / ROOT_CRT, made.certificate)
    except BaseException:
        where.unlink()  # without its certificate it would be in the way of the next attempt
        raise
    return {ROOT_CRT} if key.file else {ROOT_CRT, ROOT_KEY}


def new_root() -> issuing.Issued:
    """In memory alone."""
    now = clock.now()
    return issuing.root(socket.gethostname(), now, now + ROOT_LIFE)


def write_key(folder: Path, name: str, private: CaKey, place: KeyPlace) -> None:
    """To a place outside the CA's folder where there is nothing yet, or into it. Raises AuthorityError, OSError."""
    pem = files.key_pem(private, place.passphrase)
    if place.file is None:
        files.write_key(folder / name, pem)
        return
    if place.file.resolve().is_relative_to(folder.resolve()):
        raise AuthorityError(f"{place.file} is in the CA's folder; leave out --root-key, or name a file elsewhere")
    if place.file.exists() or place.file.is_symlink():
        raise AuthorityError(f"{place.file} is there already; name a file that is not with --root-key")
    try:
        files.write_key(place.file, pem)
    except OSError as error:
        raise AuthorityError(f"{place.file}: cannot be written: {error.strerror}; name another file") from None
