"""Files without a name: whatever is in them is gone when the process is."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Buffer
    from pathlib import Path


class Spool:
    """Bytes that are put aside by one thread and read by another, while more of them come. Blocks."""

    def __init__(self, folder: Path) -> None:
        """Made in that folder. Raises OSError."""
        # O_TMPFILE (open(2)), or unlinked at once where the file system has none.
        self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 (closed by `close`)
        self._open = threading.Lock()  # a descriptor that is closed may be another file's next
        self.landed = 0

    def write(self, data: Buffer) -> None:
        """Raises OSError."""
        view = memoryview(data)
        with self._open:
            while view:
                count = os.pwrite(self._file.fileno(), view, self.landed)
                self.landed += count
                view = view[count:]

    def read(self, buffer: memoryview, offset: int) -> int:
        """Bytes that were read into the buffer, of those that have landed. Raises OSError."""
        return os.preadv(self._file.fileno(), [buffer[: self.landed - offset]], offset)

    @property
    def free(self) -> int:
        """Bytes that are free where it is. Raises OSError."""
        status = os.fstatvfs(self._file.fileno())
        return status.f_bavail * status.f_frsize

    def rewind(self) -> None:
        """Forgets what is in it. The file keeps its length: its pages are at hand, new ones would cost more."""
        self.landed = 0

    def close(self) -> None:
        with self._open:
            self._file.close()
