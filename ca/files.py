"""Certificates and keys on disk: nothing is read that others could have read or replaced, nothing is half written."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from ca.errors import AuthorityError
from ca.issuing import CaKey, extension

ROOT_CRT, ROOT_KEY = "ca.crt", "ca.key"
INTERMEDIATE_CRT, INTERMEDIATE_KEY = "intermediate.crt", "intermediate.key"
# A company's CA, which signs in the root's place.
IMPORTED_CRT, IMPORTED_KEY = "imported.crt", "imported.key"
# The root that a rotation leads to, and the one that it comes from.
NEXT_CRT, NEXT_KEY = "next.crt", "next.key"
OLD_CRT, OLD_KEY = "old.crt", "old.key"

_PAIRS = (
    (ROOT_CRT, ROOT_KEY),
    (INTERMEDIATE_CRT, INTERMEDIATE_KEY),
    (IMPORTED_CRT, IMPORTED_KEY),
    (NEXT_CRT, NEXT_KEY),
    (OLD_CRT, OLD_KEY),
)
_NAMES = {name for pair in _PAIRS for name in pair}
_PEM = serialization.Encoding.PEM


NAME_ANOTHER = "name the right file"


class KeyIsEncrypted(AuthorityError):
    """A key needs a passphrase, and none was given."""


@contextmanager
def locked(folder: Path, *, make: bool = False) -> Iterator[set[str]]:
    """Keeps other processes out of `folder` meanwhile; gives the names of the certificates and keys that are in it.

    Raises AuthorityError when it is not there (unless it is to be made), is not this user's alone, and for whatever
    the system refuses while it is held.
    """
    try:
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not folder.exists():
            raise AuthorityError(f"{folder}: there is no CA; mirrortap ca init makes one")
        _check_folder(folder)
        # For reading: flock needs no more, and a read-only mount gives no more. Closing the file unlocks.
        with open(os.open(folder / ".lock", os.O_RDONLY | os.O_CREAT, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A listing, as exists() is False for a dangling link, which a new root would then replace.
            yield _NAMES.intersection(os.listdir(folder))
    except OSError as error:
        raise AuthorityError(
            f"cannot read or write {error.filename or folder}: {error.strerror}; "
            f"make {folder} a folder that uid {os.geteuid()} can read and write"
        ) from error


def certificates(path: Path, remedy: str | None = None) -> tuple[x509.Certificate, ...]:
    """The CA certificates in a PEM file, at least one. Raises AuthorityError, OSError.

    `remedy`: what to do about a wrong file, if it is not one of the CA's folder.
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(path.read_bytes()))
        for certificate in chain:
            basic = extension(certificate, x509.BasicConstraints)
            if basic is None or not basic.ca:
                raise ValueError("not a CA")
            if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
                raise ValueError("neither an RSA nor an ECDSA key")
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise AuthorityError(f"{path} is not a CA certificate in PEM ({error}); {remedy or _remedy(path)}") from error
    return chain


def key(
    path: Path, certificate: x509.Certificate, of: Path, phrase: bytes | None = None, remedy: str | None = None
) -> CaKey:
    """The private key in a PEM file, which must be that of `certificate` (which is in the file `of`).

    `remedy`: what to do about a wrong file, if it is not one of the CA's folder.

    Raises KeyIsEncrypted when it is and there is no passphrase, AuthorityError, OSError.
    """
    data = secret(path, "private key")
    try:
        loaded = _decrypted(data, path, phrase)
        matches = loaded.public_key() == certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{path} is not a private key in PEM; {remedy or _remedy(path)}") from error
    if not matches or not isinstance(loaded, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise AuthorityError(f"{path} is not the key of {of}; {remedy or _remedy(path)}")
    return loaded


def is_encrypted(path: Path) -> bool:
    """Whether a file that key() has read needed a passphrase. Raises OSError."""
    return b"ENCRYPTED" in path.read_bytes()


def secret(path: Path, what: str) -> bytes:
    """The content of a file that nobody but this user may read. Raises AuthorityError, OSError."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():  # who owns a file may open it to others at any time
            raise AuthorityError(_owner(f"{what} {path}", status.st_uid, f"chown {os.geteuid()} {path}"))
        if status.st_mode & 0o077:
            raise AuthorityError(f"{what} {path} is open to other users; chmod 600 {path}")
        return file.read()


def passphrase(path: Path) -> bytes:
    """The first line of a file that nobody but this user may read. Raises AuthorityError, OSError."""
    line = secret(path, "passphrase file").partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise AuthorityError(f"passphrase file {path}: its first line is empty; the passphrase belongs there")
    return line


def certificates_pem(*chain: x509.Certificate) -> bytes:
    """One after another in PEM (RFC 7468)."""
    return b"".join(certificate.public_bytes(_PEM) for certificate in chain)


def key_pem(private: CaKey, phrase: bytes | None = None) -> bytes:
    """PKCS#8 PEM (RFC 5958), encrypted if there is a passphrase."""
    lock = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    return private.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, lock)


def write_certificates(path: Path, *chain: x509.Certificate) -> None:
    """Raises OSError; then the file is what it was."""
    _write(path, certificates_pem(*chain), 0o644)


def write_key(path: Path, pem: bytes) -> None:
    """Raises OSError; then the file is what it was."""
    _write(path, pem, 0o600)


def _check_folder(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise AuthorityError(_owner(f"folder {folder}", status.st_uid, f"chown -R {os.geteuid()} {folder}"))
    if status.st_mode & 0o077:
        raise AuthorityError(f"folder {folder} is open to other users; chmod 700 {folder}")


def _owner(what: str, owner: int, remedy: str) -> str:
    us = os.geteuid()
    # Root could do that, and whoever it was taken from could not work any more.
    instead = f", or {remedy}" if us else ": docs/deploy/systemd.md says how for a service"
    return f"{what} belongs to uid {owner}, and this is uid {us}; run mirrortap as that user{instead}"


def _decrypted(data: bytes, path: Path, phrase: bytes | None) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:  # it has to be decrypted
        if phrase is None:
            raise KeyIsEncrypted(
                f"private key {path} is encrypted; give its passphrase with --passphrase-file FILE"
            ) from None
    try:
        return serialization.load_pem_private_key(data, password=phrase)
    except ValueError:
        raise AuthorityError(f"that is not the passphrase of private key {path}, or the file is damaged") from None


def _remedy(path: Path) -> str:
    return "restore it" + (", or delete it for another" if path.stem == "intermediate" else " from a backup")


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace `path` whole or not at all; its mode is right before the first byte is in it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
