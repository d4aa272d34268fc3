"""What is wrong with the certificates that a server shows, at any time that a clock may say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from addon.upstream import findings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from addon.upstream.findings import Certificate

# OpenSSL's verify codes (openssl-verification-options(1)).
_TIMES = (9, 10)
_UNTRUSTED = (2, 18, 19, 20, 21)
_OTHER_NAME = 62


@dataclass(frozen=True)
class Flaw:
    """The first thing that is wrong; `code` and `message` are OpenSSL's, `certificate` is the one that has it."""

    code: int
    message: str
    certificate: Certificate

    @property
    def of_time(self) -> bool:
        return self.code in _TIMES

    @property
    def untrusted(self) -> bool:
        return self.code in _UNTRUSTED

    def good_at(self, time: datetime | None) -> bool:
        """Whether what is wrong with its dates would not be wrong then."""
        return time is not None and self.certificate.not_before <= time <= self.certificate.not_after


def flaw(chain: Sequence[bytes], host: str, trusted: Iterable[x509.Certificate], now: datetime) -> Flaw | None:
    """Why `chain` (DER, the server's own first, not empty) does not stand for `host`, None when it does."""
    store = crypto.X509Store()
    for each in trusted:
        store.add_cert(crypto.X509.from_cryptography(each))
    store.set_time(now)
    leaf, *others = (crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)) for der in chain)
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        code, _, message = error.errors
        wrong = error.certificate.to_cryptography().public_bytes(Encoding.DER)
        return Flaw(int(code), str(message), findings.certificate(wrong))
    shown = findings.certificate(chain[0])
    if not any(_is(name, host) for name in shown.names):
        return Flaw(_OTHER_NAME, "hostname mismatch", shown)
    return None


def _is(name: str, host: str) -> bool:
    """RFC 9525, 6.3."""
    name, host = name.lower(), host.lower()
    return name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:])
