"""`mirrortap config check` as people and programs meet it: what is said, and the exit code.

Each configuration has docker.io: what is built in of that is elsewhere.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from support.config import toml
from support.registry import FakeRegistry

from addon.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority
    from support.threads import LoopThread


def check(tmp_path: Path, text: str, *options: str) -> Result:
    (tmp_path / "mirrortap.toml").write_text(text)
    return CliRunner().invoke(main, ["config", "check", "--config", str(tmp_path / "mirrortap.toml"), *options])


@pytest.fixture
def registry(loop_thread: LoopThread, authority: Authority) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry(tls=authority))


def test_all_is_well(tmp_path: Path, registry: FakeRegistry, authority: Authority) -> None:
    table = {"http": False, "ca": [authority.file]}
    # One is asked for two registries: once is enough to look at it.
    rules = {name: {"mirrors": [registry.endpoint], "fallback": False} for name in ("docker.io", "quay.io")}
    result = check(tmp_path, toml({**rules, registry.endpoint: table}))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f'docker.io ({tmp_path}/mirrortap.toml: registry."docker.io")'
    assert lines[1].startswith(f"  ok    https://{registry.endpoint}/v2: HTTP 200, ")
    assert lines[2].startswith("          certificate 1: ")
    assert lines[-1] == "all is well"
    assert len(registry.requests) == 1


def test_something_is_wrong(tmp_path: Path, registry: FakeRegistry) -> None:
    text = toml({"docker.io": {"mirrors": [registry.endpoint, "nobody.test"], "fallback": False, "access": "open"}})
    result = check(tmp_path, text)
    assert result.exit_code == 1
    assert f"  WRONG http://{registry.endpoint}/v2: no answer" in result.stdout
    assert "          it speaks TLS, and is asked over plain http\n" in result.stdout
    assert f'          -> write http = false under [registry."{registry.endpoint}"]\n' in result.stdout
    assert "          DNS: nobody.test is not known\n" in result.stdout
    assert result.stdout.endswith("2 problems\n")
    result = check(tmp_path, text, "--json")
    assert result.exit_code == 1
    (rule,) = json.loads(result.stdout)["rules"]
    assert rule["registry"] == "docker.io"
    first, second = rule["endpoints"]
    assert (first["ok"], second["ok"]) == (False, False)
    assert first["url"] == f"http://{registry.endpoint}/v2"
    assert first["problems"][0]["what"] == "it speaks TLS, and is asked over plain http"
    assert first["certificates"][0]["names"] == ["127.0.0.1"]
    assert second["problems"][0]["what"] == "DNS: nobody.test is not known"
    assert second["status"] is None


def test_one_of_two_ways_is_enough(tmp_path: Path, registry: FakeRegistry) -> None:
    """http and insecure: that first, then https."""
    table = {"http": True, "insecure": True}
    text = toml({"docker.io": {"mirrors": [registry.endpoint], "fallback": False}, registry.endpoint: table})
    result = check(tmp_path, text)
    assert result.exit_code == 0, result.output
    assert "  -     http://" in result.stdout
    assert "  ok    https://" in result.stdout


def test_nothing_to_try(tmp_path: Path) -> None:
    text = toml({"docker.io": {"mode": "offline"}, "*.corp.test": {}})
    result = check(tmp_path, text)
    assert "offline: there is nothing to try" in result.stdout
    assert "stands for many hosts: there is none to try" in result.stdout
    assert result.exit_code == 0


def test_a_wrong_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(tmp_path, '[registry."docker.io"]\nmirors = []\n')
    assert result.exit_code == 2
    assert "did you mean mirrors?" in result.stderr
    monkeypatch.setenv("HTTPS_PROXY", "http://u:s3cret@:x")
    result = check(tmp_path, "")
    assert result.exit_code == 2
    assert result.stderr.startswith("mirrortap: HTTPS_PROXY: ")
    assert "s3cret" not in result.stderr
