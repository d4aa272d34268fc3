"""The shell blocks of the documentation run as they are written, each page's in their order (see support.pages).

On an island, where registries' names lead to loopback, /etc and /var/lib are its own, and all else can only be read: no
character of a command is changed. Proxy and builder have a home, a folder and an environment each.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.images import make_index
from support.island import Island
from support.pages import Block, Page, pages
from support.processes import Failed, Program, clean_env, needs, run
from support.proxy import ROOT
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.certificates import Authority

pytestmark = needs("skopeo", "buildah", "podman", "docker-registry", "curl", "ip", "mount", "busybox")

BIN = Path(sys.executable).parent
REGISTRIES = {"mirror.gcr.io": "192.0.2.1", "registry-1.docker.io": "192.0.2.2"}
ETC = {
    "docker/daemon.json": '{"registry-mirrors": ["https://mirror.gcr.io"]}',
    "containerd/certs.d/docker.io/hosts.toml": '[host."https://mirror.gcr.io"]\n',
    # Read by skopeo as well, which is to know of no mirror.
    "containers/registries.conf": '[[registry]]\nlocation = "quay.io"\n',
    "containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
}


PAGES = [page for page in pages() if any(block.is_run for block in page.blocks())]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands see of one, whose .venv is the one that the tests run in, and ready."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    for name in "addon", "pyproject.toml", "constraints.txt":
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(BIN)
    ready = 'source scripts/lib.sh && echo "$(key) dev" >"$stamp"'
    run(["bash", "-c", ready], env={"PATH": os.environ["PATH"]}, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Island]:
    folder = tmp_path_factory.mktemp("documented")
    image = make_index(folder / "image", "3.20", layer_sizes=(), busybox=True)
    etc = {name: text.encode() for name, text in ETC.items()}
    with Island(folder / "island", {"localhost": "127.0.0.1"} | REGISTRIES, etc) as island:
        (folder / "lib").mkdir()
        for name, address in REGISTRIES.items():
            registry = FakeRegistry(tls=authority, names=(name,), at=(address, 443))
            island.enter(registry).add(image, "library/alpine")
        _keep_from_harm(island, folder, tmp_path_factory.getbasetemp())
        yield island


def _keep_from_harm(island: Island, folder: Path, scratch: Path) -> None:
    """A command that was to be marked as not for this machine fails, for it can write nothing and reach no daemon."""
    for mount in (
        ("--bind", folder / "lib", "/var/lib"),
        ("-t", "tmpfs", "tmpfs", "/run"),
        ("--rbind", scratch, scratch),
        ("-o", "remount,bind,ro", folder / "island" / "real"),
        ("-o", "remount,bind,ro", "/"),
    ):
        island.do(run, ["mount", *mount], env={"PATH": os.environ["PATH"]})


class Shell:
    """One machine's, whose variables and folder stay from block to block."""

    def __init__(self, island: Island, checkout: Path, home: Path, **more: str) -> None:
        self._island = island
        self._state = home / "variables"
        self.folder = home / "checkout"
        self.folder.mkdir(parents=True)
        for name in ".venv", "addon", "scripts":
            (self.folder / name).symlink_to(checkout / name)
        path = f"{BIN}:{os.environ['PATH']}"
        self._env = clean_env(home, PYTHONUNBUFFERED="1", BUILDAH_ISOLATION="chroot", **more) | {"PATH": path}
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/graph"\nrunroot = "{home}/run"\n'
        (home / "storage.conf").write_text(storage)
        self._env["CONTAINERS_STORAGE_CONF"] = str(home / "storage.conf")
        self._state.write_text("")

    def run(self, script: str) -> None:
        text = f"set -euo pipefail\n. {self._state}\n{script}\nexport -p >{self._state}\n"
        self._island.do(run, ["bash", "-c", text], env=self._env, cwd=self.folder)

    def serve(self, command: str) -> Program:
        """What it starts, with all that it writes in `out`."""
        text = f". {self._state}\nexec 2>&1\nexec env {command}"
        return self._island.do(Program, ["bash", "-c", text], env=self._env, cwd=self.folder)


class Reader:
    """Who does what a page says, from its top to its end."""

    def __init__(self, island: Island, checkout: Path, page: Page, folder: Path, authority: Authority) -> None:
        self._of_a_builder = page.path.parent.name == "builders"
        self._proxy = Shell(island, checkout, folder / "proxy", SSL_CERT_FILE=str(authority.file))
        self._builder = Shell(island, checkout, folder / "builder")
        # What configurations of pages name.
        (self._proxy.folder / "internal-ca.pem").write_bytes(authority.file.read_bytes())
        self._serving: dict[Shell, Program] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as stack:
            for program in self._serving.values():
                stack.callback(program.stop)

    def do(self, block: Block) -> None:
        shell = self._builder if self._of_a_builder or "on the builder" in block.comments else self._proxy
        if (self._of_a_builder or "beside the proxy" in block.comments) and self._proxy not in self._serving:
            self._serve(self._proxy, "mirrortap serve")
        if name := block.comments.get("file"):
            (shell.folder / name).write_text(block.text)
        elif "log" in block.comments:
            self._read_log(block.text.splitlines())
        elif "serves" in block.comments:
            self._serve(shell, block.text)
        elif block.is_run:
            shell.run(block.text)

    def _serve(self, shell: Shell, command: str) -> None:
        if shell in self._serving:
            self._serving.pop(shell).stop()
        self._serving[shell] = program = shell.serve(command)
        program.out.wait_for(r"listening (on|at) \S+", timeout=60)

    def _read_log(self, lines: list[str]) -> None:
        log = self._serving[self._proxy].out
        since = 0
        for line in lines:
            log.wait_for(_like(line), since=since)
            since += [bool(re.search(_like(line), said)) for said in log.all(since)].index(True) + 1


def _like(line: str) -> str:
    """A pattern for lines that differ by numbers, by what `...` stands for, and by how far prefetching was, alone."""
    text = re.sub(r"sha256:[0-9a-f]+", "sha256:...", re.sub(r"^\d{4}-\d\d-\d\d \S+ ", "", line))
    parts = re.split(r"(\.\.\.|\b[\d.]+ (?:k|M)?B\b|\b\d+ ms\b)", text)
    pattern = "".join(re.escape(part) if i % 2 == 0 else r"\S+(?: \S*B| ms)?" for i, part in enumerate(parts))
    if " blob " not in line:
        return pattern
    return re.sub(r"(?<=\\ 200\\ )miss\\ from\\ \S+?(?=\\ )", r"(?:\g<0>|hit)", pattern)


@pytest.mark.parametrize("path", ["/usr/share/mirrortap", "/etc/ssl/mirrortap"])
def test_this_machine_comes_to_no_harm(path: str, island: Island, checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="Read-only file system"):
        Shell(island, checkout, tmp_path).run(f"touch {path}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_can_be_done(
    page: Page, island: Island, checkout: Path, tmp_path: Path, authority: Authority
) -> None:
    with Reader(island, checkout, page, tmp_path, authority) as reader:
        for block in page.blocks():
            reader.do(block)
