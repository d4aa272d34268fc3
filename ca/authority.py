"""Root -> intermediate -> leaves, all ECDSA P-256 with SHA-256, kept as four PEM files in one folder.

Builders trust the root only. The intermediate carries critical name constraints, so whoever steals its key
can speak for the permitted names and nobody else; the root key may live elsewhere between re-issues.
"""

import fcntl
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT_LIFE = timedelta(days=3650)
INTERMEDIATE_LIFE = timedelta(days=365)
INTERMEDIATE_RENEWAL = timedelta(days=30)
LEAF_LIFE = timedelta(days=7)
# A builder whose clock runs behind ours must not find a fresh certificate "not yet valid".
CLOCK_SKEW = timedelta(hours=1)

ROOT_CRT, ROOT_KEY = "ca.crt", "ca.key"
INTERMEDIATE_CRT, INTERMEDIATE_KEY = "intermediate.crt", "intermediate.key"

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_EVERY_IP = [x509.IPAddress(ipaddress.ip_network(block)) for block in ("0.0.0.0/0", "::/0")]
_SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_PEM = serialization.Encoding.PEM


class AuthorityError(Exception):
    """The authority cannot do what was asked; the message says what failed, where, and what to do next."""


def dns_name(text: str) -> str:
    """`text` in lower case, checked to be a host name (RFC 1123 2.1: letters, digits, hyphens; no final dot).

    Raises AuthorityError for anything else: an IP address, a wildcard, a name that is not ASCII.
    """
    # Checked before lower(), which turns some letters outside ASCII (the Kelvin sign) into ASCII ones.
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AuthorityError(f"{text!r} is not a DNS name; use the plain host name (IDNs in their xn-- form)")
    if labels[-1].isdigit():  # there is no such top-level domain, and resolvers read 127.1 as an address
        raise AuthorityError(f"{text!r} is an IP address or reads like one; use a DNS name")
    return text.lower()


def within(host: str, names: Collection[str]) -> bool:
    """Whether `host` is one of `names` or a subdomain of one, label by label (RFC 5280 4.2.1.10)."""
    labels = host.split(".")
    return any(".".join(labels[i:]) in names for i in range(len(labels)))


def subtrees(names: Collection[str]) -> tuple[str, ...]:
    """The fewest names that cover what `names` cover: lower case, sorted, no subdomain of another one.

    Raises AuthorityError for a name that is no DNS name, and for no names at all.
    """
    unique = {dns_name(name) for name in names}
    if not unique:  # an empty permitted list would mean "every name", not "none"
        raise AuthorityError("no names given that certificates may be issued for; give at least one host")
    return tuple(sorted(name for name in unique if not within(name.partition(".")[2], unique)))


