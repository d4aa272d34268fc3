"""Root -> intermediate -> leaves, kept as PEM files in one folder: the face of this package towards a proxy.

Builders trust the root only. The intermediate carries critical name constraints, so whoever steals its key
can speak for the permitted names and nobody else; the root key may live elsewhere between re-issues.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca import clock, files, issuing, making, renewing
from ca.errors import AuthorityError
from ca.holding import Holding, read, settle
from ca.issuing import Issuer
from ca.lives import INTERMEDIATE_LIFE, LEAF_LIFE, ROOT_LIFE, Lives
from ca.names import dns_name, subtrees, within
from ca.notices import warnings

__all__ = [
    "INTERMEDIATE_LIFE",
    "LEAF_LIFE",
    "ROOT_LIFE",
    "Authority",
    "AuthorityError",
    "Leaf",
    "dns_name",
    "subtrees",
    "within",
]


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
        return files.certificates_pem(self.certificate, *self.chain)

    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM (RFC 5958)."""
        return files.key_pem(self.key)


@dataclass(frozen=True)
class Authority:
    """Issues leaves for a fixed set of names. Made by open(); may be shared between threads.

    `created`: this open() made the root, so that no builder trusts it yet. `renewal` (aware, UTC): from when on
    open() should be called again, for there is or may be something newer by then. `warnings`: what somebody
    should see to, in words with the remedy. `roots_pem`: what builders should trust; during a rotation two roots.
    `chain`: what goes along with every leaf, the certificate that signs it first.
    """

    root: x509.Certificate
    root_path: Path
    created: bool
    renewal: datetime
    warnings: tuple[str, ...]
    roots_pem: bytes
    chain: tuple[x509.Certificate, ...]
    _names: tuple[str, ...]
    _leaf_life: timedelta
    _issuer: Issuer

    @classmethod
    def open(
        cls,
        folder: Path,
        names: Collection[str],
        *,
        leaf_life: timedelta = LEAF_LIFE,
        intermediate_life: timedelta = INTERMEDIATE_LIFE,
    ) -> Self:
        """Load the authority in `folder`, or make root and intermediate when the folder holds none.

        Each of `names` means that DNS name and all its subdomains (RFC 5280 4.2.1.10). The intermediate is
        re-issued when it does not permit exactly these names, is not the root's, or ends soon: within 30 days,
        a third of its life, or a leaf's life. That needs the root key, unencrypted. A process that runs for months
        calls open() again to renew. Several processes may call it at once. Raises AuthorityError for whatever is in
        the way; never replaces a root.
        """
        permitted, lives = subtrees(names), Lives(leaf_life, intermediate_life)
        with files.locked(folder, make=True) as present:
            created = not present
            if created:
                present = making.root(folder)
            holding = renewing.ensured(read(folder, settle(folder, present)), permitted, lives)
        return cls._of(holding, permitted, lives, created)

    @classmethod
    def _of(cls, holding: Holding, names: tuple[str, ...], lives: Lives, created: bool) -> Self:
        now = clock.now()
        issuer = holding.signer
        return cls(
            root=holding.root,
            root_path=holding.folder / files.ROOT_CRT,
            created=created,
            renewal=lives.renewal(min(issuer.certificate.not_valid_after_utc, holding.end), now),
            warnings=tuple(warnings(holding, names, lives, now)),
            roots_pem=files.certificates_pem(*holding.roots),
            _names=names,
            _leaf_life=lives.leaf,
            _issuer=issuer,
            chain=tuple(dict.fromkeys((issuer.certificate, *holding.imported))),
        )

    def leaf(self, host: str) -> Leaf:
        """A new certificate for `host`, good for a leaf's life, with a new key. Nothing is kept: callers cache.

        Raises AuthorityError when `host` is no DNS name or outside the names given to open(), and when the
        intermediate has ended.
        """
        host, now = dns_name(host), clock.now()
        if not within(host, self._names):
            raise AuthorityError(f"{host} is outside the names of this authority ({', '.join(self._names)})")
        if flaw := clock.flaw(self._issuer.certificate, now):
            raise AuthorityError(f"the intermediate under {self.root_path} {flaw}; mirrortap ca show says what to do")
        # No use past the issuer's end.
        until = min(now + self._leaf_life, *(certificate.not_valid_after_utc for certificate in self.chain))
        return Leaf(host, *issuing.leaf(self._issuer, host, now, until), self.chain)

    @property
    def intermediate(self) -> x509.Certificate:
        """What signs leaves."""
        return self._issuer.certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root in colon hex, as `openssl x509 -noout -fingerprint -sha256` prints it."""
        return issuing.fingerprint(self.root)
