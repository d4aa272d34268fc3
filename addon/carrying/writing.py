"""An OCI image layout (image-spec, "Image Layout") written from the store, as a tar or a folder.

The same images give the same bytes. What is damaged is found while it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from addon.cache import verify
from addon.cache.partial import sync_folder
from addon.carrying import names
from addon.oci import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from addon.cache.reference import Reference
    from addon.cache.store import Store
    from addon.cache.trees import Tree
    from addon.oci import Digest

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Damaged(Exception):
    """Content of the cache is not what its digest says, or not there any more; the message says what to do."""


@dataclass(frozen=True)
class Cargo:
    """The images by name, and all that goes with them."""

    images: Sequence[tuple[Reference, Tree]]
    parts: Sequence[Tree]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.size or 0 for part in self.parts)

    def index(self) -> bytes:
        """index.json."""
        entries = [
            {
                "mediaType": tree.media_type,
                "digest": str(tree.digest),
                "size": tree.size,
                "annotations": {names.CONTAINERD_NAME: str(reference), names.OCI_NAME: str(reference)},
            }
            for reference, tree in self.images
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return json.dumps(document, separators=(",", ":")).encode()


def to_tar(out: IO[bytes], cargo: Cargo, store: Store, progress: Callable[[int], None]) -> None:
    """Raises Damaged or OSError."""
    end = _End(out)
    # No context manager: its end would write what is left before anything is cut.
    tar = tarfile.open(fileobj=end, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20)  # type: ignore[call-overload]  # noqa: SIM115
    try:
        for name, content in (names.LAYOUT, _LAYOUT), (names.INDEX, cargo.index()):
            tar.addfile(_info(name, len(content)), io.BytesIO(content))
        for folder in ("blobs", *sorted({f"blobs/{part.digest.algorithm}" for part in cargo.parts})):
            tar.addfile(_info(folder, 0, tarfile.DIRTYPE))
        for part in cargo.parts:
            with _opened(store, part) as file:
                reading = _Reading(file, part.digest, progress)
                tar.addfile(_info(_name(part.digest), part.size or 0), reading)
                reading.check(store)
        tar.close()
    except BaseException:
        end.cut = True
        raise


def to_folder(folder: Path, cargo: Cargo, store: Store, progress: Callable[[int], None]) -> None:
    """Makes it. Files are links to those of the cache where that can be. Raises Damaged or OSError."""
    folder.mkdir()
    (folder / names.LAYOUT).write_bytes(_LAYOUT)
    (folder / names.INDEX).write_bytes(cargo.index())
    for part in cargo.parts:
        place = folder / _name(part.digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _opened(store, part) as file:
            if not verify.sound(file.fileno(), part.digest, progress):
                raise _damaged(store, part.digest)
            try:
                os.link(store.path(part.digest), place)
            except OSError:
                # Another file system, as a rule.
                with open(place, "xb") as copy:
                    shutil.copyfileobj(file, copy, 1 << 20)
                    copy.flush()
                    os.fsync(copy.fileno())
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(path)


class _End:
    """Where a tar goes; nothing more of it once it is `cut`: what tarfile still has to write, whatever becomes of the
    rest, must not wait for a reader that takes nothing."""

    def __init__(self, out: IO[bytes]) -> None:
        self.cut = False
        self._out = out

    def write(self, data: bytes) -> int:
        return len(data) if self.cut else self._out.write(data)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A name beside `target`, which becomes it in the end, or is removed. Raises OSError."""
    prepared = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield prepared
        os.replace(prepared, target)
        sync_folder(target.parent)
    finally:
        if prepared.is_dir():
            shutil.rmtree(prepared)
        else:
            prepared.unlink(missing_ok=True)


class _Reading:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes], digest: Digest, progress: Callable[[int], None]) -> None:
        self._file = file
        self._digest = digest
        self._progress = progress
        self._hash = hashlib.new(digest.algorithm)

    def read(self, count: int) -> bytes:
        piece = self._file.read(count)
        self._hash.update(piece)
        self._progress(len(piece))
        return piece

    def check(self, store: Store) -> None:
        if self._hash.hexdigest() != self._digest.encoded:
            raise _damaged(store, self._digest)


@contextlib.contextmanager
def _opened(store: Store, part: Tree) -> Iterator[IO[bytes]]:
    """Its file, which is not evicted meanwhile. Raises Damaged."""
    try:
        fd = store.open(part.digest)
    except FileNotFoundError:
        raise Damaged(f"{part.digest} has just been evicted; pull the image again, and pin it") from None
    with open(fd, "rb") as file:
        if os.fstat(fd).st_size != part.size:
            raise _damaged(store, part.digest)
        yield file


def _damaged(store: Store, digest: Digest) -> Damaged:
    return Damaged(f"{store.path(digest)} is damaged; mirrortap cache verify removes it, then pull the image again")


def _name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def _info(name: str, size: int, type_: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """Nobody's, and of no time."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type_
    info.mode = 0o755 if type_ == tarfile.DIRTYPE else 0o644
    return info