@dataclass(frozen=True)
class Leaf:
    """A server certificate for one host, its own key, and the intermediate(s) to send along."""

    host: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def not_after(self) -> datetime:
        """When the certificate ends (aware, UTC)."""
        return self.certificate.not_valid_after_utc

    def chain_pem(self) -> bytes:
        """What a server sends: the leaf first, then the intermediate(s), no root (RFC 8446 4.4.2)."""
        return b"".join(certificate.public_bytes(_PEM) for certificate in (self.certificate, *self.chain))

    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM (RFC 5958)."""
        return _key_pem(self.key)


class _Pair(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Authority:
    """Issues leaves for a fixed set of names. Made by open(); may be shared between threads."""

    root: x509.Certificate
    root_path: Path
    created: bool  # True when this open() made the root, so that no builder trusts it yet
    _names: tuple[str, ...]
    _intermediate: _Pair

    @classmethod
    def open(cls, folder: Path, names: Collection[str]) -> Self:
        """Load the authority in `folder`, or make root and intermediate when the folder holds none.

        Each of `names` means that DNS name and all its subdomains (RFC 5280 4.2.1.10). The intermediate is
        re-issued when it does not permit exactly these names, ends within 30 days or is not the root's; that
        needs the root key. A process that runs for months calls open() again to renew. Several processes may
        call it at once. Raises AuthorityError for whatever is in the way; never replaces a root.
        """
        permitted = subtrees(names)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # For reading: flock needs no more, and a read-only mount gives no more. Closing the file unlocks.
            with open(os.open(folder / ".lock", os.O_RDONLY | os.O_CREAT, 0o600)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return cls._open(folder, permitted)
        except OSError as error:
            raise AuthorityError(
                f"cannot read or write {error.filename or folder}: {error.strerror}; "
                f"make {folder} a folder that uid {os.geteuid()} can read and write"
            ) from error

    @classmethod
    def _open(cls, folder: Path, names: tuple[str, ...]) -> Self:
        # A listing, as exists() is False for a dangling link, which a new root would then replace.
        present = {ROOT_CRT, ROOT_KEY, INTERMEDIATE_CRT, INTERMEDIATE_KEY}.intersection(os.listdir(folder))
        anew = f"empty {folder} for a new root (every builder must then be given that one)"
        root_key = None
        if not present:
            # Host and date: whoever meets this in a trust store sees whose it is. A CN holds 64 characters.
            name = f"mirrortap root CA, {socket.gethostname()[:28]}, made {_now():%Y-%m-%d}"
            root, root_key = _issue(name, ROOT_LIFE, None, path_length=1)
            _write(folder / ROOT_KEY, _key_pem(root_key), 0o600)
            _write(folder / ROOT_CRT, root.public_bytes(_PEM), 0o644)
        elif ROOT_CRT not in present:
            raise AuthorityError(f"{folder / ROOT_CRT} is missing; restore it, or {anew}")
        else:
            root = _load_ca(folder / ROOT_CRT)
            if ROOT_KEY in present:
                root_key = _load_key(folder / ROOT_KEY, root)
        if flaw := _time_flaw(root):
            raise AuthorityError(f"root certificate {folder / ROOT_CRT} {flaw}; check the clock, or {anew}")

        pair, flaw = None, "is missing or has no key"
        if {INTERMEDIATE_CRT, INTERMEDIATE_KEY} <= present:
            certificate = _load_ca(folder / INTERMEDIATE_CRT)
            pair = _Pair(certificate, _load_key(folder / INTERMEDIATE_KEY, certificate))
            flaw = _flaw(certificate, root, names)
        if root_key and (pair is None or flaw or not _lasting(pair.certificate, root, names)):
            pair = _issue(
                f"mirrortap intermediate CA, made {_now():%Y-%m-%d}",
                INTERMEDIATE_LIFE,
                _Pair(root, root_key),
                (_SERVER_ONLY, False),  # a stolen key must not make client certificates either
                (_constraints(names), True),
                path_length=0,
            )
            # Certificate away first: a crash in between leaves no intermediate, rather than a mismatched one.
            (folder / INTERMEDIATE_CRT).unlink(missing_ok=True)
            _write(folder / INTERMEDIATE_KEY, _key_pem(pair.key), 0o600)
            _write(folder / INTERMEDIATE_CRT, pair.certificate.public_bytes(_PEM), 0o644)
        elif pair is None or flaw:
            raise AuthorityError(
                f"intermediate certificate {folder / INTERMEDIATE_CRT} {flaw}, and issuing another needs the "
                f"root key; put {folder / ROOT_KEY} back for one start"
            )
        return cls(root, folder / ROOT_CRT, not present, names, pair)

    def leaf(self, host: str) -> Leaf:
        """A new certificate for `host`, good for 7 days, with a new key. Nothing is kept: callers cache.

        Raises AuthorityError when `host` is no DNS name or outside the names given to open(), and when the
        intermediate has ended.
        """
        host = dns_name(host)
        if not within(host, self._names):
            raise AuthorityError(f"{host} is outside the names of this authority ({', '.join(self._names)})")
        if flaw := _time_flaw(self._intermediate.certificate):
            raise AuthorityError(f"the intermediate under {self.root_path} {flaw}; restart to issue another")
        name = x509.SubjectAlternativeName([x509.DNSName(host)])
        # No CN: it holds 64 characters, a host 253, and only the SAN counts (RFC 9525 2).
        pair = _issue(None, LEAF_LIFE, self._intermediate, (_SERVER_ONLY, False), (name, False))
        return Leaf(host, *pair, (self._intermediate.certificate,))

    @property
    def root_pem(self) -> bytes:
        """The root certificate in PEM (RFC 7468), for builders to trust."""
        return self.root.public_bytes(_PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root in colon hex, as `openssl x509 -noout -fingerprint -sha256` prints it."""
        return self.root.fingerprint(hashes.SHA256()).hex(":").upper()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _issue(
    common_name: str | None,
    life: timedelta,
    issuer: _Pair | None,
    *extensions: tuple[x509.ExtensionType, bool],
    path_length: int | None = None,
) -> _Pair:
    """A new key and its certificate; self-signed without `issuer`, a CA's when it has a `path_length`."""
    ca = path_length is not None
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mirrortap")]
    if common_name:
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    identifier = issuer_identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    end = _now() + life
    if issuer:
        end = min(end, issuer.certificate.not_valid_after_utc)  # no use past the issuer's end
        issuer_identifier = _extension(issuer.certificate, x509.SubjectKeyIdentifier)
    usage = x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.certificate.subject if issuer else x509.Name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_SKEW)
        .not_valid_after(end)
    )
    for extension, critical in (
        (x509.BasicConstraints(ca, path_length), True),
        (usage, True),
        (identifier, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier), False),
        *extensions,
    ):
        builder = builder.add_extension(extension, critical)
    return _Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _constraints(names: tuple[str, ...]) -> x509.NameConstraints:
    # A permitted DNS subtree says nothing about other kinds of name: IP addresses are shut out apart.
    return x509.NameConstraints([x509.DNSName(name) for name in names], _EVERY_IP)


