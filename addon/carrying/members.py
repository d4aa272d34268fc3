"""The members of an archive, one after another: of a tar as it is read, or of a folder that holds an image layout.

Whatever an archive claims, no more than this is taken in of it: nothing is unpacked, no name is followed.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import zstandard

from addon.carrying import names
from addon.carrying.names import BadArchive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# So many members an archive may have: thousands of images.
_MOST = 200_000
# Bytes that a header may take which says more of the next member (long names, pax records); how many of these may
# follow one another; and how many that count for all that follows.
_HEADER = 64 << 10
_CHAIN = 4
_GLOBAL = 16
# Bytes of the window that a zstd archive may want.
_WINDOW = 128 << 20
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file of `size` bytes, to be read before the next one is asked for; or a link to another member."""

    name: str
    size: int
    file: IO[bytes] | None
    target: str = ""


@contextmanager
def opened(path: Path | None) -> Iterator[Iterator[Member]]:
    """Those of a tar, a compressed one, a folder, or of standard input (None).

    Raises BadArchive, also where a member is read, or OSError.
    """
    if path is not None and path.is_dir():
        yield _of_folder(path)
        return
    with ExitStack() as stack:
        raw = stack.enter_context(open(0 if path is None else path, "rb", buffering=0, closefd=path is not None))
        try:
            yield _of_tar(stack.enter_context(io.BufferedReader(raw, _BUFFER)))
        except (tarfile.TarError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, EOFError) as error:
            raise _unreadable(error) from None


def _of_tar(file: io.BufferedReader) -> Iterator[Member]:
    with tarfile.open(fileobj=_decompressed(file), mode="r|", bufsize=_BUFFER, tarinfo=_careful()) as tar:
        for _ in range(_MOST):
            try:
                info = tar.next()
            except ValueError as error:  # a number in a header is none
                raise _unreadable(error) from None
            if info is None:
                return
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if member := _member(tar, info):
                yield member
        raise BadArchive(f"it has more than {_MOST} members, which no archive of images needs")


def _unreadable(error: Exception) -> BadArchive:
    why = str(error) or type(error).__name__
    why = why if why.isprintable() else ascii(why)
    return BadArchive(f"it cannot be read as a tar ({why}): it is damaged, cut off, or no archive")


def _decompressed(file: io.BufferedReader) -> IO[bytes] | gzip.GzipFile:
    start = file.peek(4)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(file)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file, read_across_frames=True)
    return file


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member | None:
    name = names.clean(info.name)
    if info.isdir():
        return None
    if info.issym():
        return Member(name, 0, None, info.linkname)
    if not info.isreg() or info.size < 0:
        raise BadArchive(f"{names.shown(name)}: is neither a file nor a folder, and no archive of images needs it")
    return Member(name, info.size, tar.extractfile(info))


def _careful() -> type[tarfile.TarInfo]:
    """A reader of headers for one archive. `tarfile` would take what they claim into memory."""
    chain = everywhere = 0

    class Careful(tarfile.TarInfo):
        # "The entry point is _proc_member() which can be overridden in a subclass" (tarfile.py).
        def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
            nonlocal chain, everywhere
            if self.type == tarfile.GNUTYPE_SPARSE:
                self._proc_gnusparse_00(self)
            says_more = self.type in (
                *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
                *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
            )
            chain = chain + 1 if says_more else 0
            everywhere += self.type == tarfile.XGLTYPE
            if says_more and (not 0 <= self.size <= _HEADER or chain > _CHAIN or everywhere > _GLOBAL):
                raise BadArchive(f"{names.shown(self.name)}: says more of another member than an archive of images may")
            found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
            return found

        def _proc_gnusparse_00(self, member: tarfile.TarInfo, *_: Any) -> None:
            raise BadArchive(f"{names.shown(member.name)}: is a sparse file, which no archive of images needs")

        _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00

    return Careful


def _of_folder(folder: Path) -> Iterator[Member]:
    """Of an image layout; whatever else is in the folder is left alone."""
    blobs = folder / "blobs"
    found = [folder / name for name in (names.LAYOUT, names.INDEX)]
    if blobs.is_dir():
        found += (path for algorithm in sorted(blobs.iterdir()) if algorithm.is_dir() for path in algorithm.iterdir())
    for path in found:
        name = names.clean(str(path.relative_to(folder)))
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise BadArchive(f"{names.shown(name)}: is no file")
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            yield Member(name, os.fstat(file.fileno()).st_size, file)
