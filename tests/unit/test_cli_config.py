"""`mirrortap config show`: all that holds, where it was said, and no secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from addon.cli import main
from addon.config import values
from addon.config.description import SETTINGS, describe
from addon.config.formats.tables import MirrortapTable
from addon.config.load import load
from addon.config.model import Amount, Config

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority

OWN = """
[mirrortap]
tag-ttl = "90s"
cache-size = "20GiB"
[registry."docker.io"]
mirrors = ["m.test/hub"]
access = "open"
[registry."m.test"]
ca = ["ca.pem"]
[registry."m.test".auth]
username = "me"
password-file = "password"
[registry."r.test/team"]
blocked = true
[registry."r.test"]
mirrors = [
  {url = "https://m.test/r", path-mode = "replaced", ns = false, capabilities = ["pull"]},
]
mode = "offline"
[registry."s.test"]
fallback = false
mirrors = ["n.test"]
"""
HOSTS = """
server = "https://elsewhere.test/v2"
[host."https://h.test:8443"]
  skip_verify = true
  dial_timeout = "1m30s"
  [host."https://h.test:8443".header]
    Authorization = "Basic sesame"
"""


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> tuple[Path, Path]:
    own, certs = tmp_path / "mirrortap.toml", tmp_path / "certs.d"
    own.write_text(OWN)
    (tmp_path / "ca.pem").write_bytes(authority.file.read_bytes())
    (tmp_path / "password").write_text("sesame")
    (tmp_path / "password").chmod(0o600)
    (certs / "quay.io").mkdir(parents=True)
    (certs / "quay.io" / "hosts.toml").write_text(HOSTS)
    return own, certs


def show(*options: str | Path) -> str:
    result = CliRunner().invoke(main, ["config", "show", *map(str, options)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "sesame" not in result.stdout
    return result.stdout


def test_for_people(files: tuple[Path, Path], tmp_path: Path) -> None:
    own, certs = files
    hosts = certs / "quay.io" / "hosts.toml"
    head, rest = show("--config", own, "--config", certs).split("\n\n", 1)
    assert head == f"Configuration: {own}, {certs}"
    assert (
        rest
        == f"""\
docker.io  [{own}:5]
  1. mirror https://m.test/v2/hub  [{own}:6]
       asked for tags, content by digest, told ?ns=
       trusted besides the system's CAs: {tmp_path}/ca.pem
       logs in with the credential for m.test (from {tmp_path}/password), when-client-has-none
  2. origin https://registry-1.docker.io/v2  [{own}:5]
       asked for tags, content by digest
  tags are believed for 90s
  whoever may use the proxy may read what is cached of it

m.test  [{own}:8]
  1. origin https://m.test/v2  [{own}:8]
       asked for tags, content by digest
       trusted besides the system's CAs: {tmp_path}/ca.pem
       logs in with the credential for m.test (from {tmp_path}/password), when-client-has-none
  tags are believed for 90s

quay.io  [{hosts}]
  1. mirror https://h.test:8443/v2  [{hosts}:3]
       asked for tags, content by digest, referrers, told ?ns=
       certificate NOT verified
       headers: Authorization (values not shown)
       connected to within 90s
  2. origin https://elsewhere.test/v2  [{hosts}:2]
       asked for tags, content by digest, told ?ns=
  the origin is asked there, not at the address of its name
  tags are believed for 90s

r.test  [{own}:15]
  offline, from the cache alone
  tags are believed for 90s

r.test/team  [{own}:13]
  blocked: nothing of it is served

s.test  [{own}:20]
  1. mirror https://n.test/v2  [{own}:22]
       asked for tags, content by digest, told ?ns=
  the origin is never asked
  tags are believed for 90s

straight from the origin, cached: gcr.io, ghcr.io, lscr.io, mcr.microsoft.com, nvcr.io, public.ecr.aws, \
registry.gitlab.com, registry.k8s.io, *.azurecr.io, *.gcr.io, *.pkg.dev, *.dkr.ecr.*.amazonaws.com
every other host is tunnelled untouched

