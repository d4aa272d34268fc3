"""What is wanted, and what a target makes of it. Plain values; paths are absolute and seen from inside the root."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca.trust.certificates import Bundle


@dataclass(frozen=True)
class System:
    """What tells kinds of operating systems apart: ID and ID_LIKE of os-release(5), and the folders that exist."""

    ids: tuple[str, ...] = ()
    folders: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wanted:
    bundle: Bundle | None
    """None: for taking back, and for targets that name the CA without holding it."""
    hosts: tuple[str, ...] = ()
    """`host` or `host:port`, in lower case; Docker Hub is docker.io."""
    proxy: str = "http://PROXY:3128"
    system: System = System()
    home: PurePosixPath | None = None
    """Of a user who installs for himself; None: for everybody on the machine."""
    image: str = "busybox"
    """A container image with sh and nsenter, for cluster nodes."""
    remove: bool = False

    @property
    def pem(self) -> bytes:
        return self.bundle.pem if self.bundle else b""


@dataclass(frozen=True)
class Hides:
    """Once `by` exists, the client no longer reads what is in `folders`."""

    by: PurePosixPath
    folders: tuple[PurePosixPath, ...]
    remedy: str


@dataclass(frozen=True)
class Put:
    """A file that is ours alone."""

    path: PurePosixPath
    data: bytes
    host: str = ""
    hides: Hides | None = None
    lines: str = ""
    """What a person can add to the file that is there, when that is not ours."""


@dataclass(frozen=True)
class Refresh:
    """A program that makes the system's bundle from its certificates."""

    argv: tuple[str, ...]
    bundle: PurePosixPath
    package: str
    after_removal: tuple[str, ...] = ()
    """What else it needs to notice that certificates are gone."""


@dataclass(frozen=True)
class Plan:
    puts: tuple[Put, ...] = ()
    complete: bool = False
    """These files are all that the target has: older ones of ours that are not among them go."""
    refresh: Refresh | None = None
    document: str = ""
    """For another machine: printed, or written where the person wants it."""
    next: str = ""
    undone: str = ""


@dataclass(frozen=True)
class Place:
    """The tree that is worked on, and where in it is written down what was done there."""

    root: str = "/"
    record: PurePosixPath = field(default=PurePosixPath("/var/lib/mirrortap/trust.json"))
