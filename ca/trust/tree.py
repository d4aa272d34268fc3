"""Files below a root: "/", a scratch root, or an image's tree that must not lead out of itself."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path, PurePosixPath

from ca.trust.errors import TrustError


class Tree:
    def __init__(self, root: str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise TrustError(f"{root}: is not a folder; --root wants the root of a system's or an image's tree")
        self.whole = self.root.resolve() == Path("/")

    def real(self, path: PurePosixPath) -> Path:
        """Where `path` is. Raises TrustError when a link in the tree leads out of it, to this machine's own files."""
        found = self.root / path.relative_to("/")
        if not found.resolve().is_relative_to(self.root.resolve()):
            raise TrustError(f"{found}: a link leads out of {self.root}, to {found.resolve()}; nothing is done there")
        return found

    def read(self, path: PurePosixPath) -> bytes | None:
        """None when there is nothing of that name. Raises TrustError when it is no plain file."""
        real = self.real(path)
        try:
            if real.is_symlink() or (real.exists() and not real.is_file()):
                raise TrustError(f"{real}: is not a plain file; move it away first")
            return real.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed(real, "read", error) from None

    def names(self, folder: PurePosixPath) -> list[PurePosixPath]:
        try:
            return sorted(folder / name for name in os.listdir(self.real(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _failed(self.real(folder), "read", error) from None

    def exists(self, path: PurePosixPath) -> bool:
        return self.real(path).exists()

    def make_folders(self, folder: PurePosixPath) -> list[PurePosixPath]:
        """Those that were not there, outermost first."""
        made = []
        for each in [*reversed(folder.parents), folder]:
            real = self.real(each)
            if real.is_dir():
                continue
            try:
                real.mkdir()
                real.chmod(0o755)  # whatever the umask: daemons of other users read there
            except OSError as error:
                raise _failed(real, "made", error) from None
            made.append(each)
        return made

    def mode(self, path: PurePosixPath) -> int:
        return self.real(path).stat().st_mode & 0o7777

    def write(self, path: PurePosixPath, data: bytes, mode: int = 0o644) -> None:
        """Whole or not at all, and with that mode whatever the umask."""
        real = self.real(path)
        temporary = real.with_name(f".{real.name}.{secrets.token_hex(8)}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
            os.replace(temporary, real)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _failed(real, "written", error) from None

    def remove(self, path: PurePosixPath) -> None:
        try:
            self.real(path).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self.real(path), "removed", error) from None

    def remove_folder(self, folder: PurePosixPath) -> bool:
        """Whether it is gone; it stays when something is in it."""
        try:
            self.real(folder).rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
                return False
            raise _failed(self.real(folder), "removed", error) from None
        return True


def _failed(path: Path, what: str, error: OSError) -> TrustError:
    denied = error.errno in (errno.EACCES, errno.EPERM)
    remedy = "run this as root, with sudo" if denied and os.geteuid() else "see to that, and run this again"
    return TrustError(f"{path}: cannot be {what}: {error.strerror}; {remedy}")
