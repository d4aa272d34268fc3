"""A download's file on disk, shared by processes: whoever holds its lock writes it, the others follow it.

partial/<algorithm>-<encoded>        what has come so far; locked (flock) by the process that downloads it
partial/<algorithm>-<encoded>.json   what that process knows of it, for the others
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from addon.cache.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Buffer
    from pathlib import Path

    from addon.oci import Digest

_CHUNK = 1 << 20


class DigestMismatch(Exception):
    """The content is not what its digest says."""


class Claim(Enum):
    """What became of a file that somebody wants to write."""

    OURS = "ours"  # nobody else writes it, and nobody else will
    TAKEN = "taken"  # another is writing it
    COMPLETE = "complete"  # it is in the store
    DROPPED = "dropped"  # whoever wrote it has thrown it away


@dataclass(frozen=True)
class Facts:
    """What the writer knows of the content. `size` in bytes, None when it was not announced."""

    source: str  # the endpoint's name
    size: int | None
    media_type: str | None
    verified: bool = False
    ahead: bool = False  # whether it was begun before any client asked for it


_FACTS = TypeAdapter(Facts)


class Partial:
    """One process's hold on the file. Its methods block, but for `claim`, `facts` and `reader`."""

    def __init__(self, path: Path, final: Path, digest: Digest) -> None:
        """Opens the file, or makes it. Raises OSError."""
        self._path = path
        self._final = final
        self._digest = digest
        self._hash = hashlib.new(digest.algorithm)
        self.written = 0  # bytes that are in the hash, too
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ours = False

    def claim(self) -> Claim:
        """Takes the lock, if it is free. Raises OSError."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            got = True
        except BlockingIOError:
            got = False
        # The last one who had the lock may have moved the file, or removed it.
        if _same(self._fd, self._path):
            self._ours = got
            if got and self.size == 0 and self._stored_meanwhile():
                return Claim.COMPLETE
            return Claim.OURS if got else Claim.TAKEN
        return Claim.COMPLETE if _same(self._fd, self._final) else Claim.DROPPED

    def _stored_meanwhile(self) -> bool:
        """Whether this file was made just after another process had moved the one before; then it is that one's."""
        try:
            fd = os.open(self._final, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self.drop()
        os.close(self._fd)
        self._fd, self._ours = fd, False
        return True

    @property
    def size(self) -> int:
        """Bytes in the file, whoever wrote them."""
        return os.fstat(self._fd).st_size

    def reader(self) -> int:
        """A descriptor for positional reads; good for as long as the caller keeps it. Raises OSError."""
        return os.dup(self._fd)

    def facts(self) -> Facts | None:
        """What the writer has said, if it has."""
        try:
            return _FACTS.validate_json(self._facts_path.read_bytes(), strict=True)
        except (OSError, ValidationError):
            return None

    # For the owner alone.

    def announce(self, facts: Facts) -> None:
        """Tells the other processes. Raises OSError."""
        replace(self._facts_path, _FACTS.dump_json(facts), self._path.parent)

    def resumable(self) -> int:
        """Bytes that a killed process left here, to go on from."""
        # All but the last: so there is always something to ask for, and an endpoint to say what the whole is.
        length = max(0, self.size - 1)
        os.ftruncate(self._fd, length)
        return length

    def restart(self) -> None:
        """Forgets what is here."""
        os.ftruncate(self._fd, 0)
        self.written = 0
        self._hash = hashlib.new(self._digest.algorithm)

    def take_in(self) -> None:
        """Hashes what is here already, to write on from there. Raises OSError."""
        while data := os.pread(self._fd, _CHUNK, self.written):
            self._hash.update(data)
            self.written += len(data)

    def write(self, data: Buffer) -> None:
        """Raises OSError; `written` says how far it came."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, self.written)
            self._hash.update(view[:count])
            self.written += count
            view = view[count:]

    def hash(self) -> hashlib._Hash:
        """The state after `written` bytes."""
        return self._hash.copy()

    def spool(self) -> Spool:
        """For what comes ahead of its turn. Raises OSError."""
        return Spool(self._path.parent)

    def verify(self) -> None:
        """Raises DigestMismatch when the content is not what it should be."""
        if self._hash.hexdigest() != self._digest.encoded:
            raise DigestMismatch(f"the bytes have digest {self._digest.algorithm}:{self._hash.hexdigest()}")

    def commit(self) -> None:
        """Makes the content visible, for good, if it verifies. Raises DigestMismatch or OSError."""
        self.verify()
        os.fchmod(self._fd, 0o644)
        os.fsync(self._fd)
        # First: facts without a file are of no harm, but those of an older file would be taken for a newer one's.
        self._facts_path.unlink(missing_ok=True)
        os.replace(self._path, self._final)
        sync_folder(self._final.parent)

    def drop(self) -> None:
        """Throws away what has come: it is of no use to anybody."""
        if self._ours and _same(self._fd, self._path):
            with contextlib.suppress(OSError):
                self._facts_path.unlink(missing_ok=True)
                self._path.unlink()

    def close(self) -> None:
        """To be called last. What is not committed nor dropped stays, for whoever wants to go on with it."""
        if self._ours and self.size == 0:
            self.drop()
        # Readers have the same lock, and may keep it for long: what is complete they only keep from being evicted.
        complete = _same(self._fd, self._final)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB if complete else fcntl.LOCK_UN)
        os.close(self._fd)

    @property
    def _facts_path(self) -> Path:
        return self._path.with_name(self._path.name + ".json")


def replace(path: Path, content: bytes, folder: Path, *, sync: bool = False) -> None:
    """Writes a file in one go; `folder`, of the same file system, is where it is prepared. Raises OSError."""
    fd, name = tempfile.mkstemp(prefix=".new-", dir=folder)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


def sync_folder(folder: Path) -> None:
    """Makes what was renamed in there survive a power cut. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