[mirrortap], where it is not as by default:
  tag-ttl = "90s"  (default "0s")  [{own}:3]
  cache-size = "20GiB"  (default "75%")  [{own}:4]
"""
    )


def test_for_programs(files: tuple[Path, Path]) -> None:
    own, certs = files
    told = json.loads(show("--json", "--config", own, "--config", certs))
    assert told == describe(load([own, certs]))
    rules = {rule["pattern"]: rule for rule in told["rules"]}
    assert {pattern: rule["origin"] for pattern, rule in rules.items()} == {
        "docker.io": "fallback",
        "m.test": "fallback",
        "quay.io": "moved",
        "r.test": "offline",
        "r.test/team": "blocked",
        "s.test": "never",
    }
    hosts = certs / "quay.io" / "hosts.toml"
    assert rules["quay.io"]["endpoints"][0] == {
        "role": "mirror",
        "name": "h.test:8443",
        "url": "https://h.test:8443/v2",
        "replaces": "",
        "capabilities": ["pull", "referrers", "resolve"],
        "ns": True,
        "tls": {"verify": False, "unverified-networks": [], "ca": [], "client": []},
        "headers": ["Authorization"],
        "dial-timeout": "90s",
        "credential": None,
        "credential-use": None,
        "place": {"file": str(hosts), "line": 3, "keys": 'host."https://h.test:8443"'},
    }
    assert told["settings"][0] == {
        "key": "tag-ttl",
        "value": "90s",
        "default": "0s",
        "place": {"file": str(own), "line": 3, "keys": "mirrortap.tag-ttl"},
    }


def test_warnings_and_a_rule_for_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "certs.d" / "_default"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text('capabilities = ["pull"]\n[host."https://h.test"]\n')
    text = show("--config", tmp_path / "certs.d")
    assert f"\n  WARNING {folder / 'hosts.toml'}: capabilities: means nothing without server" in text
    assert "\n*  [" in text
    assert "\nby the rule *: docker.io, gcr.io" in text


def test_nothing_said() -> None:
    assert show().startswith("Configuration: built in\n\ndocker.io  [built in]\n  1. mirror https://mirror.gcr.io/v2")


def test_a_wrong_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "show", "--config", str(tmp_path / "absent.toml")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"mirrortap: {tmp_path / 'absent.toml'}: there is no such file")


def test_many_rules(tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text("".join(f'[registry."r{i:05}.test"]\nmirrors = ["m.test"]\n' for i in range(2_000)))
    lines = [rule["place"]["line"] for rule in describe(load([file]))["rules"] if rule["place"]]
    assert lines == list(range(1, 4_001, 2))


def test_every_setting_is_told_as_it_is_written() -> None:
    known = {field.alias for field in MirrortapTable.model_fields.values()}
    assert SETTINGS.keys() == known
    written: dict[str, Any] = {key: get(Config({})) for key, get in SETTINGS.items()}
    assert MirrortapTable.model_validate({**written, "tunnel": "all"}) == MirrortapTable()


@given(st.integers(0, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_are_written_as_they_are_read(number: int, unit: str) -> None:
    seconds = MirrortapTable.model_validate({"tag-ttl": f"{number}{unit}"}).tag_ttl
    written = values.written_seconds(seconds)
    assert MirrortapTable.model_validate({"tag-ttl": written}).tag_ttl == pytest.approx(seconds, rel=1e-5)


@given(st.integers(1, 10**9 - 1), st.sampled_from(["B", "kB", "KiB", "MB", "MiB", "GB", "GiB", "TB", "TiB"]))
def test_sizes_are_written_as_they_are_read(number: int, unit: str) -> None:
    amount = MirrortapTable.model_validate({"cache-size": f"{number}{unit}"}).cache_size
    assert MirrortapTable.model_validate({"cache-size": values.written_amount(amount)}).cache_size == amount
    assert values.written_amount(Amount(share=0.125)) == "12.5%"
