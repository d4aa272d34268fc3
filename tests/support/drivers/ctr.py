"""ctr, containerd's own command."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from support.drivers.driver import NO_COMMAND, VARIABLES, Driver, Login, Machine
from support.processes import clean_env
from support.table import Column

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping


class Ctr(Driver):
    row = "containerd's ctr 1.6"
    told = f"{VARIABLES} of ctr, not of containerd"
    programs = ("ctr", "containerd")
    asks_version = ("ctr", "--version")
    notes: ClassVar[Mapping[Column, str]] = {
        Column.PRIVATE: "It keeps no logins: `--user` with each command.",
    }
    lacks: ClassVar[Mapping[Column, str]] = {Column.BUILD: NO_COMMAND}

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        self._environment = clean_env(self.home, **machine.environment)
        self._options: list[str] = []

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.machine.containerd.ctr(*args, env=self._environment)

    def pull(self, name: str) -> set[str]:
        self.call("images", "pull", "--snapshotter=native", "--all-platforms", *self._options, name)
        return set(self.call("content", "ls", "--quiet").stdout.split())

    def forget(self) -> None:
        names = self.call("images", "ls", "--quiet").stdout.split()
        if names:
            self.call("images", "rm", "--sync", *names)
        assert self.call("content", "ls", "--quiet").stdout == ""

    def login(self, login: Login) -> None:
        self._options = ["--user", f"{login.user}:{login.password}"]

    def push(self, name: str, target: str) -> None:
        self.pull(name)
        self.call("images", "push", *self._options, target, name)

    def show_lack(self, column: Column) -> None:
        assert "build" not in self.call("images", "--help").stdout.split()
        assert "build" not in self.call("--help").stdout.split()
