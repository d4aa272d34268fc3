"""Synthetic images, written as OCI image layouts: the same seed gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from platform import machine
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

BUSYBOX_LINKS = ("sh", "cat", "echo", "ls", "sha256sum", "true", "touch", "wget")


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Descriptor:
    """A piece of content and the file that holds its bytes."""

    media_type: str
    digest: str
    size: int
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    def as_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    layout: Path
    tag: str
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    architecture: str

    @property
    def reference(self) -> str:
        """What skopeo calls it: oci:DIR:TAG."""
        return f"oci:{self.layout}:{self.tag}"

    @property
    def top(self) -> Descriptor:
        """What the tag points at."""
        return self.manifest

    @property
    def images(self) -> tuple[Image, ...]:
        return (self,)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return (self.config, *self.layers)


@dataclass(frozen=True)
class MultiArch:
    layout: Path
    tag: str
    index: Descriptor
    images: tuple[Image, ...]

    @property
    def reference(self) -> str:
        return f"oci:{self.layout}:{self.tag}"

    @property
    def top(self) -> Descriptor:
        return self.index

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return tuple({blob.digest: blob for image in self.images for blob in image.blobs}.values())


def parts(image: Image | MultiArch) -> dict[str, bytes]:
    """All that an image consists of, by digest."""
    manifests = (image.top, *(each.manifest for each in image.images))
    return {part.digest: part.data for part in (*manifests, *image.blobs)}


def here(image: Image | MultiArch) -> Image:
    """The one for this machine."""
    wanted = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine(), machine())
    return next((each for each in image.images if each.architecture == wanted), image.images[0])


def files(image: Image) -> dict[str, bytes]:
    """What its layers hold under data/, by path."""
    found = {}
    for layer in image.layers:
        with tarfile.open(layer.path) as tar:
            for member in tar:
                if member.name.startswith("data/") and (file := tar.extractfile(member)):
                    found[member.name] = file.read()
    return found


def make_image(
    layout: Path,
    tag: str = "1.0",
    *,
    seed: int = 0,
    layer_sizes: tuple[int, ...] = (10_000, 200_000),
    busybox: bool = False,
    architecture: str = "amd64",
) -> Image:
    """One image, added to the layout under `tag`. A layer is its size plus a little tar and gzip framing.

    With `busybox` (needs busybox-static) its first layer is one a container can run from.
    """
    image = _write_image(layout, tag, seed, layer_sizes, busybox, architecture)
    _point_tag(layout, tag, image.manifest)
    return image


def make_index(
    layout: Path,
    tag: str = "1.0",
    *,
    seed: int = 0,
    layer_sizes: tuple[int, ...] = (10_000, 200_000),
    busybox: bool = False,
    architectures: tuple[str, ...] = ("amd64", "arm64"),
) -> MultiArch:
    """One image per architecture, with different layers, under one index. `busybox`: as with make_image, in each."""
    images = tuple(
        _write_image(layout, tag, seed * 100 + number, layer_sizes, busybox, architecture)
        for number, architecture in enumerate(architectures)
    )
    entries = [
        {**image.manifest.as_json(), "platform": {"os": "linux", "architecture": image.architecture}}
        for image in images
    ]
    index = _write_json(layout, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    _point_tag(layout, tag, index)
    return MultiArch(layout, tag, index, images)


def _write_image(
    layout: Path, tag: str, seed: int, layer_sizes: tuple[int, ...], busybox: bool, architecture: str
) -> Image:
    tars = [_busybox_tar()] if busybox else []
    tars += [_random_tar(seed * 1000 + number, size) for number, size in enumerate(layer_sizes)]
    # mtime=0: gzip's header would hold the time of day, and the digest with it.
    layers = tuple(_write(layout, LAYER, gzip.compress(tar, mtime=0)) for tar in tars)
    config = _write_json(
        layout,
        CONFIG,
        {
            "created": "2024-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(tars))],
        },
    )
    manifest = _write_json(
        layout,
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.as_json(),
            "layers": [layer.as_json() for layer in layers],
        },
    )
    return Image(layout, tag, manifest, config, layers, architecture)


def _random(seed: int, size: int) -> bytes:
    source = random.Random(seed)
    # Python cannot make 256 MiB of them at once.
    return b"".join(source.randbytes(min(size - begun, 1 << 27)) for begun in range(0, size, 1 << 27))


def _random_tar(seed: int, size: int) -> bytes:
    return _tar({f"data/{seed}.bin": _random(seed, size)})


def _busybox_tar() -> bytes:
    busybox = shutil.which("busybox")
    assert busybox, "an image with busybox needs busybox-static"
    return _tar({"bin/busybox": Path(busybox).read_bytes()}, {f"bin/{name}": "busybox" for name in BUSYBOX_LINKS})


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in sorted({name.split("/")[0] for name in files}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def _write_json(layout: Path, media_type: str, value: dict[str, Any]) -> Descriptor:
    return _write(layout, media_type, json.dumps(value, separators=(",", ":")).encode())


def _write(layout: Path, media_type: str, data: bytes) -> Descriptor:
    digest = sha256(data)
    path = layout / "blobs" / digest.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Descriptor(media_type, digest, len(data), path)


def _point_tag(layout: Path, tag: str, target: Descriptor) -> None:
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index_file = layout / "index.json"
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    if index_file.exists():
        index = json.loads(index_file.read_text())
    name = "org.opencontainers.image.ref.name"
    kept = [entry for entry in index["manifests"] if entry["annotations"][name] != tag]
    index["manifests"] = [*kept, {**target.as_json(), "annotations": {name: tag}}]
    index_file.write_text(json.dumps(index))
