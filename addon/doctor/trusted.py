"""The CA certificates that a program trusts: which files it reads, and what is in them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from ca.found import BUNDLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_FOLDERS = ("etc/ssl/certs", "etc/pki/tls/certs")
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----\n"
# What a root that mirrortap made is called, whichever mirrortap it was.
_OURS = "mirrortap root CA"


@dataclass(frozen=True)
class Anchor:
    certificate: x509.Certificate
    file: Path

    @property
    def of_a_mirrortap(self) -> bool:
        return _OURS in self.certificate.subject.rfc4514_string()


def files(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """Those of a program written in Go (crypto/x509, root_unix.go), whose `/` and whose environment these are."""
    bundle = environment.get("SSL_CERT_FILE")
    found = [below(root, bundle)] if bundle else [each for name in BUNDLES if (each := root / name).is_file()][:1]
    folders = environment.get("SSL_CERT_DIR", "").split(":") if environment.get("SSL_CERT_DIR") else _FOLDERS
    return found + [each for folder in folders for each in listed(below(root, folder))]


def below(root: Path, path: str) -> Path:
    """The file that a program means by `path`, whose `/` is `root`."""
    return root / path.lstrip("/")


def listed(folder: Path) -> list[Path]:
    """The files in a folder; none where it cannot be looked into."""
    try:
        return sorted(each for each in folder.iterdir() if each.is_file())
    except OSError:
        return []


def anchors(paths: Iterable[Path]) -> list[Anchor]:
    """All certificates in PEM in those of the files that can be read, each once, under the first file's name."""
    found: dict[x509.Certificate, Anchor] = {}
    seen: set[Path] = set()
    for path in paths:
        real = path.resolve()
        if real not in seen:
            seen.add(real)
            for certificate in _read(path):
                found.setdefault(certificate, Anchor(certificate, path))
    return list(found.values())


def certificates(pem: bytes) -> Iterator[x509.Certificate]:
    """Those of PEM that can be understood, as programs leave the others out. Pure."""
    for block in pem.split(_BEGIN)[1:]:
        try:
            with warnings.catch_warnings():
                # Of serial numbers in systems' own bundles.
                warnings.simplefilter("ignore", CryptographyDeprecationWarning)
                yield x509.load_pem_x509_certificate(_BEGIN + block.partition(_END[:-1])[0] + _END)
        except ValueError:
            continue


def _read(path: Path) -> Iterator[x509.Certificate]:
    try:
        yield from certificates(path.read_bytes())
    except OSError:
        return
