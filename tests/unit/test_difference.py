"""What the log says of another configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.config import toml

from addon.config.difference import differences
from addon.config.formats.tables import MirrortapTable
from addon.config.load import load

if TYPE_CHECKING:
    from pathlib import Path

    from support.config import Table

    from addon.config.model import Config

# For each key of [mirrortap], a value that is not its default.
OTHER: dict[str, Any] = {
    "connect-timeout": "4s",
    "first-byte-timeout": "21s",
    "stall-timeout": "61s",
    "hedge-delay": "3s",
    "hedge-origin": True,
    "stale-after": "3s",
    "tag-ttl": "1s",
    "redirect": "public",
    "show-private": True,
    "offline": True,
    "cache-size": "10GB",
    "min-free": "1GB",
    "min-rate": "1kB",
    "keep-filling-from": "30%",
    "quota-floor": 11,
    "prefetch": False,
    "segment-size": "32MiB",
    "connections-per-fill": 3,
    "public-ttl": "2h",
    "private-ttl": "6m",
    "access-ttl": "6m",
    "access-grace": "1s",
    "allow-clients": ["10.0.0.0/8"],
    "proxy-users": "users",
    "tunnel": "registries",
    "tunnel-ports": [443],
    "connections-per-client": 513,
    "header-timeout": "31s",
    "idle-timeout": "11m",
    "drain-timeout": "31s",
    "leaf-life": "6d",
    "intermediate-life": "300d",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users").write_text("amy:$2y$05$XAo4xCG5w4XcTpcY6H2h4eEbyDRMnWTn0cnmEcGNc7MX7Uz7Qy7nG\n")
    return tmp_path


def config(folder: Path, registries: dict[str, Table] | None = None, settings: Table | None = None) -> Config:
    (folder / "mirrortap.toml").write_text(toml(registries or {}, settings))
    return load([folder / "mirrortap.toml"])


def test_every_setting_has_a_value_here() -> None:
    assert OTHER.keys() == {name.replace("_", "-") for name in MirrortapTable.model_fields}


@pytest.mark.parametrize("key", OTHER)
def test_settings_are_told_as_their_keys(folder: Path, key: str) -> None:
    said = differences(config(folder), config(folder, settings={key: OTHER[key]}))
    # Some change what is done with registries, too.
    assert said[-1] == f"set anew: {key}"
    assert all(line.startswith("changed ") for line in said[:-1])


def test_rules_are_told_by_their_patterns(folder: Path) -> None:
    old = config(folder, {"a.io": {"mirrors": ["m.io"]}, "b.io": {}, "c.io/team": {"blocked": True}, "d.io": {}})
    new = config(folder, {"a.io": {"mirrors": ["n.io"]}, "*.b.io": {}, "d.io": {}})
    assert differences(old, new) == ["added *.b.io", "removed b.io, c.io/team", "changed a.io"]
    assert differences(old, old) == differences(new, config(folder, {"d.io": {}, "*.b.io": {}, **_a("n.io")})) == []


def test_how_a_mirror_is_reached(folder: Path) -> None:
    old = config(folder, {"10.0.0.1:5000": {"http": True}, "10.0.0.2:5000": {}})
    new = config(folder, {"10.0.0.1:5000": {"http": True, "insecure": True}, "10.0.0.3:5000": {}})
    what = "how it is reached: "
    assert differences(old, new) == [
        f"{what}added 10.0.0.3:5000",
        f"{what}removed 10.0.0.2:5000",
        f"{what}changed 10.0.0.1:5000",
    ]


def test_of_many_only_some_are_named(folder: Path) -> None:
    (said,) = differences(config(folder), config(folder, {f"r{number:05}.io": {} for number in range(100)}))
    assert said == f"added {', '.join(f'r{number:05}.io' for number in range(10))} and 90 more"


def test_nothing_secret_is_told(folder: Path) -> None:
    def with_header(value: str) -> Config:
        return config(folder, {"a.io": {"mirrors": [{"url": "https://m.io", "headers": {"X-Key": value}}]}})

    assert differences(with_header("s3cret"), with_header("s4cret")) == ["changed a.io"]


def _a(mirror: str) -> dict[str, Table]:
    return {"a.io": {"mirrors": [mirror]}}
