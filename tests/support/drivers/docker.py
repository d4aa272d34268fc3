"""dockerd through the docker command: by itself, with its classic builder, and with its BuildKit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from support.drivers.driver import VARIABLES, Driver, Login, Machine, unpacked
from support.processes import clean_env
from support.table import Column

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from support.images import Image, MultiArch


class Docker(Driver):
    row = "dockerd, classic builder"
    told = f"{VARIABLES} of dockerd"
    programs = ("dockerd", "docker", "containerd", "runc")
    asks_version = ("dockerd", "--version")

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        self.environment = clean_env(self.home, DOCKER_BUILDKIT="0")

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.machine.dockerd.cli(*args, env=self.environment)

    def pull(self, name: str) -> set[str]:
        self.call("pull", name)
        (image,) = json.loads(self.call("image", "inspect", name).stdout)
        return {*(name.partition("@")[2] for name in image["RepoDigests"]), *image["RootFS"]["Layers"]}

    def holds(self, image: Image | MultiArch) -> set[str]:
        return unpacked(image)

    def forget(self) -> None:
        self.call("image", "prune", "--all", "--force")

    def login(self, login: Login) -> None:
        self.call("login", f"--username={login.user}", f"--password={login.password}", login.host)

    def push(self, name: str, target: str) -> None:
        self.call("pull", name)
        self.call("tag", name, target)
        self.call("push", target)

    def build(self, dockerfile: str) -> str:
        said = self.call("build", "--network=host", "--tag=built", str(self.context(dockerfile)))
        return said.stdout + said.stderr


class BuildKit(Docker):
    """Whose pulls are those of `FROM`, and whose tokens the docker command gets."""

    row = "dockerd, BuildKit"
    told = f"{VARIABLES} of dockerd and of the docker command"
    notes: ClassVar[Mapping[Column, str]] = {Column.PUSH: "`docker push` of what was built: dockerd itself pushes."}

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        self.environment = clean_env(self.home, **machine.environment, DOCKER_BUILDKIT="1")

    def pull(self, name: str) -> set[str]:
        resolved = [part.partition("@")[2] for part in self.build(f"FROM {name}").split() if part.startswith(name)]
        (image,) = json.loads(self.call("image", "inspect", "built").stdout)
        return {*resolved, *image["RootFS"]["Layers"]}

    def forget(self) -> None:
        super().forget()
        self.call("builder", "prune", "--all", "--force")

    def push(self, name: str, target: str) -> None:
        self.build(f"FROM {name}")
        self.call("tag", "built", target)
        self.call("push", target)

    def build(self, dockerfile: str) -> str:
        context = str(self.context(dockerfile))
        return self.call("build", "--progress=plain", "--network=host", "--tag=built", context).stderr
