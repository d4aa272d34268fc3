"""Real clients on a machine that `mirrortap trust` was used on: before it, with it, and after its --uninstall."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.clients import Sandbox
from support.config import toml
from support.machine import scratch_machine
from support.processes import needs, run
from support.programs import containerd, dockerd
from support.proxy import Proxy, proxy_env, serve
from support.tree import snapshot

from addon.cli import main
from ca.trust import actions, kubernetes
from ca.trust.certificates import Bundle
from ca.trust.plan import Wanted
from e2e.conftest import APP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.images import Image
    from support.programs import RealRegistry

pytestmark = [
    needs("docker-registry", "unshare", "update-ca-certificates"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts scratch folders over /etc, which takes root"),
]

CORP = "registry.corp.example"
CORP_APP = f"{CORP}/library/app:1.0"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, mirror: RealRegistry) -> Iterator[Proxy]:
    table = {"mirrors": [mirror.endpoint], "fallback": False}
    config = toml({"docker.io": table, CORP: table, mirror.endpoint: {"http": True}})
    with serve(tmp_path_factory.mktemp("proxy"), config) as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    with scratch_machine(tmp_path) as root:
        yield root


# What clients write by themselves.
_CLIENTS_OWN = ("etc/cni", "etc/docker/key.json", "lib/containers")


def state(machine: Path) -> dict[str, tuple[int, int, int, bytes]]:
    return {name: about for name, about in snapshot(machine).items() if not name.startswith(_CLIENTS_OWN)}


class Trust:
    """The command, in this process: another would see the same machine, and take a second to start."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy.url

    def __call__(self, *args: str) -> str:
        done = CliRunner().invoke(main, ["trust", *args, "--proxy", self._proxy], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def refused(self, *args: str) -> str:
        done = CliRunner().invoke(main, ["trust", *args, "--proxy", self._proxy], catch_exceptions=False)
        assert done.exit_code == 2, done.output
        return done.stderr

    @contextmanager
    def installed(self, machine: Path, *args: str) -> Iterator[None]:
        """Twice, as that must be no more than once; then it is undone, and the machine is as it was."""
        before = state(machine)
        self(*args)
        once = state(machine)
        assert once != before
        assert "already there" in self(*args)
        assert state(machine) == once
        yield
        self(*args, "--uninstall")
        assert state(machine) == before


@pytest.fixture
def trust(proxy: Proxy) -> Trust:
    return Trust(proxy)


@pytest.fixture
def client(tmp_path: Path, proxy: Proxy) -> Sandbox:
    """It knows the proxy, and no CA but what the machine has."""
    return Sandbox(tmp_path / "client", proxy=proxy.url)


@needs("skopeo")
def test_the_system_store(app: Image, machine: Path, trust: Trust, client: Sandbox) -> None:
    bundle = machine / "etc/ssl/certs/ca-certificates.crt"
    others = bundle.read_bytes()
    assert "x509" in client.pull_refused(APP)[0]
    with trust.installed(machine, "system"):
        assert client.pull(APP).digest == app.manifest.digest
        assert others in bundle.read_bytes()
    assert "x509" in client.pull_refused(APP)[0]


@needs("skopeo", "buildah", "podman", "runc")
def test_podman_buildah_and_skopeo(app: Image, machine: Path, trust: Trust, client: Sandbox) -> None:
    (machine / "etc/containers/certs.d").mkdir()  # there before, and empty: it stays
    with trust.installed(machine, "podman", "--host", "docker.io"):
        assert client.pull(APP).digest == app.manifest.digest
        assert client.podman_pull(APP) == app.manifest.digest
        assert client.buildah_pull(APP) == app.manifest.digest
        # Trust is for the hosts that were named.
        assert "x509" in client.pull_refused(CORP_APP)[0]
    assert "x509" in client.pull_refused(APP)[0]


@needs("dockerd", "containerd", "runc")
def test_docker(app: Image, machine: Path, trust: Trust, proxy: Proxy, tmp_path: Path) -> None:
    with dockerd(tmp_path / "docker", HTTPS_PROXY=proxy.url) as docker:
        assert "x509" in docker.cli("pull", CORP_APP, check=False).stderr
        with trust.installed(machine, "docker", "--host", CORP):
            docker.cli("pull", CORP_APP)
            shown = docker.cli("image", "inspect", "--format", "{{.Id}}", CORP_APP).stdout
            assert shown.strip() == app.config.digest
            docker.cli("rmi", CORP_APP)
        assert "x509" in docker.cli("pull", CORP_APP, check=False).stderr


@needs("ctr", "containerd")
def test_containerd(app: Image, machine: Path, trust: Trust, client: Sandbox, tmp_path: Path) -> None:
    """Docker Hub, whose API is at another host than its name says, and another registry."""
    pull = ("images", "pull", "--snapshotter", "native", "--hosts-dir", "/etc/containerd/certs.d")
    with containerd(tmp_path / "containerd") as daemon:
        with trust.installed(machine, "containerd", "--host", "docker.io", "--host", CORP):
            for image in APP, CORP_APP:
                daemon.ctr(*pull, image, env=client.env)
                assert app.manifest.digest in daemon.ctr("images", "ls", f"name=={image}", env=client.env).stdout
                daemon.ctr("images", "rm", image, env=client.env)
        for image in APP, CORP_APP:
            assert "x509" in daemon.ctr(*pull, image, env=client.env, check=False).stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image's tree: a shell, its devices, and a program that makes the bundle."""
    busybox = shutil.which("busybox")
    assert busybox
    root = tmp_path / "tree"
    for name in "bin", "dev", "etc/ssl/certs", "usr/sbin", "usr/local/share":
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox, root / "bin/busybox")
    for name in "sh", "cat":
        (root / "bin" / name).symlink_to("busybox")
    os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (root / "etc/os-release").write_text("ID=alpine\n")
    (root / "etc/ssl/certs/ca-certificates.crt").write_text("# nobody\n")
    return root


