"""Archives of images, as others write them and as nobody should."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from support.images import parts, sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from support.images import Image, MultiArch

Entry = tuple[str, bytes] | tarfile.TarInfo
CONTAINERD_NAME, OCI_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
LAYOUT: Entry = ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def tarred(entries: Iterable[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Files, by name and content, and whatever else a header can say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def special(name: str, type_: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, target
    return info


def blob(digest: str, content: bytes) -> Entry:
    return f"blobs/{digest.replace(':', '/')}", content


def layout(images: Mapping[str, Image | MultiArch], *, without: tuple[str, ...] = ()) -> list[Entry]:
    """An OCI image layout, with names as containerd and BuildKit write them."""
    entries = [
        {**image.top.as_json(), "annotations": {CONTAINERD_NAME: name, OCI_NAME: "1.0"}}
        for name, image in images.items()
    ]
    content = {digest: data for image in images.values() for digest, data in parts(image).items()}
    blobs = [blob(digest, data) for digest, data in content.items() if digest not in without]
    return [LAYOUT, index(entries), *blobs]


def index(entries: list[dict[str, Any]]) -> Entry:
    return "index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def saved(image: Image, *tags: str) -> list[Entry]:
    """As podman's and skopeo's docker-archive: has it. Whole layers, then what is said of them."""
    layers = [gzip.decompress(layer.data) for layer in image.layers]
    names = [f"{sha256(layer).removeprefix('sha256:')}.tar" for layer in layers]
    config = f"{image.config.digest.removeprefix('sha256:')}.json"
    manifest = [{"Config": config, "RepoTags": list(tags), "Layers": names}]
    links = [special(f"{number:064x}/layer.tar", tarfile.SYMTYPE, f"../{name}") for number, name in enumerate(names)]
    return [
        *zip(names, layers, strict=True),
        *links,
        (config, image.config.data),
        ("manifest.json", json.dumps(manifest).encode()),
    ]


def written(file: Path, entries: Iterable[Entry]) -> Path:
    file.write_bytes(tarred(entries))
    return file
