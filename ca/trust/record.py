"""What was done in a tree, written down in it, so that just that can be undone."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ca.trust.errors import TrustError

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class File:
    target: str
    host: str
    sha256: str
    """Of what we wrote: a file that is no longer that is no longer ours."""
    before: str | None = None
    """Base64 of what was there, when we were told to write over it."""
    mode: int = 0o644
    """Of what was there."""

    @property
    def original(self) -> bytes | None:
        return None if self.before is None else base64.b64decode(self.before)


@dataclass
class Record:
    files: dict[PurePosixPath, File] = field(default_factory=dict)
    folders: set[PurePosixPath] = field(default_factory=set)
    """Those that we made."""

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        try:
            found = json.loads(data)
            files = {PurePosixPath(path): File(**about) for path, about in found["files"].items()}
            return cls(files, {PurePosixPath(path) for path in found["folders"]})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TrustError(
                f"{source}: is not what mirrortap trust wrote there; restore it, or delete it, "
                "and then remove by hand what was installed (docs/trust.md says where that is)"
            ) from None

    def text(self) -> bytes:
        found = {
            "files": {str(path): asdict(about) for path, about in sorted(self.files.items())},
            "folders": sorted(str(folder) for folder in self.folders),
        }
        return json.dumps(found, indent=2).encode() + b"\n"

    def of(self, target: str, hosts: tuple[str, ...] = ()) -> dict[PurePosixPath, File]:
        """The files of a target, for all hosts or for these."""
        return {
            path: about
            for path, about in self.files.items()
            if about.target == target and (not hosts or about.host in hosts)
        }
