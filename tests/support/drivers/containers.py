"""skopeo, buildah and podman."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from support.clients import Sandbox
from support.drivers.driver import NO_COMMAND, Driver, Login, Machine, unpacked
from support.images import sha256
from support.table import Column

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from support.images import Image, MultiArch


class Containers(Driver):
    """What the three have in common."""

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        self._sandbox = Sandbox(self.home, proxy=machine.proxy, ca=machine.ca)
        Path(self._sandbox.env["XDG_RUNTIME_DIR"]).mkdir()  # where logins are kept

    @abstractmethod
    def call(self, *args: str) -> subprocess.CompletedProcess[str]: ...

    def login(self, login: Login) -> None:
        self.call("login", f"--username={login.user}", f"--password={login.password}", login.host)


class Skopeo(Containers):
    row = "skopeo"
    programs = ("skopeo",)
    asks_version = ("skopeo", "--version")
    lacks: ClassVar[Mapping[Column, str]] = {Column.BUILD: NO_COMMAND}
    _pulled = 0

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self._sandbox.skopeo(*args)

    def pull(self, name: str) -> set[str]:
        self._pulled += 1
        folder = self.home / f"pulled-{self._pulled}"
        self.call("copy", "--quiet", "--all", f"docker://{name}", f"dir:{folder}")
        return {sha256(file.read_bytes()) for file in folder.iterdir()}

    def push(self, name: str, target: str) -> None:
        self.call("copy", "--quiet", "--all", f"docker://{name}", f"docker://{target}")

    def show_lack(self, column: Column) -> None:
        assert "build" not in self.call("--help").stdout.split()


class _Storing(Containers):
    """They unpack what they pull, and build."""

    def holds(self, image: Image | MultiArch) -> set[str]:
        return unpacked(image)

    def forget(self) -> None:
        self.call("rmi", "--all", "--force")

    def push(self, name: str, target: str) -> None:
        self.pull(name)
        self.call("push", self._policy, name, f"docker://{target}")

    def build(self, dockerfile: str) -> str:
        context = self.context(dockerfile)
        said = self.call("build", "--isolation=chroot", self._policy, "--tag=built", str(context))
        return said.stdout + said.stderr

    @property
    def _policy(self) -> str:
        return f"--signature-policy={self._sandbox.policy}"

    def _pull_and_inspect(self, name: str, *inspect: str) -> Any:
        self.call("pull", self._policy, name)
        return json.loads(self.call(*inspect, name).stdout)


class Buildah(_Storing):
    row = "buildah"
    programs = ("buildah", "runc")
    asks_version = ("buildah", "--version")

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self._sandbox.buildah(*args)

    def pull(self, name: str) -> set[str]:
        image = self._pull_and_inspect(name, "inspect", "--type=image")
        (listed,) = json.loads(self.call("images", "--json").stdout)
        return {listed["digest"], image["FromImageDigest"], *image["OCIv1"]["rootfs"]["diff_ids"]}


class Podman(_Storing):
    row = "podman"
    programs = ("podman", "runc")
    asks_version = ("podman", "--version")

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self._sandbox.podman(*args)

    def pull(self, name: str) -> set[str]:
        (image,) = self._pull_and_inspect(name, "image", "inspect")
        return {*(name.partition("@")[2] for name in image["RepoDigests"]), *image["RootFS"]["Layers"]}
