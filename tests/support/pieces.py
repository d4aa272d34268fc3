"""Content of a few bytes, put where docker-registry keeps its own: hundreds of repositories cost less than one push."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from support.images import CONFIG, MANIFEST, sha256

if TYPE_CHECKING:
    from pathlib import Path

    from support.programs import RealRegistry

_WINDOW = 8  # bytes that two random pieces do not have in common by chance


@dataclass(frozen=True)
class Piece:
    """A blob or a manifest; `secret` is what of it nobody could know without having been given it."""

    data: bytes
    secret: bytes
    media_type: str | None = None  # a manifest's

    @cached_property
    def digest(self) -> str:
        return sha256(self.data)

    def shows_in(self, text: bytes) -> bool:
        """Whether any part of what is secret is there."""
        return any(text[at : at + _WINDOW] in self.secret for at in range(len(text) - _WINDOW + 1))


def blob(seed: str, size: int = 2000) -> Piece:
    data = random.Random(seed).randbytes(size)
    return Piece(data, data)


def manifest(seed: str, config: Piece) -> Piece:
    secret = random.Random(seed).randbytes(32).hex()
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": len(config.data)},
        "layers": [],
        "annotations": {"secret": secret},
    }
    return Piece(json.dumps(value).encode(), secret.encode(), MANIFEST)


def put(registry: RealRegistry, repository: str, piece: Piece, tag: str = "1.0") -> None:
    """As a push would leave it; the layout is that of distribution's registry/storage/paths.go."""
    root = registry.storage / "docker/registry/v2"
    hex_digest = piece.digest.removeprefix("sha256:")
    _write(root / "blobs/sha256" / hex_digest[:2] / hex_digest / "data", piece.data)
    kept = root / "repositories" / repository
    if piece.media_type is None:
        links = [kept / "_layers/sha256" / hex_digest]
    else:
        tagged = kept / "_manifests/tags" / tag
        revision = kept / "_manifests/revisions/sha256" / hex_digest
        links = [revision, tagged / "current", tagged / "index/sha256" / hex_digest]
    for link in links:
        _write(link / "link", piece.digest.encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
