"""`mirrortap ca`: what it does, says and exits with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click.testing
import pytest
import trustme
from click.testing import CliRunner, Result
from support.verifiers import handshake

from addon.cli import main
from addon.config.load import load
from ca.authority import Authority
from ca.issuing import fingerprint

if TYPE_CHECKING:
    from support.certificates import Authority as Company

SECRET = "correct horse battery staple"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def phrase(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    return str(path)


def run(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["ca", *arguments, "--data", str(data)])


def done(data: Path, *arguments: str) -> str:
    result = run(data, *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert SECRET not in result.stdout
    return result.stdout


def refused(data: Path, *arguments: str) -> str:
    """The only line."""
    result = run(data, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert SECRET not in line
    return line


def proxy(data: Path) -> Authority:
    """As `mirrortap serve` without a configuration opens it."""
    return Authority.open(data / "ca", load([]).certificate_names())


def test_a_ca_whose_key_is_elsewhere(data: Path, tmp_path: Path, phrase: str) -> None:
    key = tmp_path / "usb-stick.key"
    said = done(data, "init", "--root-key", str(key), "--passphrase-file", phrase)
    made = proxy(data)
    assert not made.created
    assert f"root SHA-256 {made.fingerprint}" in said
    assert f"its key is encrypted, in {key}\n" in said
    assert "mirrortap trust" in said

    shown = done(data, "show")
    assert made.fingerprint in shown
    assert f"key      not in {data}/ca\n" in shown
    assert fingerprint(made.intermediate) in shown
    assert "quay.io" in shown
    assert "by nobody, as far as files say" in shown

    assert f"{key} is encrypted; give its passphrase with --passphrase-file" in refused(
        data, "renew", "--root-key", str(key)
    )
    done(data, "renew", "--root-key", str(key), "--passphrase-file", phrase)
    assert proxy(data).intermediate != made.intermediate


def test_a_configuration_says_for_which_hosts(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "mirrors.toml"
    config.write_text('[registry."reg.example:5000"]\nmirrors = ["m.example"]\n')
    done(data, "init", "--config", str(config), "--root-key", str(tmp_path / "root.key"))
    assert "reg.example" in done(data, "show")
    # Without one the hosts stay, so that a renewal by hand never takes any away.
    done(data, "renew", "--root-key", str(tmp_path / "root.key"))
    assert "reg.example" in done(data, "show")
    config.write_text('[registry."other.example"]\n')
    done(data, "renew", "--root-key", str(tmp_path / "root.key"), "--config", str(config))
    assert "reg.example" not in (shown := done(data, "show"))
    assert "other.example" in shown
    config.write_text("[registry")
    assert f"mirrortap: {config}: " in refused(data, "renew", "--config", str(config))


def test_a_rotation(data: Path) -> None:
    done(data, "init")
    first = proxy(data)
    assert "beside the old one, which still signs" in done(data, "rotate")
    assert "Next root (rotate --switch lets it sign): " in done(data, "show")
    assert len(proxy(data).roots_pem) > len(first.roots_pem)
    said = done(data, "rotate", "--switch")
    assert f"The new root signs now, SHA-256 {proxy(data).fingerprint}" in said
    assert f"The old one is {first.fingerprint}" in said
    assert "Old root (rotate --finish removes it): " in done(data, "show")
    assert f"Removed the old root, SHA-256 {first.fingerprint}" in done(data, "rotate", "--finish")
    assert "no rotation is under way" in refused(data, "rotate", "--abort")
    done(data, "rotate")
    assert "The old one signs as before." in done(data, "rotate", "--abort")


def test_a_companys_ca(data: Path, tmp_path: Path, authority: Company) -> None:
    company = trustme.CA()
    below = company.create_child_ca()
    (tmp_path / "ca.pem").write_bytes(below.cert_pem.bytes())
    (tmp_path / "root.pem").write_bytes(company.cert_pem.bytes())
    key = tmp_path / "ca.key"
    key.touch(0o600)
    key.write_bytes(below.private_key_pem.bytes())
    arguments = ("--certificate", str(tmp_path / "ca.pem"), "--key", str(key))
    assert "which is not there; name the file that has it with --root" in refused(data, "import", *arguments)
    assert "which is not there" in refused(data, "import", *arguments, "--root", str(authority.file))
    said = done(data, "import", *arguments, "--root", str(tmp_path / "root.pem"))
    assert "Builders that trust this root need nothing." in said
    assert f"key      {data}/ca/imported.key" in done(data, "show")
    handshake(tmp_path / "root.pem", proxy(data).leaf("quay.io"), "quay.io")
    assert "this CA was imported; import the one that is to follow it" in refused(data, "rotate")


def test_nothing_to_work_with(data: Path, tmp_path: Path, phrase: str) -> None:
    for command in ("show", "renew", "rotate"):
        assert refused(data, command) == f"mirrortap: {data}/ca: there is no CA; mirrortap ca init makes one"
    assert not data.exists()
    assert "--encrypt asks for the passphrase at a terminal" in refused(data, "init", "--encrypt")
    Path(phrase).write_text("\n")
    assert "its first line is empty" in refused(data, "init", "--passphrase-file", phrase)
    Path(phrase).write_text(SECRET)
    Path(phrase).chmod(0o644)
    assert f"passphrase file {phrase} is open to other users; chmod 600" in refused(
        data, "init", "--passphrase-file", phrase
    )
    assert not (data / "ca").exists()


def test_a_passphrase_is_asked_for_at_a_terminal(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda _: True)

    def typed(*arguments: str, answers: list[str]) -> Result:
        text = "".join(f"{answer}\n" for answer in answers)
        result = CliRunner().invoke(main, ["ca", *arguments, "--data", str(data)], input=text)
        assert SECRET not in result.output
        return result

    assert typed("init", "--encrypt", answers=[SECRET, SECRET]).exit_code == 0
    assert b"ENCRYPTED" in (data / "ca" / "ca.key").read_bytes()
    first = proxy(data).intermediate
    wrong = typed("renew", answers=["wrong"])
    assert wrong.exit_code == 2
    assert "that is not the passphrase of private key" in wrong.stderr
    assert proxy(data).intermediate == first
    assert typed("renew", answers=[SECRET]).exit_code == 0
    assert proxy(data).intermediate != first
