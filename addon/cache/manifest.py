"""What manifests refer to, and what can be reached from one in the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.oci import MAX_MANIFEST, Digest, OciError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from addon.cache.store import Store


@dataclass(frozen=True)
class Children:
    """What a manifest refers to: other manifests; config and layers."""

    manifests: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()


def children(content: bytes) -> Children:
    """Image-spec, "Image Index" and "Image Manifest"; Docker's schema 1. Nothing where `content` is no manifest."""
    document = _document(content)
    manifests = _digests(document.get("manifests"), "digest")
    blobs = (
        *_digests([document.get("config")], "digest"),
        *_digests(document.get("layers"), "digest"),
        *_digests(document.get("fsLayers"), "blobSum"),
    )
    return Children(manifests, blobs)


@dataclass(frozen=True)
class Parts:
    """What a client that has an image's manifest wants next."""

    config: tuple[Digest, ...] = ()
    layers: tuple[Digest, ...] = ()

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """Each once, in the order of the manifest."""
        return tuple(dict.fromkeys((*self.config, *self.layers)))


def parts(content: bytes, most: int) -> Parts:
    """At most so many that the manifest of an image, a chart or another artifact refers to; none for other content.

    Without layers that are to be had elsewhere ("urls": image-spec, "Descriptors"), and not of what refers to another
    manifest ("subject"): signatures and the like are looked at by other means than a pull.
    """
    document = _document(content)
    if "layers" not in document or "manifests" in document or "subject" in document:
        return Parts()
    config = _digests([document.get("config")], "digest")
    layers = document["layers"] if isinstance(document["layers"], list) else []
    here = [each for each in layers if isinstance(each, dict) and not each.get("urls")]
    found = tuple(dict.fromkeys(_digests(here[:most], "digest")))
    return Parts(config, found[: most - len(config)]) if found else Parts()


def reach(store: Store, top: Digest) -> Iterator[Digest]:
    """`top` and all that it refers to, as far as the manifests are in the store. Blocks."""
    seen, waiting = {top}, [top]
    while waiting:
        digest = waiting.pop()
        yield digest
        found = children(store.read(digest, MAX_MANIFEST) or b"")
        for blob in found.blobs:
            if blob not in seen:
                seen.add(blob)
                yield blob
        for manifest in found.manifests:
            if manifest not in seen:
                seen.add(manifest)
                waiting.append(manifest)


def _document(content: bytes) -> dict[str, object]:
    """Empty where `content` is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _digests(descriptors: object, key: str) -> tuple[Digest, ...]:
    if not isinstance(descriptors, list):
        return ()
    found = []
    for descriptor in descriptors:
        text = descriptor.get(key) if isinstance(descriptor, dict) else None
        try:
            digest = Digest.parse(text) if isinstance(text, str) else None
        except OciError:
            continue
        if digest and digest.verifiable:
            found.append(digest)
    return tuple(found)