def _updates(tree: Path, script: str) -> None:
    program = tree / "usr/sbin/update-ca-certificates"
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)


@needs("busybox")
def test_an_images_tree(tree: Path, trust: Trust, proxy: Proxy) -> None:
    """The program that runs is the image's own, and it sees the image."""
    folder = "/usr/local/share/ca-certificates"
    name = "etc/ssl/certs/ca-certificates.crt"
    _updates(tree, f"echo '# nobody' > /{name}\nfor f in {folder}/*.crt; do [ ! -f $f ] || cat $f >> /{name}; done\n")
    bundle = tree / name
    with trust.installed(tree, "system", "--root", str(tree)):
        assert bundle.read_text() == f"# nobody\n{proxy.ca.read_text()}"
    assert bundle.read_text() == "# nobody\n"


@needs("busybox")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo no room >&2; exit 3\n", "update-ca-certificates ended with 3: no room"),
        ("exit 0\n", "ca-certificates.crt does not hold the CA"),
    ],
)
def test_a_store_that_takes_no_notice(tree: Path, trust: Trust, script: str, says: str) -> None:
    _updates(tree, script)
    before = state(tree)
    assert says in trust.refused("system", "--root", str(tree))
    assert says in trust.refused("system", "--root", str(tree))  # not taken for done because the file is there
    _updates(tree, "exit 0\n")
    trust("system", "--root", str(tree), "--uninstall")
    _updates(tree, script)
    assert state(tree) == before


def test_a_store_without_its_program(machine: Path, trust: Trust) -> None:
    (machine / "etc/os-release").write_text("ID=fedora\n")
    before = state(machine)
    assert "update-ca-trust is not installed; dnf install ca-certificates" in trust.refused("system")
    assert state(machine) == before


@pytest.fixture
def systemctl(tmp_path: Path) -> Path:
    """Notes what it is asked; systemd's needs a booted machine. And a `sudo` that just runs what it is given."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    log = tmp_path / "systemctl.log"
    for name, text in ("systemctl", f'[ "$*" != "$FAILS" ] || exit 1\necho "$*" >> {log}\n'), ("sudo", 'exec "$@"\n'):
        (bin_folder / name).write_text(f"#!/bin/sh\n{text}")
        (bin_folder / name).chmod(0o755)
    return log


def _sh(script: str, log: Path, *, fails: str = "", **env: str) -> int:
    env |= {"PATH": f"{log.parent / 'bin'}:{os.environ['PATH']}", "FAILS": fails}
    argv = ["sh", "-c", script]
    return run(argv, env=proxy_env(log.parent / "sh") | env, cwd=log.parent, check=not fails).returncode


@needs("skopeo")
def test_a_cluster_node(app: Image, machine: Path, proxy: Proxy, client: Sandbox, systemctl: Path) -> None:
    """The script of the DaemonSet: containerd gets what lets a Go program pull, and only then a restart."""
    wanted = Wanted(Bundle.parse(proxy.ca.read_bytes(), "test"), proxy=proxy.url)
    before = state(machine)
    assert _sh(kubernetes.node_script(wanted), systemctl, fails="restart containerd") != 0
    systemctl.write_text("")
    for _ in range(2):
        _sh(kubernetes.node_script(wanted), systemctl)
    assert systemctl.read_text().splitlines() == ["daemon-reload", "restart containerd"]
    unit = (machine / "etc/systemd/system/containerd.service.d/mirrortap.conf").read_text().splitlines()
    assert unit[0] == "[Service]"
    client.env |= dict(line.removeprefix("Environment=").split("=", 1) for line in unit[1:])
    assert client.pull(APP).digest == app.manifest.digest

    assert _sh(kubernetes.remove_script(), systemctl, fails="restart containerd") != 0
    systemctl.write_text("")
    for _ in range(2):
        _sh(kubernetes.remove_script(), systemctl)
    assert systemctl.read_text().splitlines() == ["daemon-reload", "restart containerd"]
    assert {name: about for name, about in state(machine).items() if not name.startswith("etc/systemd")} == before


@needs("skopeo")
def test_a_workflows_runner(app: Image, machine: Path, proxy: Proxy, client: Sandbox, systemctl: Path) -> None:
    _sh(actions.shell(proxy.url), systemctl, MIRRORTAP_CA=proxy.ca.read_text())
    assert client.pull(APP).digest == app.manifest.digest
    unit = (machine / "etc/systemd/system/docker.service.d/mirrortap.conf").read_text()
    assert unit == f"[Service]\nEnvironment=HTTPS_PROXY={proxy.url}\n"
    assert systemctl.read_text().splitlines() == ["daemon-reload", "restart docker"]
