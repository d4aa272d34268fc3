"""Clients that no Debian package has: used where they are on PATH."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from support.drivers.driver import NO_COMMAND, Driver, Login, Machine
from support.images import sha256
from support.processes import clean_env, run
from support.table import Column

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path


class _Copying(Driver):
    """They copy images to folders (OCI layouts) and to registries."""

    lacks: ClassVar[Mapping[Column, str]] = {Column.BUILD: NO_COMMAND}

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        self._environment = clean_env(self.home, **machine.environment)
        self._pulled = 0

    @abstractmethod
    def copy_to(self, folder: Path, name: str) -> None: ...

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return run([self.programs[0], *args], env=self._environment)

    def pull(self, name: str) -> set[str]:
        self._pulled += 1
        folder = self.home / f"pulled-{self._pulled}"
        self.copy_to(folder, name)
        return {sha256(file.read_bytes()) for file in folder.rglob("blobs/sha256/*")}

    def show_lack(self, column: Column) -> None:
        assert "build" not in self.call("--help").stdout.split()


class Crane(_Copying):
    row = "crane"
    programs = ("crane",)
    asks_version = ("crane", "version")

    def copy_to(self, folder: Path, name: str) -> None:
        self.call("pull", "--format=oci", name, str(folder))

    def login(self, login: Login) -> None:
        self.call("auth", "login", login.host, f"--username={login.user}", f"--password={login.password}")

    def push(self, name: str, target: str) -> None:
        self.call("copy", name, target)


class Regctl(_Copying):
    row = "regctl"
    programs = ("regctl",)
    asks_version = ("regctl", "version")

    def copy_to(self, folder: Path, name: str) -> None:
        self.call("image", "copy", name, f"ocidir://{folder}")

    def login(self, login: Login) -> None:
        self.call("registry", "login", login.host, f"--user={login.user}", f"--pass={login.password}")

    def push(self, name: str, target: str) -> None:
        self.call("image", "copy", name, target)
