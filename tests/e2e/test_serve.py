"""The command: what it refuses to start with, what it hands out, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import signal
import socket
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.config import toml
from support.faults import Slow
from support.images import Image, make_image, sha256
from support.processes import connectable, run
from support.proxy import ROOT, TOLD_LATE, proxy_env, serve
from support.registry import FakeRegistry

from addon.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from support.threads import LoopThread

    from e2e.conftest import Serve


def serve_in_vain(tmp_path: Path, config: Path, listen: str = "127.0.0.1:0") -> str:
    """The one message of a proxy that must not start."""
    options = ["--config", str(config), "--listen", listen, "--data", str(tmp_path / "data")]
    ended = CliRunner(env={**dict.fromkeys(os.environ), **proxy_env(tmp_path)}).invoke(main, ["serve", *options])
    assert (ended.exit_code, ended.stdout) == (2, "")
    return ended.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param('[registry."docker.io"]\nmirorrs = []\n', ["docker.io", "mirorrs"], id="unknown key"),
        pytest.param('[mirrortap]\ntag-tll = "5m"\n', ["tag-tll"], id="unknown setting"),
        pytest.param('[registry."docker.io"]\nmirrors = "x"\n', ["docker.io", "mirrors"], id="wrong type"),
        pytest.param('[registry."docker.io"]\nhttp = "yes"\n', ["docker.io", "http"], id="not a boolean"),
        pytest.param('[mirrortap]\ntag-ttl = "soon"\n', ["tag-ttl", "soon"], id="not a duration"),
        pytest.param('[registry."docker.io"]\nserver = "ftp://x"\n', ["server", "ftp"], id="not a URL"),
        pytest.param('[registry."docker.io"]\nca = ["absent.pem"]\n', ["ca", "absent.pem"], id="no such CA"),
        pytest.param('[registry."docker.io"\n', ["line 1"], id="not TOML"),
    ],
)
def test_a_bad_config_is_refused_in_one_message(text: str, told: list[str], tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(text)
    message = serve_in_vain(tmp_path, config)
    for part in (str(config), *told):
        assert part in message
    assert len(message.strip().splitlines()) <= 3, message


def test_a_ca_that_is_not_one_is_refused(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("not a certificate")
    config = tmp_path / "bad.toml"
    config.write_text(toml({"docker.io": {"ca": [ca]}}))
    message = serve_in_vain(tmp_path, config)
    assert str(config) in message
    assert str(ca) in message


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    """As a process of its own."""
    absent = tmp_path / "absent.toml"
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "addon.cli",
        "serve",
        "--config",
        absent,
        "--data",
        tmp_path / "data",
    ]
    ended = run(argv, env=proxy_env(tmp_path), cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"mirrortap: {absent}: there is no such file; check the path given to --config\n"


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "good.toml"
    config.write_text(toml({}))
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in serve_in_vain(tmp_path, config, address)


def test_the_ca_is_handed_out_on_the_proxys_own_port(start_proxy: Serve) -> None:
    proxy = start_proxy(toml({}))
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        # By HEAD first: a body that came after all would be taken for the next answer.
        for method, body in ("HEAD", b""), ("GET", proxy.ca.read_bytes()):
            connection.request(method, "/ca.crt")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, body)
            assert answer.headers["Content-Length"] == str(proxy.ca.stat().st_size)


def test_keys_are_readable_by_their_owner_only(start_proxy: Serve) -> None:
    proxy = start_proxy(toml({}))
    private = [file for file in proxy.ca.parent.rglob("*") if b"PRIVATE KEY" in file.read_bytes()]
    assert private
    assert {oct(file.stat().st_mode & 0o777) for file in private} == {"0o600"}


def test_a_transfer_under_way_is_finished_after_sigterm(loop_thread: LoopThread, tmp_path: Path) -> None:
    image: Image = make_image(tmp_path / "layouts", seed=3, layer_sizes=(1_000_000,))
    layer = image.layers[0]
    mirror = loop_thread.enter(FakeRegistry())
    mirror.add(image, "library/app")
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=200_000), kind="blob")
    docker_io = {"mirrors": [mirror.endpoint], "fallback": False}
    config = toml({"docker.io": docker_io, mirror.endpoint: {"http": True}})
    with (
        serve(tmp_path / "proxy", config, PYTHONPATH=TOLD_LATE) as proxy,
        closing(proxy.client("registry-1.docker.io").connect()) as connection,
    ):
        connection.request("GET", f"/v2/library/app/blobs/{layer.digest}")
        answer = connection.getresponse()
        begun = answer.read(100_000)
        proxy.program.signal(signal.SIGTERM)
        until_closed(proxy.host, proxy.port)
        loop_thread.call(gate.set)
        data = begun + answer.read()
        assert (sha256(data), len(data)) == (layer.digest, layer.size)
        assert proxy.program.wait() == 0
    stored = proxy.cache / "blobs" / layer.digest.replace(":", "/")
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == stored.name


def until_closed(host: str, port: int) -> None:
    """The sign that SIGTERM has arrived: nothing new is let in."""
    deadline = time.monotonic() + 10
    while connectable((host, port)):
        assert time.monotonic() < deadline, "the proxy still accepts connections after SIGTERM"
        time.sleep(0.02)
