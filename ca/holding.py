"""What a folder holds: the roots, what signs the intermediate, and the intermediate itself, read and checked."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca import clock, constraints, files
from ca.errors import AuthorityError
from ca.files import (
    IMPORTED_CRT,
    IMPORTED_KEY,
    INTERMEDIATE_CRT,
    INTERMEDIATE_KEY,
    NEXT_CRT,
    NEXT_KEY,
    OLD_CRT,
    ROOT_CRT,
    ROOT_KEY,
    KeyIsEncrypted,
)
from ca.issuing import CaKey, Issuer, extension


@dataclass(frozen=True)
class KeyPlace:
    """Where the issuing key is, or is to go, when not in the folder, and its passphrase, when it has one."""

    file: Path | None = None
    passphrase: bytes | None = field(default=None, repr=False)


IN_FOLDER = KeyPlace()


@dataclass(frozen=True)
class Holding:
    """`imported`: a company's CA certificates, the one that signs first, without the root; empty when the root signs.

    `key`: that of the one that signs, or None when it is not in the folder or `encrypted`.
    """

    folder: Path
    root: x509.Certificate
    next_root: x509.Certificate | None
    old_root: x509.Certificate | None
    imported: tuple[x509.Certificate, ...]
    key: CaKey | None
    encrypted: bool
    intermediate: Issuer | None

    @property
    def issuer(self) -> x509.Certificate:
        """What signs: the intermediate as a rule, leaves when `direct`."""
        return (*self.imported, self.root)[0]

    @property
    def issuer_path(self) -> Path:
        return self.folder / (IMPORTED_CRT if self.imported else ROOT_CRT)

    @property
    def key_path(self) -> Path:
        return self.folder / (IMPORTED_KEY if self.imported else ROOT_KEY)

    @property
    def end(self) -> datetime:
        """When the first of what is above the intermediate ends."""
        return min(certificate.not_valid_after_utc for certificate in (*self.imported, self.root))

    @property
    def direct(self) -> bool:
        """Whether the imported CA signs leaves, as there may be no intermediate below it."""
        return bool(self.imported) and not room(*self.imported, self.root)

    @property
    def signer(self) -> Issuer:
        """What signs leaves. It is there once renewing.ensured() has seen to it."""
        if self.direct:
            assert self.key
            return Issuer(self.issuer, self.key)
        assert self.intermediate
        return self.intermediate

    @property
    def permitted(self) -> tuple[str, ...]:
        """The DNS names that the certificate which signs leaves is limited to; empty for any, or when there is none."""
        if self.direct:
            return constraints.permitted(self.issuer)
        return constraints.permitted(self.intermediate.certificate) if self.intermediate else ()

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """What builders should trust: during a rotation two, each once."""
        return tuple(dict.fromkeys(root for root in (self.root, self.next_root, self.old_root) if root))


def read(folder: Path, present: set[str], place: KeyPlace = IN_FOLDER) -> Holding:
    """From a folder that is locked and holds `present`. Raises AuthorityError, OSError."""
    if ROOT_CRT not in present:
        raise AuthorityError(f"{folder / ROOT_CRT} is missing; restore it, or {_anew(folder)}")
    root = _root(folder / ROOT_CRT)
    imported = files.certificates(folder / IMPORTED_CRT) if IMPORTED_CRT in present else ()
    issuer_crt = folder / (IMPORTED_CRT if imported else ROOT_CRT)
    issuer_key = IMPORTED_KEY if imported else ROOT_KEY
    key, encrypted = None, False
    where = place.file or (folder / issuer_key if issuer_key in present else None)
    if where:
        try:
            remedy = files.NAME_ANOTHER if place.file else None
            key = files.key(where, (*imported, root)[0], issuer_crt, place.passphrase, remedy)
        except KeyIsEncrypted:
            if place.file:  # it was to be used now
                raise
            encrypted = True
    holding = Holding(
        folder,
        root,
        _root(folder / NEXT_CRT) if NEXT_CRT in present else None,
        _root(folder / OLD_CRT) if OLD_CRT in present else None,
        imported,
        key,
        encrypted,
        _intermediate(folder) if {INTERMEDIATE_CRT, INTERMEDIATE_KEY} <= present else None,
    )
    _check_times(holding, clock.now())
    return holding


def room(*chain: x509.Certificate) -> int:
    """How many CAs there may be between the first of `chain` and leaves (RFC 5280 4.2.1.9); at most one is of use.

    `chain` goes up to the root. Below zero: not even the first may be where it is.
    """
    lengths = [basic.path_length for certificate in chain if (basic := extension(certificate, x509.BasicConstraints))]
    return min([1, *(length - above for above, length in enumerate(lengths) if length is not None)])


def signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def settle(folder: Path, present: set[str]) -> set[str]:
    """Ends a switch of roots that was cut short after the new certificate was in its place. Raises OSError."""
    if NEXT_KEY in present and NEXT_CRT not in present and not {ROOT_KEY, IMPORTED_KEY} & present:
        (folder / NEXT_KEY).replace(folder / ROOT_KEY)
        return present - {NEXT_KEY} | {ROOT_KEY}
    return present


def _root(path: Path) -> x509.Certificate:
    return files.certificates(path)[0]


def _intermediate(folder: Path) -> Issuer:
    path = folder / INTERMEDIATE_CRT
    certificate = files.certificates(path)[0]
    try:
        return Issuer(certificate, files.key(folder / INTERMEDIATE_KEY, certificate, path))
    except KeyIsEncrypted:  # the proxy needs it at every start
        raise AuthorityError(
            f"{folder / INTERMEDIATE_KEY} is encrypted; decrypt it, or delete it for another"
        ) from None


def _check_times(holding: Holding, now: datetime) -> None:
    if flaw := clock.flaw(holding.root, now):
        path = holding.folder / ROOT_CRT
        raise AuthorityError(f"root certificate {path} {flaw}; check the clock, or {_anew(holding.folder)}")
    if flaw := _first(clock.flaw(certificate, now) for certificate in holding.imported):
        path = holding.folder / IMPORTED_CRT
        raise AuthorityError(f"imported certificate {path} {flaw}; check the clock, or import the one that follows it")
    if holding.intermediate and now < holding.intermediate.certificate.not_valid_before_utc:
        # Another would be of no use: its date would be as wrong as the clock.
        path = holding.folder / INTERMEDIATE_CRT
        flaw = clock.flaw(holding.intermediate.certificate, now)
        raise AuthorityError(f"intermediate certificate {path} {flaw}; check the clock, or delete it for another")


def _first(flaws: Iterable[str | None]) -> str | None:
    return next((flaw for flaw in flaws if flaw), None)


def _anew(folder: Path) -> str:
    return f"empty {folder} for a new root (every builder must then be given that one)"
