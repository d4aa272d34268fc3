"""Real servers from Debian packages, on ports and folders of the test's own."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import bcrypt

from support.processes import Program, clean_env, require, run
from support.token_server import ISSUER, SERVICE, TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.certificates import KeyPair


@dataclass(frozen=True)
class Access:
    """One line of a registry's access log."""

    method: str
    path: str
    query: str
    status: int


class RealRegistry:
    """docker-registry. `accesses()` is complete once it was stopped."""

    def __init__(self, program: Program, port: int, tls: bool, storage: Path) -> None:
        self._program = program
        self.port = port
        self.storage = storage
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._program.stop()

    def accesses(self, path: str = "") -> list[Access]:
        found = self._program.out.matching(
            r'"(?P<method>[A-Z]+) (?P<path>[^\s?]+)(?:\?(?P<query>\S*))? HTTP/[\d.]+" (?P<status>\d{3})'
        )
        lines = [Access(match["method"], match["path"], match["query"] or "", int(match["status"])) for match in found]
        return [line for line in lines if path in line.path]


@contextmanager
def docker_registry(
    folder: Path,
    *,
    tls: KeyPair | None = None,
    token_auth: TokenServer | None = None,
    htpasswd: Mapping[str, str] | None = None,
    proxy: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[RealRegistry]:
    """The reference registry, with its storage in `folder`.

    `proxy` makes it a pull-through cache: `remoteurl`, and perhaps `username` and `password`.
    """
    require("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder / "storage"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0"},
    }
    if tls:
        config["http"]["tls"] = {"certificate": str(tls.cert), "key": str(tls.key)}
    if token_auth:
        config["auth"] = {
            "token": {
                "realm": token_auth.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(token_auth.signer_cert),
            }
        }
    if htpasswd:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(_htpasswd(folder, htpasswd))}}
    if proxy:
        config["proxy"] = dict(proxy)
    # JSON is YAML.
    config_file = folder / "config.yml"
    config_file.write_text(json.dumps(config))
    environment = clean_env(folder / "home", OTEL_TRACES_EXPORTER="none", **(env or {}))
    with Program(["docker-registry", "serve", config_file], env=environment) as program:
        port = int(program.err.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1])
        yield RealRegistry(program, port, tls is not None, storage)


def _htpasswd(folder: Path, users: Mapping[str, str]) -> Path:
    path = folder / "htpasswd"
    hashed = {user: bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode() for user, word in users.items()}
    path.write_text("".join(f"{user}:{word}\n" for user, word in hashed.items()))
    return path


class Dockerd:
    """A docker daemon and its command line."""

    def __init__(self, program: Program, socket: Path, settings: Path, env: Mapping[str, str]) -> None:
        self._program = program
        self._socket = socket
        self._settings = settings
        self._env = env

    def reload(self, daemon_json: str) -> str:
        """What it says to other settings (SIGHUP): "" when it has taken them, why it has not otherwise."""
        self._settings.write_text(daemon_json)
        since = len(self._program.err)
        self._program.signal(signal.SIGHUP)
        said = self._program.err.wait_for(r'level=error msg="(.*)"|Reloaded configuration', since=since)
        return said[1] or ""

    def cli(
        self, *args: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """In the daemon's environment, unless it is given one of its own."""
        # Debian's own client: an image may come with a newer one in front of it, for a newer API.
        docker = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
        return run([docker, "-H", f"unix://{self._socket}", *args], env=env or self._env, check=check)


@contextmanager
def dockerd(folder: Path, daemon_json: str = "{}", **env: str) -> Iterator[Dockerd]:
    """With no rights over this machine's network: it can pull, push, and build with `--network host`."""
    require("dockerd", "docker", "containerd", "runc")
    folder.mkdir(parents=True, exist_ok=True)
    # A socket's path has no room for where tests have their folders (unix(7): 108 bytes).
    with TemporaryDirectory(prefix="docker-") as sockets:
        try:
            yield from _dockerd(folder, Path(sockets), daemon_json, **env)
        finally:
            _unmount(Path(sockets))


def _dockerd(folder: Path, sockets: Path, daemon_json: str, **env: str) -> Iterator[Dockerd]:
    socket = sockets / "docker.sock"
    settings = folder / "daemon.json"
    settings.write_text(daemon_json)
    environment = clean_env(folder / "home", **env)
    argv = [
        "dockerd",
        # vfs works wherever tests run, also on an overlay.
        "--storage-driver=vfs",
        f"--data-root={folder / 'data'}",
        f"--exec-root={sockets / 'exec'}",
        f"--pidfile={folder / 'docker.pid'}",
        f"--host=unix://{socket}",
        f"--config-file={settings}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--ip-forward=false",
    ]
    with Program(argv, env=environment) as program:
        program.err.wait_for(r"API listen on .*docker\.sock")
        yield Dockerd(program, socket, settings, environment)


def _unmount(folder: Path) -> None:
    """What a daemon has left mounted below it, network namespaces as a rule."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], check=True)


class Containerd:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def ctr(self, *args: str, env: Mapping[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
        """ctr 1.6 talks to registries itself, so the proxy and the CA go into its own environment."""
        return run(["ctr", "--address", str(self._socket), *args], env=env, check=check)


@contextmanager
def containerd(folder: Path, **env: str) -> Iterator[Containerd]:
    require("containerd", "ctr")
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "containerd.sock"
    config = folder / "config.toml"
    config.write_text(
        "version = 2\n"
        f"root = {json.dumps(str(folder / 'root'))}\n"
        f"state = {json.dumps(str(folder / 'state'))}\n"
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f"[grpc]\naddress = {json.dumps(str(socket))}\n"
    )
    with Program(["containerd", "--config", config], env=clean_env(folder / "home", **env)) as program:
        program.until_connectable(socket)
        yield Containerd(socket)
