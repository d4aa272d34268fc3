"""Blobs on disk, laid out as an OCI image layout, so that any OCI tool can read the cache.

oci-layout  index.json  blobs/<algorithm>/<encoded>     image-spec, "Image Layout"
partial/                                                downloads that are not verified yet (see partial.py)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from typing import TYPE_CHECKING

from addon.oci import MAX_MANIFEST, Digest, media_type
from addon.partial import DigestMismatch, Partial, replace, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_RESUMABLE = re.compile(r"[a-z0-9]+-[0-9a-f]+(\.json)?")


class StoreError(Exception):
    """The cache folder cannot be used; the message names it, and the remedy."""


class Store:
    """The content cached under `folder`."""

    def __init__(self, folder: Path) -> None:
        """Makes the layout where it is missing. Raises StoreError."""
        self.folder = folder
        self._partial = folder / "partial"
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            replace(folder / "oci-layout", _LAYOUT, self._partial)
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
        """Stores content that is at hand. Blocks. Raises DigestMismatch or OSError."""
        if hashlib.new(digest.algorithm, content).hexdigest() != digest.encoded:
            raise DigestMismatch(f"the bytes are not of {digest}")
        final = self._path(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        replace(final, content, self._partial, sync=True)
        sync_folder(final.parent)

    def begin(self, digest: Digest) -> Partial:
        """The file that content is downloaded to. Blocks. Raises OSError."""
        final = self._path(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        return Partial(self._partial / f"{digest.algorithm}-{digest.encoded}", final, digest)

    def sweep(self) -> None:
        """Removes what a killed process was preparing, as far as it can be. For when a proxy starts."""
        with contextlib.suppress(OSError):
            for file in self._partial.iterdir():
                if not _RESUMABLE.fullmatch(file.name):
                    file.unlink(missing_ok=True)

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
        replace(self.folder / "index.json", json.dumps(document).encode(), self._partial)

    def _path(self, digest: Digest) -> Path:
        return self.folder / "blobs" / digest.algorithm / digest.encoded
