"""What indexes and manifests refer to, with sizes and platforms (image-spec, "Descriptors"). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from addon.oci import Digest, OciError
from addon.warming.platforms import Platform, chosen

# Of one index: the largest that are known have some dozens.
_ENTRIES = 1000


class Unreadable(Exception):
    """It is neither an index nor a manifest that can be cached; the message says why."""


@dataclass(frozen=True)
class Entry:
    """A manifest of an index. `platform` is None where the index does not say."""

    digest: Digest
    platform: Platform | None


@dataclass(frozen=True)
class Part:
    """A config or layer; `size` in bytes, 0 where the manifest does not say."""

    digest: Digest
    size: int


@dataclass(frozen=True)
class Index:
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Manifest:
    parts: tuple[Part, ...]


def read(content: bytes) -> Index | Manifest:
    """Raises Unreadable."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable("what was sent as its manifest is no JSON") from None
    if not isinstance(document, dict):
        raise Unreadable("what was sent as its manifest is none")
    if "manifests" in document:
        listed = _listed(document["manifests"])
        if len(listed) > _ENTRIES:
            raise Unreadable(f"its index has {len(listed)} manifests, more than {_ENTRIES}")
        return Index(tuple(Entry(_digest(each.get("digest")), _platform(each.get("platform"))) for each in listed))
    if "fsLayers" in document:  # Docker's schema 1
        return _manifest([{"digest": each.get("blobSum")} for each in _listed(document["fsLayers"])])
    if "layers" in document:
        config = document.get("config")
        # What is to be had elsewhere ("urls") clients do not ask a registry for.
        here = [each for each in _listed(document["layers"]) if not each.get("urls")]
        return _manifest([*([config] if isinstance(config, dict) else []), *here])
    raise Unreadable("what was sent as its manifest has neither layers nor manifests")


def _manifest(descriptors: list[dict[str, object]]) -> Manifest:
    parts = [Part(_digest(each.get("digest")), _size(each.get("size"))) for each in descriptors]
    return Manifest(tuple({part.digest: part for part in parts}.values()))


@dataclass(frozen=True)
class Choice:
    """Of an index: what is to be fetched, and the wanted platforms that this is for."""

    entries: tuple[Entry, ...]
    platforms: frozenset[Platform]


def choose(index: Index, wanted: tuple[Platform, ...] | None) -> Choice:
    """For these platforms; None: everything, attestations included.

    What has no platform may be for any: only who has it can tell.
    """
    if wanted is None:
        return Choice(tuple(dict.fromkeys(index.entries)), frozenset())
    there = {each: best for each in wanted if (best := chosen(each, offered(index)))}
    taken = [each for each in index.entries if each.platform is None or each.platform in there.values()]
    return Choice(tuple(dict.fromkeys(taken)), frozenset(there))


def offered(index: Index) -> tuple[Platform, ...]:
    """The platforms that it has an image for."""
    found = (each.platform for each in index.entries if each.platform and each.platform.os != "unknown")
    return tuple(dict.fromkeys(found))


def _listed(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Unreadable("what was sent as its manifest does not have lists of descriptors")
    return value


def _digest(text: object) -> Digest:
    try:
        digest = Digest.parse(text) if isinstance(text, str) else None
    except OciError:
        digest = None
    if digest is None or not digest.verifiable:
        raise Unreadable("its manifest refers to something by a digest that cannot be verified")
    return digest


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    os, architecture, variant = (value.get(key) for key in ("os", "architecture", "variant"))
    if not isinstance(os, str) or not isinstance(architecture, str):
        return None
    return Platform.of(_shown(os), _shown(architecture), _shown(variant) if isinstance(variant, str) else "")


def _shown(text: str) -> str:
    """It is told to people: short, and without control characters."""
    return ascii(text[:64])[1:-1]


def _size(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
