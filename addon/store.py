"""Blobs on disk, laid out as an OCI image layout, so that any OCI tool can read the cache.

oci-layout  index.json  blobs/<algorithm>/<encoded>     image-spec, "Image Layout"
partial/                                                fills that are not verified yet
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from addon.oci import MAX_MANIFEST, media_type

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from addon.oci import Digest

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class StoreError(Exception):
    """The cache folder cannot be used; the message names it, and the remedy."""


class DigestMismatch(Exception):
    """The content is not what its digest says."""


class Partial:
    """Content that is being written. `write` and `commit` block: call them in a thread."""

    def __init__(self, folder: Path, final: Path, digest: Digest) -> None:
        self._final = final
        self._digest = digest
        self._hash = hashlib.new(digest.algorithm)
        self._fd, self._name = tempfile.mkstemp(prefix=f"{digest.algorithm}-{digest.encoded}.", dir=folder)
        self._closed = False

    def reader(self) -> int:
        """A descriptor for positional reads; good for as long as the caller keeps it. Raises OSError."""
        # Not by the name, which a commit in another thread may be changing just now.
        return os.open(self._final, os.O_RDONLY | os.O_CLOEXEC) if self._closed else os.dup(self._fd)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._hash.update(data)

    def verify(self) -> None:
        """Raises DigestMismatch when the content is not what it should be."""
        if self._hash.hexdigest() != self._digest.encoded:
            raise DigestMismatch(f"the bytes have digest {self._digest.algorithm}:{self._hash.hexdigest()}")

    def commit(self) -> None:
        """Makes the content visible, for good, if it verifies. Raises DigestMismatch or OSError."""
        self.verify()
        os.fchmod(self._fd, 0o644)
        os.fsync(self._fd)
        os.replace(self._name, self._final)
        _sync_folder(self._final.parent)

    def close(self) -> None:
        """To be called last, and by the thread that calls `reader`. What is not committed is gone."""
        os.close(self._fd)
        self._closed = True
        with contextlib.suppress(OSError):
            os.unlink(self._name)


class Store:
    """The content cached under `folder`."""

    def __init__(self, folder: Path) -> None:
        """Makes the layout where it is missing, and drops what a killed process left. Raises StoreError."""
        self.folder = folder
        self._partial = folder / "partial"
        try:
            # What is in there was being written by a process that is gone.
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._replace(folder / "oci-layout", _LAYOUT)
            if not (folder / "index.json").exists():
                self.write_index(())
        except OSError as error:
            raise StoreError(
                f"{folder}: the cache cannot be written: {error.strerror}; choose another folder with --data"
            ) from None

    def size(self, digest: Digest) -> int | None:
        """Bytes of the content, None when it is not here."""
        try:
            return os.stat(self._path(digest)).st_size
        except OSError:
            return None

    def open(self, digest: Digest) -> int:
        """A descriptor on the content. Raises OSError."""
        return os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """The content when it is here and has at most `limit` bytes."""
        try:
            with open(self._path(digest), "rb") as file:
                content = file.read(limit + 1)
        except OSError:
            return None
        return content if len(content) <= limit else None

    def add(self, digest: Digest, content: bytes) -> None:
        """Stores content that is at hand. Raises DigestMismatch or OSError."""
        partial = self.begin(digest)
        try:
            partial.write(content)
            partial.commit()
        finally:
            partial.close()

    def begin(self, digest: Digest) -> Partial:
        """Starts writing content. Raises OSError."""
        final = self._path(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        return Partial(self._partial, final, digest)

    def write_index(self, references: Iterable[tuple[str, Digest]]) -> None:
        """Rewrites index.json from (reference, digest), the newest first. Blocks. Raises OSError.

        Of a reference that pointed at several manifests, the newest that is here is listed.
        """
        entries: dict[str, dict[str, object]] = {}
        for reference, digest in references:
            if reference in entries:
                continue
            content = self.read(digest, MAX_MANIFEST)
            if content is not None and (type_ := media_type(content)):
                entries[reference] = {
                    "mediaType": type_,
                    "digest": str(digest),
                    "size": len(content),
                    "annotations": {"org.opencontainers.image.ref.name": reference},
                }
        document = {"schemaVersion": 2, "manifests": list(entries.values())}
        self._replace(self.folder / "index.json", json.dumps(document).encode())

    def _path(self, digest: Digest) -> Path:
        return self.folder / "blobs" / digest.algorithm / digest.encoded

    def _replace(self, path: Path, content: bytes) -> None:
        fd, name = tempfile.mkstemp(prefix=path.name, dir=self._partial)
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.replace(name, path)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
