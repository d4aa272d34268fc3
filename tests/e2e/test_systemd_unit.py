"""The systemd unit: what systemd says of it, and whether the proxy does its work within what it may do there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from support import confined
from support.clients import Sandbox
from support.config import toml
from support.images import Image, parts
from support.processes import Program, needs, run
from support.proxy import MIRROR, ROOT, proxy_env
from support.units import read_unit

if TYPE_CHECKING:
    from support.programs import RealRegistry

UNIT = ROOT / "deploy" / "systemd" / "mirrortap.service"
# What docs/deploy/systemd.md says of it (10.0: all is exposed).
EXPOSURE = 1.2


def analyze(*args: str | Path) -> str:
    return run(["systemd-analyze", *args], env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}).stdout


@needs("systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # It looks whether the program is there.
    program = read_unit(UNIT)["Service", "ExecStart"][0].split()[0]
    unit.write_text(UNIT.read_text().replace(program, sys.executable))
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@needs("systemd-analyze")
def test_its_exposure_is_what_the_documentation_says() -> None:
    told = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", UNIT)
    assert f"Overall exposure level for mirrortap.service: {EXPOSURE} OK" in told
    assert f"{EXPOSURE} of 10" in (ROOT / "docs" / "deploy" / "systemd.md").read_text()


def calls(filters: list[str]) -> list[str]:
    """What SystemCallFilter= comes to: names of system calls."""
    allowed: set[str] = set()
    for line in filters:
        named = {call for name in line.removeprefix("~").split() for call in members(name)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return sorted(allowed | set(members("@default")))


def members(name: str) -> list[str]:
    if not name.startswith("@"):
        return [name]
    lines = (line.strip() for line in analyze("syscall-filter", name).splitlines()[1:])
    return [call for line in lines if line and not line.startswith("#") for call in members(line)]


@needs("systemd-analyze", "skopeo")
def test_the_proxy_serves_within_it(tmp_path: Path, mirror: RealRegistry, app: Image) -> None:
    """As far as that can be without systemd: without capabilities, with those system calls and sockets alone, without
    memory that is both written and run."""
    unit, restrictions = read_unit(UNIT), tmp_path / "restrictions.json"
    (families,) = unit["Service", "RestrictAddressFamilies"]
    allowed = calls(unit["Service", "SystemCallFilter"])
    assert "chown" not in allowed, "the list is that of the unit"
    restrictions.write_text(json.dumps({"calls": allowed, "families": families.split()}))
    config, data = tmp_path / "mirrortap.toml", tmp_path / "data"
    config.write_text(toml({"docker.io": {"mirrors": [mirror.endpoint], "fallback": False}}))
    argv: list[str | Path] = [
        sys.executable,
        confined.__file__,
        restrictions,
        sys.executable,
        "-m",
        "addon.cli",
        "serve",
    ]
    argv += ["--config", config, "--listen", "127.0.0.1:0", *MIRROR, "--data", data, "--workers", "2"]
    with Program(argv, env=proxy_env(tmp_path), cwd=ROOT) as program:
        url = program.out.wait_for(r"listening on (http://\S+)", timeout=60)[1]
        builder = Sandbox(tmp_path / "builder", proxy=url, ca=data / "ca" / "ca.crt")
        pulled = builder.pull(f"docker.io/library/app@{app.top.digest}")
        assert {pulled.digest, *pulled.blobs()} == set(parts(app))
        status = Path(f"/proc/{program.pid}/status").read_text()
        told = dict(line.split(":\t") for line in status.splitlines())
        assert (int(told["CapEff"], 16), told["NoNewPrivs"], told["Seccomp"]) == (0, "1", "2")
        assert program.stop() == 0, program.output()
