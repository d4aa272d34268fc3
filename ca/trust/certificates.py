"""The CA certificates that builders are to trust, read from whatever was given. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from ca.trust.errors import TrustError

if TYPE_CHECKING:
    from typing import Self

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_OTHERWISE = "it must hold the CA's certificate in PEM, as http://PROXY:3128/ca.crt gives it"


@dataclass(frozen=True)
class Bundle:
    """One CA certificate, or the old and the new one while a CA is rotated; each once."""

    certificates: tuple[x509.Certificate, ...]
    source: str

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """From PEM (RFC 7468), text around the blocks left out. Raises TrustError for anything but CA certificates."""
        if b"PRIVATE KEY-----" in data:
            raise TrustError(f"{source}: holds a private key, which must not be handed to builders; {_OTHERWISE}")
        try:
            certificates = tuple(dict.fromkeys(x509.load_pem_x509_certificates(data)))
        except (ValueError, UnsupportedAlgorithm):
            raise TrustError(f"{source}: is not a certificate; {_OTHERWISE}") from None
        for certificate in certificates:
            _check(certificate, source)
        return cls(certificates, source)

    @property
    def pems(self) -> tuple[bytes, ...]:
        return tuple(each.public_bytes(serialization.Encoding.PEM) for each in self.certificates)

    @property
    def pem(self) -> bytes:
        return b"".join(self.pems)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """SHA-256 in colon hex, as `openssl x509 -noout -fingerprint -sha256` prints it."""
        return tuple(each.fingerprint(hashes.SHA256()).hex(":").upper() for each in self.certificates)

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(each.subject.rfc4514_string() for each in self.certificates)


def _check(certificate: x509.Certificate, source: str) -> None:
    name = certificate.subject.rfc4514_string()
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        is_ca = False
    if not is_ca:
        raise TrustError(f"{source}: {name} is not the certificate of a CA; {_OTHERWISE}")
    if datetime.now(UTC) >= certificate.not_valid_after_utc:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        raise TrustError(f"{source}: {name} ended on {ended}; take the proxy's present CA, or set the clock right")


def missing(pem: bytes, bundle: bytes) -> bool:
    """Whether some certificate of `pem` is not in `bundle`, whatever their line lengths."""
    return not _blocks(pem) <= _blocks(bundle)


def _blocks(pem: bytes) -> set[bytes]:
    return {b"".join(match.split()) for match in _BLOCK.findall(pem)}
