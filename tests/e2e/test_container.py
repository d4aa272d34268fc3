"""The container image: built by buildah, run by podman as docs/deploy/container.md says, pulled through by a builder in
another network.

Its base is made of this machine's own Python, and what is installed in it are the packages that the tests run with, so
that neither a registry nor a package index is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from support.clients import Sandbox
from support.config import toml
from support.images import Image, parts
from support.networks import Network
from support.processes import Program, needs, require, run
from support.programs import docker_registry
from support.proxy import LOG_LINE, ROOT
from support.wheels import wheelhouse

from addon import running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = [
    needs("buildah", "podman", "runc", "skopeo", "busybox", "ldd", "ip", "nft", "mount"),
    # The image is built in the first one's.
    pytest.mark.timeout(400),
]

BASE, IMAGE = "localhost/base:test", "localhost/mirrortap:test"
USER = "10001:10001"
CONFIG, DATA = "/etc/mirrortap/mirrortap.toml", "/var/lib/mirrortap"
# What runs the tests may not be allowed to raise limits, as podman does by itself.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
# What the test and the Containerfile run of a base, but for Python.
APPLETS = ("sh", "mkdir", "chown", "id", "touch")
UNNEEDED = ("test", "tests", "ensurepip", "idlelib", "tkinter", "config-*", "site-packages", "_t*.so", "*.opt-?.pyc")


class Box:
    """Images and containers of the test's own, which buildah and podman share."""

    def __init__(self, folder: Path, storage: Path) -> None:
        self.home = Sandbox(folder / "home")
        self._storage = [f"--root={storage / 'root'}", f"--runroot={storage / 'run'}"]
        # Not there on a file system that is an overlay itself.
        native = run(["buildah", *self._storage, "--storage-driver=overlay", "info"], env=self.home.env, check=False)
        self._storage.append(f"--storage-driver={'vfs' if native.returncode else 'overlay'}")

    def buildah(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return run(["buildah", *self._storage, *args], env=self.home.env, timeout=300)

    def podman(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(["podman", *self._storage, *args], env=self.home.env, check=check)

    def running(self, *args: str) -> Program:
        """podman, as long as the container runs."""
        return Program(["podman", *self._storage, *args], env=self.home.env)

    def config(self) -> dict[str, Any]:
        (found,) = json.loads(self.podman("image", "inspect", IMAGE).stdout)
        return dict(found["Config"]) | {"Healthcheck": found["Healthcheck"]}


def make_base(root: Path) -> None:
    """A root file system with this Python, pip, and what these and the packages need of libraries."""
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    stdlib, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    copied = root / stdlib.relative_to("/")
    shutil.copytree(stdlib, copied, ignore=shutil.ignore_patterns(*UNNEEDED))
    shutil.copytree(packages / "pip", copied / "site-packages" / "pip")
    linked = [python, *copied.glob("lib-dynload/*.so"), *packages.rglob("*.so")]
    told = run(["ldd", *linked], env=dict(os.environ)).stdout
    libraries = set(re.findall(r"(?:=> |^\t)(/\S+)", told, re.MULTILINE))
    for path in {str(python), *(each for each in libraries if not Path(each).is_relative_to(packages))}:
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, root / path[1:])
    for folder in ("usr/local/bin", "bin", "etc", "tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/python").symlink_to(python)
    busybox = shutil.which("busybox")
    assert busybox
    for name in APPLETS:
        shutil.copy2(busybox, root / "bin" / name)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Has the image."""
    require("buildah", "podman")
    folder = tmp_path_factory.mktemp("container")
    # podman takes no runroot of more than 50 characters.
    with TemporaryDirectory(prefix="box-") as storage:
        box = Box(folder, Path(storage))
        make_base(folder / "base")
        recipe = folder / "Base"
        recipe.write_text("FROM scratch\nCOPY . /\nENV PATH=/usr/local/bin:/bin\n")
        box.buildah("build", "--file", recipe, "--tag", BASE, folder / "base")
        shutil.rmtree(folder / "base")
        wheelhouse(folder / "wheels", "mirrortap")
        settings = folder / "pip.conf"
        settings.write_text("[global]\nno_index = true\nfind_links = /wheels\n")
        mounts = [f"--volume={folder / 'wheels'}:/wheels:ro", f"--volume={settings}:/etc/pip.conf:ro"]
        arguments = ["--format=docker", "--isolation=chroot", f"--build-arg=BASE={BASE}", f"--tag={IMAGE}"]
        box.buildah("build", *arguments, *mounts, f"--file={ROOT / 'deploy' / 'Containerfile'}", ROOT)
        yield box
        box.podman("rm", "--all", "--force")


class Container:
    """mirrortap's, at 10.89.0.2 of a network where the builder is 10.89.0.1; on its loopback there is a mirror."""

    def __init__(self, folder: Path, box: Box, stack: ExitStack) -> None:
        self.box, self._folder, self._stack = box, folder, stack
        self.network = stack.enter_context(Network(folder / "network"))
        self._outside = stack.enter_context(Network(folder / "network"))
        self.network.connect("10.89.0.2/24", self._outside, "10.89.0.1/24")
        with self.network.inside():
            self.mirror = stack.enter_context(docker_registry(folder / "mirror"))

    def push(self, image: Image, name: str) -> None:
        with self.network.inside():
            to = f"{self.mirror.endpoint}/{name}"
            Sandbox(self._folder / "pusher").push(image.reference, to, "--dest-tls-verify=false")

    @contextmanager
    def run(self, *args: str) -> Iterator[Program]:
        """Until it has been told to stop, and has."""
        with self.network.inside():
            program = self.box.running(*args)
        with program:
            try:
                program.out.wait_for("The mirror is listening on", timeout=60)
            except AssertionError as silent:
                raise AssertionError(program.output()) from silent
            yield program
            assert program.stop() == 0, program.output()

    def builder(self, name: str) -> Sandbox:
        """A machine that has done what the proxy says."""
        ca = self._folder / f"{name}.crt"
        with self._outside.inside(), urlopen("http://10.89.0.2:3128/ca.crt", timeout=20) as answer:
            ca.write_bytes(answer.read())
        return Sandbox(self._folder / name, proxy="http://10.89.0.2:3128", ca=ca)

    def pulls(self, name: str, reference: str) -> dict[str, int]:
        with self._outside.inside():
            pulled = self.builder(name).pull(reference)
        return {pulled.digest: len(pulled.manifest), **pulled.blobs()}


@pytest.fixture
def container(tmp_path: Path, box: Box) -> Iterator[Container]:
    with ExitStack() as stack:
        yield Container(tmp_path, box, stack)


def test_a_container_that_may_write_nowhere_but_to_its_volume(container: Container, app: Image, tmp_path: Path) -> None:
    """And which may be ended, and started again, with all that it had."""
    container.push(app, "library/app:1.0")
    config = tmp_path / "mirrortap.toml"
    config.write_text(toml({"docker.io": {"mirrors": [container.mirror.endpoint], "fallback": False}}))
    podman, wanted = container.box.podman, f"docker.io/library/app@{app.manifest.digest}"
    image = {digest: len(data) for digest, data in parts(app).items()}
    health = container.box.config()["Healthcheck"]["Test"]
    options = [
        *("--name=mirrortap", "--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"),
        *(f"--volume=mirrortap:{DATA}", f"--volume={config}:{CONFIG}:ro", "--network=host"),
        # Without systemd podman has no timers.
        *("--no-healthcheck", *LIMITS),
    ]
    with container.run("run", *options, IMAGE, *container.box.config()["Cmd"], "--config", CONFIG) as program:
        assert container.pulls("first", wanted) == image
        # A network of the host's is that of whoever asks.
        with container.network.inside():
            assert podman("exec", "mirrortap", "id", "-u").stdout == "10001\n"
            assert podman("exec", "mirrortap", "touch", "/opt/mirrortap/new", check=False).returncode == 1
            assert podman("exec", "mirrortap", "mirrortap", "ca", "show").stdout.startswith(
                "CA in /var/lib/mirrortap/ca\n"
            )
            assert health[0] == "CMD"
            assert podman("exec", "mirrortap", *health[1:], check=False).returncode == 0
        assert {match["cache"] for match in program.err.matching(LOG_LINE.pattern)} >= {"miss"}
    container.mirror.stop()
    with container.run("start", "--attach", "mirrortap") as program:
        assert container.pulls("second", wanted) == image
        program.err.wait_for(LOG_LINE.pattern)
        assert {match["cache"] for match in program.err.matching(LOG_LINE.pattern)} == {"hit"}


def test_what_the_image_says_of_itself(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    config = box.config()
    assert config["User"] == USER
    assert config["WorkingDir"] == "/"
    assert config["Entrypoint"] == ["mirrortap"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Labels"]["org.opencontainers.image.base.name"] == BASE
    variables = dict(each.split("=", 1) for each in config["Env"])
    monkeypatch.setenv("XDG_DATA_HOME", variables["XDG_DATA_HOME"])
    assert list(config["Volumes"]) == [str(running.default_data())]


def test_all_that_is_run_has_been_compiled(box: Box) -> None:
    """What is not there cannot be written later."""
    code = (
        "import sys, addon.commands.serve, addon.commands.warm, http.client\n"
        "from pathlib import Path\n"
        "compiled = [Path(found) for each in sys.modules.values() if (found := getattr(each, '__cached__', None))]\n"
        "print(len(compiled) > 500, *(path for path in compiled if not path.exists()))"
    )
    options = ["--rm", "--no-healthcheck", "--network=none", *LIMITS]
    assert box.podman("run", *options, "--entrypoint=python", IMAGE, "-c", code).stdout == "True\n"
