"""The Python package oras, in a process of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

from support import oras_program
from support.drivers.driver import NO_COMMAND, Driver, Login, Machine
from support.images import Image, MultiArch, files, sha256
from support.processes import clean_env, run
from support.table import Column

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Oras(Driver):
    row = "oras (Python)"
    told = "`HTTPS_PROXY`, `REQUESTS_CA_BUNDLE`"
    programs = ()
    asks_version = (sys.executable, oras_program.__file__, "version")
    notes: ClassVar[Mapping[Column, str]] = {
        Column.INDEX: "`get_manifest` gives the index, `pull` then the images, by digest.",
        Column.PUSH: 'To a registry that takes user and password: `OrasClient(auth_backend="basic")`.',
    }
    lacks: ClassVar[Mapping[Column, str]] = {Column.BUILD: NO_COMMAND}

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        variables = {"HTTPS_PROXY": str(machine.proxy), "REQUESTS_CA_BUNDLE": str(machine.ca)}
        # The tests' token server is on loopback, where Go programs use no proxy by themselves.
        self._environment = clean_env(self.home, NO_PROXY="127.0.0.1", **variables)
        self._pulled = 0

    def call(self, *args: str | Path) -> str:
        return run([sys.executable, oras_program.__file__, *args], env=self._environment, cwd=self.home).stdout

    def pull(self, name: str) -> set[str]:
        self._pulled += 1
        folder = self.home / f"pulled-{self._pulled}"
        folder.mkdir()
        self.call("pull", name, folder)
        return {sha256(file.read_bytes()) for file in folder.rglob("*") if file.is_file()}

    def holds(self, image: Image | MultiArch) -> set[str]:
        """It unpacks layers, and leaves configs where they are."""
        unpacked = {sha256(data) for each in image.images for data in files(each).values()}
        return {image.top.digest, *(each.manifest.digest for each in image.images), *unpacked}

    def login(self, login: Login) -> None:
        self.call("login", login.host, login.user, login.password)

    def push(self, name: str, target: str) -> None:
        self.call("copy", name, target)

    def show_lack(self, column: Column) -> None:
        assert "build" not in self.call("commands").split()
