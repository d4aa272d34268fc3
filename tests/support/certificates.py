"""Certificates for test servers, and the bundles that clients of several authorities need."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class KeyPair:
    """A server's certificate chain and key, as files that a program can be configured with."""

    cert: Path
    key: Path


class Authority:
    """A CA of the tests' own; `file` is its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def pair(self, *names: str) -> KeyPair:
        """A certificate for these names and for 127.0.0.1, on disk."""
        leaf = self._ca.issue_cert(*_with_loopback(names))
        stem = "-".join(names) or "loopback"
        pair = KeyPair(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(pair.key))
        return pair

    def server_context(self, *names: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert(*_with_loopback(names)).configure_cert(context)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))


def write_bundle(path: Path, *certificates: Path) -> Path:
    """One PEM file that trusts them all: SSL_CERT_FILE of a client that meets the proxy and a test server."""
    path.write_bytes(b"\n".join(certificate.read_bytes() for certificate in certificates))
    return path


def _with_loopback(names: tuple[str, ...]) -> tuple[str, ...]:
    return names if "127.0.0.1" in names else (*names, "127.0.0.1")
