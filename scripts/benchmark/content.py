"""What is pulled: blobs and manifests, as the folder that nginx serves as a registry."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

REPOSITORY, TAG = "bench/image", "latest"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ACCEPT = f"{MANIFEST}, */*"  # without the type docker-registry says that there is no such manifest
_CONFIG, _LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Item:
    """A blob or a manifest: what a registry gives for `kind`/`digest`."""

    kind: str  # blobs or manifests
    digest: str
    size: int
    path: Path

    @property
    def where(self) -> str:
        """Within its repository."""
        return f"{self.kind}/{self.digest}"


class Content:
    """Made when it is first asked for: a benchmark of manifests needs no gigabyte.

    `size` is that of `big` in bytes; a layer is a quarter of that.
    """

    def __init__(self, www: Path, size: int) -> None:
        self.www, self.size = www, size
        self._folder = www / "v2" / REPOSITORY
        for kind in "blobs", "manifests":
            (self._folder / kind).mkdir(parents=True, exist_ok=True)

    @cached_property
    def big(self) -> Item:
        """One large blob, of random bytes."""
        return self._random(self.size)

    @cached_property
    def layers(self) -> tuple[Item, ...]:
        """Four of them, as large as `big` together. The first is the blob that many clients want."""
        return tuple(self._random(self.size // 4) for _ in range(4))

    @cached_property
    def small(self) -> Item:
        """A blob that costs nothing to send."""
        return self._random(1000)

    @cached_property
    def image(self) -> Item:
        """The manifest of an image of `layers`, which TAG names."""
        item = self._manifest(self.layers)
        os.link(item.path, self._folder / "manifests" / TAG)
        return item

    @cached_property
    def manifest(self) -> Item:
        """One as images of today have it: 20 layers, some 3 kB."""
        return self._manifest(tuple(self._random(1000) for _ in range(20)))

    def parts(self, manifest: Item) -> list[Item]:
        """The blobs that it refers to."""
        document = json.loads(manifest.path.read_bytes())
        descriptors = [document["config"], *document["layers"]]
        return [
            Item("blobs", each["digest"], each["size"], self._folder / "blobs" / each["digest"]) for each in descriptors
        ]

    def _manifest(self, layers: Iterable[Item]) -> Item:
        config = self._write("blobs", json.dumps({"architecture": "amd64", "os": "linux", "config": {}}).encode())
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": _LAYER, "digest": layer.digest, "size": layer.size} for layer in layers],
        }
        return self._write("manifests", json.dumps(document).encode())

    def _write(self, kind: str, data: bytes) -> Item:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = self._folder / kind / digest
        path.write_bytes(data)
        return Item(kind, digest, len(data), path)

    def _random(self, size: int) -> Item:
        digest = hashlib.sha256()
        unnamed = self._folder / "blobs" / "unnamed"
        with unnamed.open("wb") as file:
            for start in range(0, size, _PIECE):
                block = os.urandom(min(_PIECE, size - start))
                digest.update(block)
                file.write(block)
        path = unnamed.rename(unnamed.with_name(f"sha256:{digest.hexdigest()}"))
        return Item("blobs", path.name, size, path)


def read_ahead(items: Iterable[Item]) -> None:
    """Into the page cache: how fast the disk is, is no server's merit."""
    buffer = bytearray(_PIECE)
    for item in items:
        with item.path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def link_registry(storage: Path, manifest: Item, blobs: Iterable[Item]) -> None:
    """An image as distribution keeps it below its root directory, by hard links: nothing is pushed or copied."""
    root = storage / "docker" / "registry" / "v2"
    repository = root / "repositories" / REPOSITORY
    manifests = repository / "_manifests"
    links = [manifests / "revisions", manifests / "tags" / TAG / "index"]
    for item, places in [(manifest, links), *((blob, [repository / "_layers"]) for blob in blobs)]:
        algorithm, _, name = item.digest.partition(":")
        data = root / "blobs" / algorithm / name[:2] / name / "data"
        data.parent.mkdir(parents=True)
        os.link(item.path, data)
        for place in places:
            _link(place / algorithm / name, item.digest)
    _link(manifests / "tags" / TAG / "current", manifest.digest)


def _link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True)
    (folder / "link").write_text(digest)
