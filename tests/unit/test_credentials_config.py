"""`[registry."H".auth]`: what is refused at start, with the key and the remedy and without the secret."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from support.config import toml

from addon.config.load import load
from addon.config.model import Auth, ConfigError, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from addon.config.model import Config

SECRET = "s3cret-Value"
KEY = 'registry."m.io".auth'


class Folder:
    """A configuration file, and secrets beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "mirrortap.toml"

    def secret(self, name: str, content: str | bytes = f"{SECRET}\n", mode: int = 0o600) -> Path:
        path = self.path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def read(self, auth: Any, host: str = "m.io", **table: Any) -> Config:
        self.file.write_text(toml({"hub.io": {"mirrors": [host]}, host: {"auth": auth, **table}}))
        return load([self.file])

    def refused(self, auth: Any, *told: str) -> None:
        with pytest.raises(ConfigError) as raised:
            self.read(auth)
        message = str(raised.value)
        for part in (str(self.file), KEY, *told):
            assert part in message
        assert SECRET not in message


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def auth_of(config: Config) -> Auth | None:
    (mirror,) = config.rules["hub.io"].mirrors
    return mirror.auth


def test_a_password_a_token_and_docker_s_config(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder.secret("secret")
    docker = folder.secret("config.json", json.dumps({"auths": {"m.io": {"username": "u", "password": SECRET}}}))
    monkeypatch.setenv("THE_SECRET", SECRET)
    in_file, in_env = Secret(file), Secret(env="THE_SECRET")
    for table, auth in (
        ({"username": "u", "password-file": "secret"}, Auth("m.io", "u", in_file)),
        ({"username": "u", "password-env": "THE_SECRET", "use": "always"}, Auth("m.io", "u", in_env, use="always")),
        ({"token-file": file}, Auth("m.io", token=in_file)),
        ({"token-env": "THE_SECRET"}, Auth("m.io", token=in_env)),
        ({"docker-config": "config.json"}, Auth("m.io", docker_config=docker)),
    ):
        config = folder.read(table)
        assert auth_of(config) == auth
        assert config.warnings == ()
        assert SECRET not in repr(config)
        assert str(file) in str(auth) or "$THE_SECRET" in str(auth) or str(docker) in str(auth)


def test_it_is_the_origins_too_wherever_that_is(folder: Folder) -> None:
    folder.secret("secret")
    for table in {}, {"server": "https://elsewhere.io"}:
        (origin,) = folder.read({"token-file": "secret"}, **table).rules["m.io"].origins
        assert origin.auth == Auth("m.io", token=Secret(folder.path / "secret"))
    config = folder.read({"token-file": "secret"}, "registry-1.docker.io:443")
    assert [origin.auth and origin.auth.registry for origin in config.rules["docker.io"].origins] == ["docker.io"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, ["names no credential", "docker-config"]),
        ({"use": "always"}, ["names no credential"]),
        ({"username": "u"}, [".username", "needs password-file or password-env beside it"]),
        ({"password-file": "good"}, ["without a username", "write username"]),
        ({"password-env": "GOOD"}, ["without a username"]),
        (
            {"username": "u", "password-file": "good", "password-env": "GOOD"},
            ["password-file and password-env", "keep"],
        ),
        ({"token-file": "good", "token-env": "GOOD"}, ["token-file and token-env", "keep one"]),
        ({"token-file": "good", "docker-config": "c"}, ["token-file and docker-config", "keep one kind"]),
        ({"username": "u", "docker-config": "c"}, ["username", "needs password-file"]),
        (
            {"username": "u", "password-env": "GOOD", "token-env": "GOOD"},
            ["password-env and token-env", "keep one kind"],
        ),
        ({"username": "", "password-file": "good"}, [".username", "is empty"]),
        ({"token-file": ""}, [".token-file", "is empty"]),
        ({"docker-config": ""}, [".docker-config", "is empty"]),
        ({"username": "u:v", "password-file": "good"}, ["colon", "good"]),
        ({"token-env": "NO_SUCH_VARIABLE"}, ["NO_SUCH_VARIABLE", "not set"]),
        ({"token-env": "EMPTY"}, ["EMPTY", "not set, or empty"]),
        ({"token-file": "absent"}, ["absent: there is no such file"]),
        ({"token-file": "."}, ["cannot be read: Is a directory"]),
        ({"token-file": "fifo"}, ["fifo", "is not a file"]),
        ({"token-file": "a\0b"}, ["cannot be read", "null"]),
        ({"token-file": "empty"}, ["empty is empty", "write the secret"]),
        ({"token-file": "break"}, ["break is empty"]),
        ({"token-file": "two-lines"}, ["line breaks", "two-lines"]),
        ({"username": "u", "password-file": "two-lines"}, ["line break", "two-lines"]),
        ({"token-file": "binary"}, ["binary is not UTF-8 text"]),
        ({"token-file": "huge"}, ["huge has more than"]),
        ({"token-file": "world"}, ["can be read or written by everybody", "chmod o= ", "/world"]),
        ({"token-file": "writable"}, ["can be read or written by everybody", "chmod o= "]),
        ({"docker-config": "world"}, ["can be read or written by everybody"]),
        ({"docker-config": "absent"}, ["there is no such file"]),
        ({"docker-config": "good"}, ["good is not valid JSON"]),
        ({"docker-config": "deep"}, ["deep is not valid JSON"]),
        ({"docker-config": "none.json"}, ["has no credential for m.io", "docker login m.io"]),
        ({"docker-config": "helper.json"}, ["docker-credential-no-such-helper", "not on PATH"]),
        # In the wrong place.
        ({"password": SECRET}, [".password", "unknown key; did you mean password-"]),
        ({"token": SECRET}, [".token", "unknown key; did you mean token-"]),
        ({"token-file": [SECRET]}, [".token-file", "string"]),
        (SECRET, ["dictionary"]),
        ({"token-env": "GOOD", "use": "sometimes"}, [".use", "'always' or 'when-client-has-none'"]),
    ],
)
def test_what_is_refused(
    table: Mapping[str, Any], told: list[str], folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD", SECRET)
    monkeypatch.setenv("EMPTY", "")
    folder.secret("good")
    folder.secret("empty", "")
    folder.secret("break", "\n")
    folder.secret("two-lines", f"{SECRET}\nmore\n")
    folder.secret("binary", b"\xff" + SECRET.encode())
    folder.secret("huge", SECRET * 100_000)
    folder.secret("world", mode=0o644)
    folder.secret("writable", mode=0o602)
    folder.secret("deep", "[" * 100_000)
    folder.secret("none.json", json.dumps({"auths": {"n.io": {"username": "u", "password": SECRET}, "m.io": {}}}))
    folder.secret("helper.json", json.dumps({"credHelpers": {"m.io": "no-such-helper"}}))
    os.mkfifo(folder.path / "fifo", 0o600)
    folder.refused(table, *told)


def test_a_group_may_read_it(folder: Folder) -> None:
    """As secrets are mounted for a service that does not run as root."""
    folder.secret("secret", mode=0o440)
    assert auth_of(folder.read({"token-file": "secret"}))


@pytest.mark.parametrize(("table", "told"), [({"http": True}, "plain http"), ({"insecure": True}, "insecure = true")])
def test_a_credential_that_can_be_read_on_the_way_is_warned_of(
    table: Mapping[str, Any], told: str, folder: Folder
) -> None:
    folder.secret("secret")
    (warning,) = folder.read({"token-file": "secret"}, **table).warnings
    assert KEY in warning
    assert told in warning
    assert folder.read({"token-file": "secret"}, "127.0.0.1:5000", **table).warnings == ()