def _extension[T: x509.ExtensionType](certificate: x509.Certificate, kind: type[T]) -> T:
    return certificate.extensions.get_extension_for_class(kind).value


def _time_flaw(certificate: x509.Certificate) -> str | None:
    if _now() >= certificate.not_valid_after_utc:
        return f"ended on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if _now() < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return None


def _flaw(intermediate: x509.Certificate, root: x509.Certificate, names: tuple[str, ...]) -> str | None:
    """Why the intermediate cannot serve `names` at all, or None."""
    try:
        intermediate.verify_directly_issued_by(root)
        stored = _extension(intermediate, x509.NameConstraints)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return f"is not signed by {ROOT_CRT}, or not for certain names only"
    permitted = {subtree.value for subtree in stored.permitted_subtrees or ()}
    if missing := [name for name in names if not within(name, permitted)]:
        return f"does not permit {', '.join(missing)}"
    return _time_flaw(intermediate)


def _lasting(intermediate: x509.Certificate, root: x509.Certificate, names: tuple[str, ...]) -> bool:
    """Whether an intermediate without a flaw permits exactly `names` and is not about to end."""
    # Not past the root's end, where a new one would end as well: it would be re-issued at every start.
    needed = min(_now() + INTERMEDIATE_RENEWAL, root.not_valid_after_utc)
    exact = _extension(intermediate, x509.NameConstraints) == _constraints(names)
    return exact and intermediate.not_valid_after_utc >= needed


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _remedy(path: Path) -> str:
    return "restore it" + (", or delete it for another" if path.stem == "intermediate" else " from a backup")


def _load_ca(path: Path) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        _extension(certificate, x509.SubjectKeyIdentifier)
        if not _extension(certificate, x509.BasicConstraints).ca:
            raise ValueError("not a CA")
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise AuthorityError(f"{path} is not a CA certificate in PEM ({error}); {_remedy(path)}") from error
    return certificate


def _load_key(path: Path, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise AuthorityError(f"private key {path} is open to other users; chmod 600 {path}")
        data = file.read()
    try:
        key = serialization.load_pem_private_key(data, password=None)
        matches = key.public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{path} is not a plain private key in PEM; {_remedy(path)}") from error
    if not matches or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{path} is not the ECDSA key of {path.with_suffix('.crt')}; {_remedy(path)}")
    return key


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
