"""`mirrortap warm`: what it refuses, and says, before it asks anybody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from addon.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def warm(data: Path, *arguments: str, **options: str) -> Result:
    return CliRunner().invoke(main, ["warm", "--data", str(data), *arguments], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name an image, or a file that names some with --from"),
        (["ALPINE"], "'ALPINE' is not a repository name"),
        (["a", "--platform", "linux/$X"], "'linux/$X' is not a platform"),
        (["a", "--platform", "arm64", "--all-platforms"], "exclude each other"),
        (["--from", "-", "--from", "-"], "standard input can be read but once"),
        (["a", "--jobs", "0"], "'--jobs'"),
        (["--from", "/none"], "mirrortap: /none: cannot be read: No such file or directory"),
        (["a", "--config", "/none"], "mirrortap: /none: "),
    ],
)
def test_what_is_refused(data: Path, arguments: list[str], told: str) -> None:
    result = warm(data, *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stdout == ""
    assert not data.exists()


def test_offline(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "mirrortap.toml"
    config.write_text("[mirrortap]\noffline = true\n")
    result = warm(data, "alpine", "--config", str(config))
    assert result.exit_code == 2
    assert result.stderr == (f"mirrortap: {config}: mirrortap is offline (offline = true): nothing can be fetched\n")


def test_an_argument_without_a_value_names_file_line_and_option(data: Path, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("ARG V\nFROM reg.test/app:$V\n")
    result = warm(data, "--from", str(dockerfile))
    assert result.exit_code == 2
    assert result.stderr == (
        f"mirrortap: {dockerfile}:2: FROM reg.test/app:$V: $V has no value:"
        " say it with --build-arg V=..., or give ARG V a default\n"
    )


@pytest.mark.parametrize("argument", ["V=1.0", "V"])
def test_a_registry_that_is_not_served(
    data: Path, tmp_path: Path, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of an argument is that of the environment, where none is given."""
    monkeypatch.setenv("V", "1.0")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("ARG V\nFROM reg.test/app:$V\n")
    result = warm(data, "--from", str(dockerfile), "--build-arg", argument, "--platform", "arm64")
    assert result.exit_code == 1
    first, last = result.stderr.splitlines()
    assert first == "reg.test/app:1.0 linux/arm64: failed"
    assert last == (
        "mirrortap: reg.test/app:1.0 linux/arm64: reg.test is no registry that mirrortap serves: its clients go past"
        ' the cache. Write [registry."reg.test"] into the configuration'
    )
    assert result.stdout == "0 images ready, 0 B downloaded, 1 failed\n"


def test_a_list_on_standard_input(data: Path) -> None:
    result = warm(data, "--from", "-", "--all-platforms", input="reg.test/a # one\nreg.test/b:2\nreg.test/a\n")
    assert result.exit_code == 1
    assert result.stdout == "0 images ready, 0 B downloaded, 2 failed\n"
    assert "mirrortap: reg.test/a:latest all platforms: " in result.stderr
    assert "mirrortap: reg.test/b:2 all platforms: " in result.stderr


def test_notes_of_files(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services: {web: {build: .}}\n")
    result = warm(data, "--from", str(file))
    assert result.exit_code == 0
    assert result.stderr == f"{file}: service web is built: name its Dockerfile to warm what that needs\n"
    assert result.stdout == "0 images ready, 0 B downloaded\n"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = warm(tmp_path / "file" / "data", "alpine")
    assert result.exit_code == 2
    assert f"mirrortap: {tmp_path}/file/data: cannot be written: Not a directory; choose another" in result.stderr


def test_a_key_that_is_open_to_others(data: Path) -> None:
    data.mkdir()
    (data / "fingerprints.key").write_bytes(b"k" * 32)
    (data / "fingerprints.key").chmod(0o644)
    result = warm(data, "reg.test/a")
    assert result.exit_code == 2
    assert "fingerprints.key: is open to other users" in result.stderr


def test_root_leaves_other_users_folders_alone(data: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    data.mkdir()
    os.chown(data, 12345, 12345)
    result = warm(data, "reg.test/a")
    assert result.exit_code == 2
    assert f"{data}: is uid 12345's, who could not use what root writes there; run this as that user" in result.stderr
    assert list(data.iterdir()) == []
