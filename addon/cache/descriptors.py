"""What a manifest says of each piece of content that it refers to. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from addon.oci import Digest, OciError

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["index", "manifest", "config", "layer"]

_TYPE = re.compile(r"[A-Za-z0-9.+/_-]{3,255}")
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Of BuildKit's attestations, which are listed among an index's platforms ("Image attestation storage" in its docs).
NO_PLATFORM = "unknown/unknown"


@dataclass(frozen=True)
class Descriptor:
    """Image-spec, "Content Descriptors". `size` in bytes, None where the manifest does not say it.

    `spare`: clients have it from elsewhere ("urls"), or from the descriptor itself ("data").
    """

    digest: Digest
    kind: Kind
    media_type: str = ""
    size: int | None = None
    platform: str = ""  # "linux/arm64/v8", in an index
    spare: bool = False


@dataclass(frozen=True)
class Document:
    """A manifest, or an index of manifests."""

    is_index: bool
    descriptors: tuple[Descriptor, ...]


def document(content: bytes) -> Document | None:
    """Image-spec, "Image Index" and "Image Manifest"; Docker's schema 1. None where `content` is none of these."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("manifests"), list):
        return Document(True, _unique(_described(each, "manifest") for each in found["manifests"]))
    if isinstance(found.get("layers"), list):
        layers = [_described(each, "layer") for each in found["layers"]]
        return Document(False, _unique([_described(found.get("config"), "config"), *layers]))
    if isinstance(found.get("fsLayers"), list):
        return Document(False, _unique(_described(each, "layer", "blobSum") for each in found["fsLayers"]))
    return None


def platform(said: object) -> str:
    """OS, architecture and variant, from a descriptor's "platform" or an image's configuration; "" for none."""
    if not isinstance(said, dict):
        return ""
    parts = [said.get("os"), said.get("architecture"), said.get("variant") or None]
    words = [part for part in parts if isinstance(part, str) and _WORD.fullmatch(part)]
    return "/".join(words) if len(words) == sum(part is not None for part in parts) >= 2 else ""


def _described(said: object, kind: Kind, key: str = "digest") -> Descriptor | None:
    text = said.get(key) if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(text, str):
        return None
    try:
        digest = Digest.parse(text)
    except OciError:
        return None
    if not digest.verifiable:
        return None
    media_type, size = said.get("mediaType"), said.get("size")
    return Descriptor(
        digest,
        kind,
        media_type if isinstance(media_type, str) and _TYPE.fullmatch(media_type) else "",
        size if isinstance(size, int) and not isinstance(size, bool) else None,
        platform(said.get("platform")) if kind == "manifest" else "",
        bool(said.get("urls")) or isinstance(said.get("data"), str),
    )


def _unique(found: Iterable[Descriptor | None]) -> tuple[Descriptor, ...]:
    """Each digest once, in the order of the manifest."""
    by_digest: dict[Digest, Descriptor] = {}
    for each in found:
        if each:
            by_digest.setdefault(each.digest, each)
    return tuple(by_digest.values())
