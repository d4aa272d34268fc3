"""Making certificates: a root, an intermediate for certain names only, and leaves. Pure, but for the random keys.

All keys made here are ECDSA P-256, all signatures SHA-256. The issuing key may be an imported RSA one.
"""

import ipaddress
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca import clock

_EVERY_IP = [x509.IPAddress(ipaddress.ip_network(block)) for block in ("0.0.0.0/0", "::/0")]
_SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

type CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Issuer(NamedTuple):
    """A CA certificate and its key."""

    certificate: x509.Certificate
    key: CaKey


class Issued(NamedTuple):
    """A certificate that was made here, and the key that was made for it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def root(where: str, now: datetime, until: datetime) -> Issued:
    """A root that may sign intermediates, which may sign no further ones."""
    # Host and date: whoever meets this in a trust store sees whose it is. A CN holds 64 characters.
    name = f"mirrortap root CA, {where[:28]}, made {now:%Y-%m-%d}"
    return _issue(name, now, until, None, path_length=1)


def intermediate(issuer: Issuer, names: tuple[str, ...], now: datetime, until: datetime) -> Issued:
    """A CA for servers of these DNS names alone; not for IP addresses, not for clients, not for other CAs."""
    return _issue(
        f"mirrortap intermediate CA, made {now:%Y-%m-%d}",
        now,
        until,
        issuer,
        (_SERVER_ONLY, False),  # a stolen key must not make client certificates either
        (constraints(names), True),
        path_length=0,
    )


def leaf(issuer: Issuer, host: str, now: datetime, until: datetime) -> Issued:
    """A certificate for the server `host`."""
    name = x509.SubjectAlternativeName([x509.DNSName(host)])
    # No CN: it holds 64 characters, a host 253, and only the SAN counts (RFC 9525 2).
    return _issue(None, now, until, issuer, (_SERVER_ONLY, False), (name, False))


def constraints(names: tuple[str, ...]) -> x509.NameConstraints:
    """These DNS names and what is below them, and no IP address (RFC 5280 4.2.1.10)."""
    # A permitted DNS subtree says nothing about other kinds of name: IP addresses are shut out apart.
    return x509.NameConstraints([x509.DNSName(name) for name in names], _EVERY_IP)


def extension[T: x509.ExtensionType](certificate: x509.Certificate, kind: type[T]) -> T | None:
    """That extension's value, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 in colon hex, as `openssl x509 -noout -fingerprint -sha256` prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _issue(
    common_name: str | None,
    now: datetime,
    until: datetime,
    issuer: Issuer | None,
    *extensions: tuple[x509.ExtensionType, bool],
    path_length: int | None = None,
) -> Issued:
    """A new key and its certificate; self-signed without `issuer`, a CA's when it has a `path_length`."""
    ca = path_length is not None
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mirrortap")]
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    subject = x509.Name(attributes)
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
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - clock.SKEW)
        .not_valid_after(until)
    )
    for value, critical in (
        (x509.BasicConstraints(ca, path_length), True),
        (usage, True),
        (identifier, False),
        (_issuer_identifier(issuer.certificate) if issuer else _refer_to(identifier), False),
        *extensions,
    ):
        builder = builder.add_extension(value, critical)
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    if identifier := extension(issuer, x509.SubjectKeyIdentifier):
        return _refer_to(identifier)
    key = issuer.public_key()  # an imported one may have no identifier; then this one is compared with nothing
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _refer_to(identifier: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
