"""Whoever runs the command may have no home: HOME is not set, and the uid is nobody's, as in containers."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from addon.cli import main
from addon.config.load import load
from addon.config.model import ConfigError
from addon.doctor import logins
from addon.home import NoHome, home_folder, home_if_any
from addon.service import Service, StartError

if TYPE_CHECKING:
    from pathlib import Path

UID = 54321
NONE = f"no home folder is known (HOME is not set, and uid {UID} has no entry in /etc/passwd)"


@pytest.fixture(autouse=True)
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # After `tmp_path`, which is in a folder of whoever this is.
    assert tmp_path
    with pytest.raises(KeyError):
        pwd.getpwuid(UID)
    for name in "HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: UID)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_there_is_none() -> None:
    assert home_if_any() is None
    with pytest.raises(NoHome) as none:
        home_folder()
    assert str(none.value) == NONE


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "status",
        "restart",
        "doctor",
        "warm alpine",
        "ca show",
        "ca init",
        "ca renew",
        "ca rotate",
        "cache ls",
        "cache show alpine",
        "cache verify",
        "cache prune",
        "cache pin alpine",
        "cache unpin alpine",
        "cache pins",
        "cache export -o x.tar",
        "cache import .",
    ],
)
def test_what_needs_the_default_folder_asks_for_its_name(command: str) -> None:
    result = run(*command.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"\nError: {NONE}: name the folder with --data, or set XDG_DATA_HOME\n")


def test_the_xdg_folder_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert f"{tmp_path}/mirrortap/cache: there is no cache" in run("cache", "ls").stderr


@pytest.mark.parametrize("command", ["--help", "completion bash", "ca --help", "serve --help", "config show"])
def test_what_needs_no_folder_needs_no_home(command: str) -> None:
    assert run(*command.split()).exit_code == 0


def test_the_ca_is_shown_without_one(tmp_path: Path) -> None:
    assert run("ca", "init", "--data", tmp_path).exit_code == 0
    result = run("ca", "show", "--data", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--builder", "podman"], ["--builder", "dockerd"]])
def test_the_doctor_looks_without_one(tmp_path: Path, options: list[str]) -> None:
    # A proxy that is not there: all but the builder's own settings is over at once.
    result = run("doctor", "--data", tmp_path / "none", "--proxy", "http://127.0.0.1:9", *options)
    assert "port 9" in result.stdout or "127.0.0.1:9" in result.stdout
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_logins_are_looked_for_where_there_may_be_some(tmp_path: Path) -> None:
    assert logins.find("reg.test", {}, None) is None
    (tmp_path / "config.json").write_text('{"auths": {"reg.test": {"auth": "dTpw"}}}')
    found = logins.find("reg.test", {"DOCKER_CONFIG": str(tmp_path)}, None)
    assert found
    assert found[1] == tmp_path / "config.json"


def test_trust_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run("trust", "system", "--dry-run").stderr
    assert told == f"mirrortap: {NONE}: name the proxy's folder with --data, or set XDG_DATA_HOME\n"
    monkeypatch.setattr(os, "geteuid", lambda: UID)
    told = run("trust", "podman", "--dry-run", "--data", tmp_path).stderr
    assert told == f"mirrortap: {NONE}: set HOME to that of the user who pulls\n"


def test_a_service_says_what_it_lacks() -> None:
    with pytest.raises(StartError, match=r"^no home folder is known .*: name the data folder, or set XDG_DATA_HOME$"):
        Service()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("~/ca.pem", "no home folder is known; write the path out"),
        ("~nobody-here/ca.pem", "there is no user 'nobody-here'"),
    ],
)
def test_a_configuration_that_names_one(tmp_path: Path, name: str, why: str) -> None:
    file = tmp_path / "mirrortap.toml"
    file.write_text(f'[registry."reg.test"]\nca = ["{name}"]\n')
    with pytest.raises(ConfigError) as wrong:
        load([file])
    assert str(wrong.value) == f'{file}: registry."reg.test".ca[0]: {name!r}: {why}'
