"""The systemd unit: what systemd says of it, and what it does with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from support.clients import Sandbox
from support.config import toml
from support.images import make_image, parts, sha256
from support.processes import needs, run
from support.proxy import ROOT
from support.registry import FakeRegistry
from support.systemd import Systemd
from support.units import read_unit
from support.waiting import until

from e2e.test_upgrade import LARGE, begun

if TYPE_CHECKING:
    from pathlib import Path

    from support.threads import LoopThread

UNIT = ROOT / "deploy" / "systemd" / "mirrortap.service"
# What docs/deploy/systemd.md says of it (10.0: all is exposed).
EXPOSURE = 1.2
# Ports that are free, and a log that can be read from here.
DROP_IN = r"""[Service]
ExecStart=
ExecStart={} serve --config /etc/mirrortap/mirrortap.toml --data %S/mirrortap \
    --listen 127.0.0.1:0 --mirror-listen 127.0.0.1:0
StandardOutput=append:/run/mirrortap.log
StandardError=append:/run/mirrortap.log
"""


def analyze(*args: str | Path) -> str:
    return run(["systemd-analyze", *args], env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}).stdout


def program() -> str:
    """Where the unit says that it is."""
    return read_unit(UNIT)["Service", "ExecStart"][0].split()[0]


@needs("systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # It looks whether the program is there.
    unit.write_text(UNIT.read_text().replace(program(), sys.executable))
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@needs("systemd-analyze")
def test_its_exposure_is_what_the_documentation_says() -> None:
    told = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", UNIT)
    assert f"Overall exposure level for mirrortap.service: {EXPOSURE} OK" in told
    assert f"{EXPOSURE} of 10" in (ROOT / "docs" / "deploy" / "systemd.md").read_text()


def machine(folder: Path, config: str) -> Systemd:
    """With the unit, and the program."""
    variables = " ".join(f"{name}={value}" for name, value in Systemd.environment.items())
    return Systemd(
        folder,
        {
            program(): f'#!/bin/sh\nexec env {variables} {Systemd.python} -m addon.cli "$@"\n',
            "/etc/mirrortap/mirrortap.toml": config,
            "/etc/systemd/system/mirrortap.service": UNIT.read_text(),
            "/etc/systemd/system/mirrortap.service.d/test.conf": DROP_IN.format(program()),
        },
    )


@needs("systemd-analyze", "skopeo")
def test_systemd_runs_it_and_cuts_no_transfer(tmp_path: Path, loop_thread: LoopThread) -> None:
    registry, image = loop_thread.enter(FakeRegistry()), make_image(tmp_path / "image", layer_sizes=(300_000,))
    registry.add(image, "library/app", "1.0")
    digest = registry.content.put_blob("library/app", bytes(LARGE))
    mirrors = {"docker.io": {"mirrors": [registry.endpoint], "fallback": False}}
    with (
        machine(tmp_path / "machine", toml({**mirrors, registry.endpoint: {"http": True}})) as systemd,
        ExitStack() as stack,
    ):

        def shown(name: str) -> str:
            return systemd.do("systemctl", "show", "--value", "--property", name, "mirrortap").stdout.strip()

        systemd.do("systemctl", "start", "mirrortap")
        old = shown("MainPID")
        status = dict(line.split(":\t") for line in systemd.do("cat", f"/proc/{old}/status").stdout.splitlines())
        assert (int(status["CapEff"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
        assert int(status["Uid"].split()[0]) >= 61184, "one of systemd's dynamic users"
        told = json.loads(systemd.path("var/lib/mirrortap/running.json").read_text())
        (host, port), mirror = told["proxy"], ":".join(map(str, told["mirror"]))

        ca = tmp_path / "ca.crt"
        ca.write_bytes(systemd.path("var/lib/mirrortap/ca/ca.crt").read_bytes())
        pulled = Sandbox(tmp_path / "builder", proxy=f"http://{host}:{port}", ca=ca).pull("docker.io/library/app:1.0")
        assert {pulled.digest, *pulled.blobs()} == set(parts(image))

        path, connection = f"/v2/library/app/blobs/{digest}", HTTPConnection(mirror, timeout=60)
        rest = stack.enter_context(begun(connection, path))
        said = systemd.do(program(), "restart", "--data", "/var/lib/mirrortap")
        assert re.match(rf"pid {old} -> pid {shown('MainPID')}, .*; 1 transfer is finishing", said.stdout)
        assert sha256(rest()) == digest
        until(lambda: not systemd.path(f"proc/{old}").exists())

        # Of a main process alone systemd would not wait for the end, were it another's child.
        rest = stack.enter_context(begun(connection, path))
        with ThreadPoolExecutor() as threads:
            stopped = threads.submit(systemd.do, "systemctl", "stop", "mirrortap")
            until(lambda: "stopping when 1 running" in systemd.path("run/mirrortap.log").read_text())
            assert sha256(rest()) == digest
            stopped.result()
        assert (shown("Result"), shown("ActiveState"), shown("NRestarts")) == ("success", "inactive", "0")
        assert "SIGKILL" not in systemd.console
