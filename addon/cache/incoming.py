"""Content that an operator brings: written and hashed, and then put where its digest says."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from typing import TYPE_CHECKING, Self

from addon.cache.partial import DigestMismatch, sync_folder
from addon.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable
    from pathlib import Path


class Incoming:
    """A file in `folder`, until it is kept in its `place`. Its methods block and raise OSError.

    It is locked as long as it is written, so that a proxy that starts meanwhile leaves it alone.
    """

    def __init__(self, folder: Path, place: Callable[[Digest], Path], algorithm: str) -> None:
        self._place = place
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0  # bytes so far
        self._fd, name = tempfile.mkstemp(prefix=".new-", dir=folder)
        self._name: str | None = name
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """What was not kept is gone."""
        if self._name:
            with contextlib.suppress(OSError):
                os.unlink(self._name)
        os.close(self._fd)

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        self._hash.update(view)
        while view:
            count = os.write(self._fd, view)
            self.size += count
            view = view[count:]

    @property
    def digest(self) -> Digest:
        """Of what was written."""
        return Digest(self._algorithm, self._hash.hexdigest())

    def keep(self, digest: Digest | None = None) -> bool:
        """Makes it visible for good; whether it was not in its place already. Raises DigestMismatch."""
        if digest is not None and self.digest != digest:
            raise DigestMismatch(f"the bytes have digest {self.digest}")
        place = self._place(self.digest)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(place).st_size == self.size:
                return False
        place.parent.mkdir(parents=True, exist_ok=True)
        os.fchmod(self._fd, 0o644)
        os.fsync(self._fd)
        assert self._name
        os.replace(self._name, place)
        self._name = None
        sync_folder(place.parent)
        return True
