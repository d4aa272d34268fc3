"""Network namespaces of a test's own, wired to each other. They have no names: they go with whoever is in them."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from support.processes import clean_env, require, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Network:
    """A machine as far as its network goes. Only root can make one."""

    def __init__(self, home: Path) -> None:
        require("ip", "nft", "mount")
        if os.geteuid() != 0:
            pytest.skip("only root can make a network namespace")
        self._env = clean_env(home)
        self._links = 0
        outside = _namespace("net")
        os.unshare(os.CLONE_NEWNET)
        try:
            self._here = _namespace("net")
        finally:
            _enter(outside, os.CLONE_NEWNET)
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._here)

    def run(self, *argv: str | Path) -> None:
        with self.inside():
            run(argv, env=self._env)

    def connect(self, address: str, other: Network, others: str) -> None:
        """A cable to another one; the ends' addresses are given with the length of their prefix."""
        mine, theirs = f"link{self._links}", f"link{other._links}"
        self._links += 1
        other._links += 1
        far = f"/proc/{os.getpid()}/fd/{other._here}"
        self.run("ip", "link", "add", mine, "type", "veth", "peer", "name", theirs, "netns", far)
        for network, link, own in (self, mine, address), (other, theirs, others):
            network.run("ip", "address", "add", own, "dev", link, "nodad")
            network.run("ip", "link", "set", link, "up")

    @contextmanager
    def inside(self, hosts: Path | None = None) -> Iterator[None]:
        """Until the block ends, this thread, and the threads and programs that it starts, are in it.

        `hosts`: what they see as /etc/hosts.
        """
        outside = _namespace("net")
        os.setns(self._here, os.CLONE_NEWNET)
        try:
            if hosts:
                with _hosts(hosts, self._env):
                    yield
            else:
                yield
        finally:
            _enter(outside, os.CLONE_NEWNET)


@contextmanager
def _hosts(hosts: Path, env: dict[str, str]) -> Iterator[None]:
    outside, folder = _namespace("mnt"), os.getcwd()
    os.unshare(os.CLONE_NEWNS)
    try:
        run(["mount", "--make-rprivate", "/"], env=env)
        run(["mount", "--bind", hosts, "/etc/hosts"], env=env)
        yield
    finally:
        _enter(outside, os.CLONE_NEWNS)
        os.chdir(folder)


def _namespace(kind: str) -> int:
    return os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _enter(namespace: int, kind: int) -> None:
    os.setns(namespace, kind)
    os.close(namespace)


def socket_of(user: int, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    """A socket that the kernel takes for that of another user."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(user)
    try:
        return socket.socket(family)
    finally:
        libc.setfsuid(os.geteuid())
