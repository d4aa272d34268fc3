"""`mirrortap warm`, with real registries and clients: what it brought is served when there is nothing upstream."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.faults import Slow
from support.images import here, make_image
from support.processes import Program, needs, run
from support.proxy import ROOT, proxy_env, serve
from support.registry import FakeRegistry
from support.waiting import until

from e2e.conftest import APP, MULTI, fill

if TYPE_CHECKING:
    from pathlib import Path

    from support.clients import Sandbox
    from support.images import Image, MultiArch
    from support.threads import LoopThread

    from e2e.conftest import Builder, Registries

WARM = (sys.executable, "-m", "addon.cli", "warm")
LARGE = 4_000_000


class Machine:
    """Where it is run: a data folder, and Docker Hub behind one mirror."""

    def __init__(self, folder: Path, mirror: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = toml({"docker.io": {"mirrors": [mirror], "fallback": False}, mirror: {"http": True}})
        self._file = folder / "mirrortap.toml"
        self._file.write_text(self.config)

    def argv(self, *arguments: str) -> list[str]:
        return [*WARM, *arguments, "--config", str(self._file), "--data", str(self.data)]

    @property
    def env(self) -> dict[str, str]:
        return proxy_env(self.folder)

    def warm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(self.argv(*arguments), env=self.env, cwd=ROOT, check=check)

    def has(self, digest: str) -> bool:
        path = self.data / "cache" / "blobs" / digest.replace(":", "/")
        return path.exists() and f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == digest


@pytest.fixture
def slow(loop_thread: LoopThread) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry())


@pytest.fixture
def machine(slow: FakeRegistry, tmp_path: Path) -> Machine:
    return Machine(tmp_path, slow.endpoint)


@pytest.fixture
def large(tmp_path: Path, slow: FakeRegistry) -> Image:
    image = make_image(tmp_path / "image", layer_sizes=(10_000, LARGE))
    slow.add(image, "library/app")
    return image


@needs("skopeo", "buildah", "docker-registry")
def test_what_a_dockerfile_needs_is_served_with_nothing_upstream(
    app: Image,
    multi: MultiArch,
    registries: Registries,
    builder: Builder,
    direct: Sandbox,
    tmp_path: Path,
) -> None:
    registry = registries("mirror")
    fill(direct, registry, app, "library/app:1.0")
    fill(direct, registry, multi, "library/multi:1.0", "--all")
    machine = Machine(tmp_path, registry.endpoint)
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        "ARG TAG\nFROM docker.io/library/app:${TAG} AS base\n"
        "FROM base\nCOPY --from=docker.io/library/multi:1.0 /data /more\n"
    )
    told = machine.warm("--from", str(dockerfile), "--build-arg", "TAG=1.0")
    one, two = here(multi), app
    assert told.stdout == f"2 images ready, {size(one, two)} MB downloaded\n"
    assert sorted(line.partition(" ")[0] for line in told.stderr.splitlines()) == [APP, MULTI]
    registry.stop()
    with serve(tmp_path / "proxy", machine.config, "--offline", data=machine.data) as proxy:
        client = builder(proxy)
        pulled = client.pull(APP)
        assert pulled.digest == app.manifest.digest
        assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}
        assert client.pull(MULTI).digest == one.manifest.digest
        (client.home / "Dockerfile").write_text(dockerfile.read_text())
        client.buildah(*("bud", "--build-arg", "TAG=1.0", f"--signature-policy={client.policy}", "--tag", "built", "."))
        assert {line.cache for line in proxy.answered()} <= {"hit", "stale"}


def size(*images: Image) -> str:
    return f"{sum(part.size for image in images for part in image.blobs) / 1e6:.1f}"


@needs("skopeo")
def test_beside_a_running_proxy(
    machine: Machine, slow: FakeRegistry, large: Image, builder: Builder, tmp_path: Path
) -> None:
    with serve(tmp_path / "proxy", machine.config, data=machine.data, workers=2) as proxy:
        assert "3 blobs, " in machine.warm("app:1.0").stderr
        asked = len(slow.seen("blob"))
        pulled = builder(proxy).pull(APP)
        assert pulled.blobs() == {blob.digest: blob.size for blob in large.blobs}
        assert len(slow.seen("blob")) == asked == 3
        assert "3 blobs, " in (again := machine.warm("app:1.0").stderr)
        assert ", 3 were cached" in again
        assert len(slow.seen("blob")) == 3
    assert all(slow.traffic.sent[blob.digest] == blob.size for blob in large.blobs)


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGINT, 130, "mirrortap: stopped; what has come is kept: the same command goes on from there"),
    ],
)
def test_what_was_broken_off_is_gone_on_with(
    number: signal.Signals,
    code: int,
    told: str,
    machine: Machine,
    slow: FakeRegistry,
    large: Image,
    loop_thread: LoopThread,
) -> None:
    layer = large.layers[1]
    partial = machine.data / "cache" / "partial" / layer.digest.replace(":", "-")
    gate = asyncio.Event()
    held = slow.inject(Slow(gate, after=LARGE // 2), kind="blob", path=f"*{layer.digest}")
    with Program(machine.argv("app:1.0"), env=machine.env, cwd=ROOT) as program:
        loop_thread.run(slow.wait_for(lambda: slow.traffic.sent[layer.digest] >= LARGE // 2, timeout=30))
        until(lambda: partial.exists() and partial.stat().st_size >= LARGE // 4)
        program.signal(number)
        assert program.wait() == code
    assert program.err.all() == ([told] if told else [])
    kept = partial.stat().st_size
    held.times = 0
    loop_thread.call(gate.set)
    before = slow.traffic.sent[layer.digest]
    machine.warm("app:1.0")
    assert machine.has(layer.digest)
    assert slow.traffic.sent[layer.digest] - before <= layer.size - kept + 1


def test_a_terminal_of_40_columns(machine: Machine, large: Image) -> None:
    theirs, ours = pty.openpty()
    ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with subprocess.Popen(
        machine.argv("app:1.0", "none:1.0"),
        stdout=subprocess.PIPE,
        stderr=ours,
        cwd=ROOT,
        env={**machine.env, "TERM": "xterm"},
        text=True,
    ) as program:
        os.close(ours)
        shown = b""
        while chunk := read(theirs):
            shown += chunk
        assert program.stdout
        assert program.stdout.read() == f"1 image ready, {size(large)} MB downloaded, 1 failed\n"
    os.close(theirs)
    assert program.returncode == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    bars, last = text.split("mirrortap: ")
    assert "100%" in bars
    assert all(len(line) <= 40 for line in re.split(r"[\r\n]+", bars)), bars
    assert "docker.io/library/none:1.0 is at no endpoint" in " ".join(last.split())


def test_a_full_disk(machine: Machine, large: Image) -> None:
    machine.data.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(machine.data)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mount.stderr.decode().strip()}")
    try:
        result = machine.warm("app:1.0", check=False)
    finally:
        subprocess.run(["umount", "--lazy", str(machine.data)], check=True)
    assert result.returncode == 1
    *before, last = result.stderr.splitlines()
    assert last == (
        f"mirrortap: {machine.data}/cache: cannot be written: No space left on device; what has come is kept: the same"
        " command goes on from there when there is room"
    )
    # The database may have been what was to grow first.
    assert set(before) <= {"the cache's database cannot be written: database or disk is full"}


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # so a terminal ends
        return b""
