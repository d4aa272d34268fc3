"""Blobs on disk, laid out as an OCI image layout, so that any OCI tool can read the cache.

oci-layout  index.json  blobs/<algorithm>/<encoded>     image-spec, "Image Layout"
partial/                                                downloads that are not verified yet (see partial.py)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from addon.cache.incoming import Incoming
from addon.cache.partial import Claim, DigestMismatch, Partial, replace, sync_folder
from addon.oci import MAX_MANIFEST, Digest, OciError, media_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The annotation in index.json that says whether everybody may read a tag's repository.
PUBLIC = "mirrortap.public"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_RESUMABLE = re.compile(r"[a-z0-9]+-[0-9a-f]+(\.json)?")


class StoreError(Exception):
    """The cache folder cannot be used; the message names it, and the remedy."""


@dataclass(frozen=True)
class File:
    """Content on disk: `size` in bytes, `modified` in seconds since the epoch."""

    digest: Digest
    size: int
    modified: float


class Store:
    """The content cached under `folder`."""

    def __init__(self, folder: Path) -> None:
        """Makes the layout where it is missing. Raises StoreError."""
        self.folder = folder
        self._partial = folder / "partial"
        self._blobs = folder / "blobs"
        self._files = str(self._blobs)  # pathlib would cost a hit more than its system calls do
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            # Not unless it has to be: on a full disk, what makes room must be able to open the cache.
            if not _says(folder / "oci-layout", _LAYOUT):
                replace(folder / "oci-layout", _LAYOUT, self._partial)
            if not (folder / "index.json").exists():
                self.write_index(())
        except OSError as error:
            raise StoreError(
                f"{folder}: the cache cannot be written: {error.strerror}; choose another folder with --data"
            ) from None

    def status(self, digest: Digest) -> os.stat_result | None:
        """Of the content's file, None when it is not here."""
        try:
            return os.stat(self._file(digest))
        except OSError:
            return None

    def size(self, digest: Digest) -> int | None:
        """Bytes of the content, None when it is not here."""
        status = self.status(digest)
        return status.st_size if status else None

    def open(self, digest: Digest) -> int:
        """A descriptor on the content, which is not evicted as long as it is open. Raises OSError."""
        fd = os.open(self._file(digest), os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            # Refused by whoever is just evicting it, which a descriptor outlives, or has just downloaded it and keeps
            # a lock as long as somebody reads it.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return fd

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """The content when it is here and has at most `limit` bytes."""
        try:
            with open(self._file(digest), "rb", buffering=0) as file:
                return file.read() if os.fstat(file.fileno()).st_size <= limit else None
        except OSError:
            return None

    def add(self, digest: Digest, content: bytes) -> None:
        """Stores content that is at hand. Blocks. Raises DigestMismatch or OSError."""
        if hashlib.new(digest.algorithm, content).hexdigest() != digest.encoded:
            raise DigestMismatch(f"the bytes are not of {digest}")
        final = self.path(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        replace(final, content, self._partial, sync=True)
        sync_folder(final.parent)

    def begin(self, digest: Digest) -> Partial:
        """The file that content is downloaded to. Blocks. Raises OSError."""
        final = self.path(digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        return Partial(self._downloading(digest), final, digest)

    def settle(self, digest: Digest, size: int | None) -> None:
        """Waits for a download of which all bytes have come, for clients have them before the disk. Blocks.

        Raises OSError.
        """
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(self._downloading(digest), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size == size:
                    fcntl.flock(fd, fcntl.LOCK_SH)
            finally:
                os.close(fd)

    def _downloading(self, digest: Digest) -> Path:
        return self._partial / f"{digest.algorithm}-{digest.encoded}"

    def receive(self, algorithm: str = "sha256") -> Incoming:
        """A file for content that comes from an operator, to be hashed so. Blocks. Raises OSError."""
        return Incoming(self._partial, self.path, algorithm)

    def contents(self) -> Iterator[File]:
        """All the content that is here. Raises OSError."""
        for entry, digest in self._entries():
            if digest:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield File(digest, status.st_size, status.st_mtime)

    def strays(self) -> Iterator[Path]:
        """Files and folders among the content that are none. Raises OSError."""
        return (Path(entry.path) for entry, digest in self._entries() if not digest)

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], Digest | None]]:
        for folder in _listed(self._blobs):
            if Digest(folder.name, "").verifiable and folder.is_dir():
                for entry in _listed(Path(folder.path)):
                    yield entry, _digest(folder.name, entry.name) if entry.is_file(follow_symlinks=False) else None
            else:
                yield folder, None

    def partials(self) -> list[File]:
        """What is being downloaded, or was, by any process; the oldest first. Raises OSError."""
        found: dict[Digest, File] = {}
        for entry in _listed(self._partial):
            algorithm, _, encoded = entry.name.removesuffix(".json").partition("-")
            if (digest := _digest(algorithm, encoded)) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    before = found.get(digest, File(digest, 0, 0.0))
                    found[digest] = File(digest, before.size + status.st_size, max(before.modified, status.st_mtime))
        return sorted(found.values(), key=lambda file: file.modified)

    def remove(self, digest: Digest) -> None:
        """Removes content that is damaged, whoever reads it. Raises OSError."""
        self.path(digest).unlink(missing_ok=True)

    def evict(self, digest: Digest) -> bool:
        """Removes content unless somebody reads it, in any process; whether it is gone. Raises OSError."""
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self.remove(digest)
            return True
        finally:
            os.close(fd)

    def drop(self, digest: Digest) -> bool:
        """Removes what is left of a download unless it goes on, in any process; whether it is gone. Raises OSError."""
        partial = self.begin(digest)
        try:
            ours = partial.claim() is Claim.OURS
            if ours:
                partial.drop()
            return ours
        finally:
            partial.close()

    def sweep(self) -> None:
        """Removes what a killed process was preparing, as far as it can be. For when a proxy starts."""
        with contextlib.suppress(OSError):
            for file in self._partial.iterdir():
                if not _RESUMABLE.fullmatch(file.name) and not _is_locked(file):
                    file.unlink(missing_ok=True)

    def write_index(self, references: Iterable[tuple[str, Digest, bool]]) -> None:
        """Rewrites index.json from (reference, digest, whether everybody may read it), the newest first.

        Blocks. Raises OSError. Of a reference that pointed at several manifests, the newest that is here is listed.
        """
        entries: dict[str, dict[str, object]] = {}
        for reference, digest, public in references:
            if reference in entries:
                continue
            content = self.read(digest, MAX_MANIFEST)
            if content is not None and (type_ := media_type(content)):
                entries[reference] = {
                    "mediaType": type_,
                    "digest": str(digest),
                    "size": len(content),
                    "annotations": {
                        "org.opencontainers.image.ref.name": reference,
                        PUBLIC: json.dumps(public),
                    },
                }
        document = {"schemaVersion": 2, "manifests": list(entries.values())}
        replace(self.folder / "index.json", json.dumps(document).encode(), self._partial)

    def path(self, digest: Digest) -> Path:
        """Where the content is, or would be."""
        return Path(self._file(digest))

    def _file(self, digest: Digest) -> str:
        return f"{self._files}/{digest.algorithm}/{digest.encoded}"


def _says(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


def _is_locked(file: Path) -> bool:
    """Whether a process that lives is writing it. Raises OSError."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _listed(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return


def _digest(algorithm: str, encoded: str) -> Digest | None:
    """What a file's name says that is in it."""
    try:
        digest = Digest.parse(f"{algorithm}:{encoded}")
    except OciError:
        return None
    return digest if digest.verifiable else None
