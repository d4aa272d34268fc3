"""Keyed hashes that stand for credentials: who has one can be recognised, and what it is cannot be found out."""

from __future__ import annotations

import hmac
import os
import secrets
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from pathlib import Path

_BYTES = 32


class FingerprintError(Exception):
    """The key cannot be used; the message names the file and the remedy."""


class Fingerprints:
    """Those made with one key, of 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> Self:
        """With the key in a file, which is made where it is missing. Raises FingerprintError."""
        try:
            with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise FingerprintError(f"{path}: is open to other users; chmod 600 {path}")
                key = file.read(_BYTES + 1)
                if not key:
                    key = secrets.token_bytes(_BYTES)
                    file.write(key)
        except OSError as error:
            raise FingerprintError(f"{path}: cannot be read or written: {error.strerror}") from None
        if len(key) != _BYTES:
            raise FingerprintError(f"{path}: is damaged; delete it, and clients show anew what they may read")
        return cls(key)

    def of(self, credential: str) -> str:
        """HMAC-SHA-256 (RFC 2104) in hex."""
        return hmac.digest(self._key, credential.encode("utf-8", "surrogateescape"), "sha256").hex()

    def derived(self, purpose: str, size: int) -> bytes:
        """A key of so many bytes for another purpose, from which this one cannot be found out (HKDF, RFC 5869)."""
        return HKDF(SHA256(), size, salt=None, info=purpose.encode()).derive(self._key)
