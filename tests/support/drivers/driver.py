"""What the table of clients asks of each client, and the machine that they run on."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from support.images import Image, MultiArch, here, parts
from support.processes import Failed, clean_env, run
from support.programs import Containerd, Dockerd, containerd, dockerd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.table import Column

NO_COMMAND = "It has no command for that."
VARIABLES = "`HTTPS_PROXY`, `SSL_CERT_FILE`"


@dataclass(frozen=True)
class Login:
    host: str
    user: str
    password: str


class Machine:
    """Its daemons start when the first client needs them, and end with it.

    Everything on it is told of the proxy and its CA, or, with `mirror` (host:port), of that mirror and nothing else.
    """

    def __init__(
        self, folder: Path, *, proxy: str | None = None, ca: Path | None = None, mirror: str | None = None
    ) -> None:
        self.folder = folder
        self.proxy = proxy
        self.ca = ca
        self.mirror = mirror
        self.environment = {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(ca)} if proxy else {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @cached_property
    def dockerd(self) -> Dockerd:
        settings = {"registry-mirrors": [f"http://{self.mirror}"]} if self.mirror else {}
        return self._stack.enter_context(dockerd(self.folder / "dockerd", json.dumps(settings), **self.environment))

    @cached_property
    def containerd(self) -> Containerd:
        """Told nothing: ctr 1.6 talks to registries itself."""
        return self._stack.enter_context(containerd(self.folder / "containerd"))


class Driver(ABC):
    """One client, used by one person, in a home of its own. What goes wrong raises `processes.Failed`."""

    row: ClassVar[str]
    told: ClassVar[str] = VARIABLES  # Markdown: what has to be set for it
    programs: ClassVar[tuple[str, ...]]
    asks_version: ClassVar[tuple[str, ...]]
    notes: ClassVar[Mapping[Column, str]] = {}  # how it works, where that is not plain
    says_refused: ClassVar[str] = "unauthorized|UNAUTHORIZED|denied|authentication required"
    lacks: ClassVar[Mapping[Column, str]] = {}  # why it cannot; `show_lack` shows that it is so

    def __init__(self, machine: Machine, user: str) -> None:
        self.machine = machine
        self.home = machine.folder / f"{type(self).__name__.lower()}-{user}"
        self.home.mkdir(parents=True)

    @classmethod
    def version(cls, folder: Path) -> str:
        """What the program says of itself: `ctr github.com/containerd/containerd 1.6.20`, without the words."""
        said = run(cls.asks_version, env=clean_env(folder)).stdout
        found = re.search(r"\d+\.\d+[\w.+~-]*", said)
        assert found, said
        return found[0]

    @abstractmethod
    def pull(self, name: str) -> set[str]:
        """The digests of what it now holds of the image, as `holds` expects them."""

    def holds(self, image: Image | MultiArch) -> set[str]:
        """What a pull must give: here, everything, of every architecture."""
        return set(parts(image))

    def called(self, name: str) -> str:
        """What it has to call an image of a registry other than Docker Hub."""
        return name

    def forget(self) -> None:  # noqa: B027 - most pull into a new folder each time
        """What it pulled: the next pull asks the proxy for all of it."""

    @abstractmethod
    def login(self, login: Login) -> None: ...

    # A client that can, or that is said not to (`lacks`), has its own of these.

    def push(self, name: str, target: str) -> None:
        """The image `name`, which it holds, as `target`."""
        raise Failed(f"{self.row}: no push, and nothing in `lacks` that says why")

    def build(self, dockerfile: str) -> str:
        """What it says while it builds that."""
        raise Failed(f"{self.row}: no build, and nothing in `lacks` that says why")

    def show_lack(self, column: Column) -> None:
        """Fails unless the program itself shows that it cannot."""
        raise Failed(f"{self.row}: nothing shows that it cannot: {column}")

    def context(self, dockerfile: str) -> Path:
        """A folder to build in."""
        folder = self.home / "context"
        folder.mkdir(exist_ok=True)
        (folder / "Dockerfile").write_text(dockerfile)
        return folder


def unpacked(image: Image | MultiArch) -> set[str]:
    """What a daemon shows of an image it unpacked: the digest of what its name stands for, and its layers' diff IDs."""
    return {image.top.digest, *json.loads(here(image).config.data)["rootfs"]["diff_ids"]}
