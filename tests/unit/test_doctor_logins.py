"""The login that the user who runs the doctor has, from the files that builders' programs read."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from addon.config.login import Password
from addon.doctor.logins import Unreadable, find

if TYPE_CHECKING:
    from pathlib import Path

HUB = "https://index.docker.io/v1/"


def put(path: Path, user: str, server: str = "quay.io") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:pass-word".encode()).decode()
    path.write_text(json.dumps({"auths": {server: {"auth": auth}}}))
    return path


def test_the_first_file_that_has_one_counts(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find("quay.io", environment, tmp_path) is None
    files = [
        put(tmp_path / ".config/containers/auth.json", "last"),
        put(tmp_path / "run/containers/auth.json", "runtime"),
        put(tmp_path / "named.json", "named"),
        put(tmp_path / ".docker/config.json", "docker"),
    ]
    environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "named.json")
    for file, user in zip(reversed(files), ("docker", "named", "runtime", "last"), strict=True):
        assert find("quay.io", environment, tmp_path) == (Password(user, "pass-word"), file)
        put(file, user, "ghcr.io")
    assert find("quay.io", environment, tmp_path) is None


def test_docker_hub_and_another_folder(tmp_path: Path) -> None:
    file = put(tmp_path / "elsewhere/config.json", "alice", HUB)
    found = find("docker.io", {"DOCKER_CONFIG": str(file.parent)}, tmp_path)
    assert found == (Password("alice", "pass-word"), file)


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"quay.io": {"auth": "s3cret"}}}'])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    put(tmp_path / ".docker/config.json", "x").write_text(text)
    with pytest.raises(Unreadable) as unreadable:
        find("quay.io", {}, tmp_path)
    assert str(tmp_path / ".docker/config.json") in str(unreadable.value)
    assert "s3cret" not in str(unreadable.value)


def test_a_helper_that_is_not_there_knows_nobody(tmp_path: Path) -> None:
    put(tmp_path / ".docker/config.json", "x").write_text('{"credsStore": "no-such-helper"}')
    assert find("quay.io", {}, tmp_path) is None
