"""`mirrortap cache`: what it does, says and exits with."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from support.images import make_image

from addon.cache import database
from addon.cache.contents import Contents
from addon.cache.store import Store
from addon.cache.tags import Tags
from addon.cli import main
from addon.oci import MANIFEST_TYPES, Digest

if TYPE_CHECKING:
    from support.images import Image

    from addon.cache.connection import Connection

ALPINE = "docker.io/library/alpine:3.20"


class Data:
    """A data folder with an image that is cached as docker.io/library/alpine:3.20."""

    def __init__(self, folder: Path, image: Image) -> None:
        self.folder = folder
        self.image = image
        self.store = Store(folder / "cache")
        for part in (image.manifest, *image.blobs):
            self.store.add(Digest.parse(part.digest), part.data)
        with closing(self.open()) as connection:
            contents = Contents(self.store, connection)
            for part in (image.manifest, *image.blobs):
                contents.added(Digest.parse(part.digest))
            Tags(connection).record(
                "docker.io", "library/alpine", "3.20", frozenset(MANIFEST_TYPES), Digest.parse(image.manifest.digest)
            )

    def open(self) -> Connection:
        return database.connect(self.store.folder / "mirrortap.sqlite")

    def path(self, digest: str) -> Path:
        return self.store.path(Digest.parse(digest))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["cache", *arguments, "--data", str(self.folder)])

    def refused(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        return result.stderr

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        with closing(self.open()) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data", make_image(tmp_path / "image"))


# --- verify ---


def test_a_sound_cache(data: Data) -> None:
    result = data.run("verify")
    size = sum(file.size for file in data.store.contents())
    assert result.exit_code == 0
    assert result.stdout == f"4 files checked, {size / 1000:.0f} kB: 0 damaged, 0 that did not belong there\n"
    assert result.stderr == ""


def test_damage_is_removed_and_told(data: Data) -> None:
    config, layer = data.image.config, data.image.layers[1]
    data.path(config.digest).write_bytes(config.data[:-1])
    content = bytearray(layer.data)
    content[1000] ^= 1
    data.path(layer.digest).write_bytes(content)
    result = data.run("verify")
    assert result.exit_code == 1
    *told, summary = result.stdout.splitlines()
    assert set(told) == {f"damaged, removed: {data.path(part.digest)}" for part in (config, layer)}
    assert summary.startswith("4 files checked, ")
    assert summary.endswith(": 2 damaged, 0 that did not belong there")
    left = {str(file.digest) for file in data.store.contents()}
    assert left == {data.image.manifest.digest, data.image.layers[0].digest}
    assert {digest for (digest,) in data.rows("SELECT digest FROM content")} == left
    again = data.run("verify")
    assert again.exit_code == 0
    assert again.stdout.startswith("2 files checked, ")


def test_what_does_not_belong_there_is_removed(data: Data) -> None:
    blobs = data.store.folder / "blobs"
    (blobs / "sha256" / "notes.txt").write_text("")
    (blobs / "sha256" / Digest.of(b"folder").encoded).mkdir()
    (blobs / "sha256" / Digest.of(b"folder").encoded / "file").write_text("")
    (blobs / "sha256" / Digest.of(b"link").encoded).symlink_to(data.path(data.image.config.digest))
    (blobs / "file").write_text("")
    before = {path for path in data.store.folder.rglob("*") if blobs not in path.parents}
    result = data.run("verify")
    assert result.exit_code == 0, "nothing that is served was damaged"
    *told, summary = result.stdout.splitlines()
    assert len(told) == 4
    assert all(line.startswith(f"not content, removed: {blobs}/") for line in told)
    assert summary.endswith(": 0 damaged, 4 that did not belong there")
    assert {path for path in blobs.rglob("*") if path.is_file()} == {
        data.path(part.digest) for part in (data.image.manifest, *data.image.blobs)
    }
    assert {path for path in data.store.folder.rglob("*") if blobs not in path.parents} >= before


def test_downloads_that_go_on_are_left_alone(data: Data) -> None:
    partial = data.store.begin(Digest.of(b"coming"))
    partial.claim()
    partial.write(b"com")
    assert data.run("verify").exit_code == 0
    partial.write(b"ing")
    partial.commit()
    partial.close()
    assert data.run("verify").stdout.startswith("5 files checked, ")


def test_what_was_checked_is_written_down(data: Data) -> None:
    with closing(data.open()) as connection:
        connection.execute("UPDATE content SET checked = 0")
        connection.execute("DELETE FROM content WHERE digest = ?", (data.image.config.digest,))
    data.run("verify")
    assert data.rows("SELECT count(*), min(checked) > 0 FROM content") == [(4, 1)]


def test_a_lost_database_is_no_obstacle(data: Data) -> None:
    for file in data.store.folder.glob("mirrortap.sqlite*"):
        file.unlink()
    assert data.run("verify").exit_code == 0
    assert data.rows("SELECT count(*) FROM content") == [(4,)]


def test_progress_is_for_terminals(data: Data) -> None:
    theirs, ours = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "addon.cli", "cache", "verify", "--data", str(data.folder)],
        stdout=subprocess.PIPE,
        stderr=ours,
        cwd=Path(__file__).parents[2],
    ) as program:
        os.close(ours)
        shown = b""
        while chunk := read(theirs):
            shown += chunk
        assert program.stdout
        assert program.stdout.read().startswith(b"4 files checked, ")
    os.close(theirs)
    assert b"100%" in shown


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # so a terminal ends
        return b""


# --- pins ---


def test_pins_are_set_listed_and_lifted(data: Data) -> None:
    size = sum(file.size for file in data.store.contents())
    here = f"{ALPINE}  4 files, {size / 1000:.0f} kB\n"
    assert data.run("pins").stdout == ""
    for _ in range(2):
        result = data.run("pin", ALPINE)
        assert (result.exit_code, result.stdout) == (0, here)
    other = f"quay.io/x/y@{Digest.of(b'')}"
    assert data.run("pin", other).stdout == f"{other}  nothing of it is cached yet\n"
    assert data.run("pins").stdout == f"{here}{other}  nothing of it is cached yet\n"
    result = data.run("unpin", ALPINE, other)
    assert (result.exit_code, result.stdout) == (0, "")
    assert data.run("pins").stdout == ""


@pytest.mark.parametrize("name", ["alpine:3.20", "docker.io/alpine:3.20", "index.docker.io/library/alpine:3.20"])
def test_images_are_named_as_people_do(data: Data, name: str) -> None:
    assert data.run("pin", name).stdout.startswith(f"{ALPINE}  4 files")
    assert data.run("unpin", name).exit_code == 0


def test_what_is_not_pinned(data: Data) -> None:
    told = data.refused("unpin", ALPINE)
    assert told == f"mirrortap: {ALPINE} is not pinned; mirrortap cache pins lists what is\n"


def test_what_is_no_reference(data: Data) -> None:
    assert "'ALPINE' is not a repository name" in data.refused("pin", "ALPINE")
    assert "is neither a tag nor a digest" in data.refused("unpin", "docker.io/library/alpine:")
    assert data.rows("SELECT * FROM pin") == []
    data.refused("pin", ALPINE, "ALPINE")
    assert data.rows("SELECT * FROM pin") == [], "all or nothing"


def test_a_pin_that_could_not_be_written(data: Data) -> None:
    with closing(data.open()) as connection:
        connection.execute("CREATE TRIGGER broken BEFORE INSERT ON pin BEGIN SELECT raise(FAIL, 'full'); END")
    assert f"{ALPINE} could not be pinned" in data.refused("pin", ALPINE)


# --- folders ---


@pytest.mark.parametrize("command", [["verify"], ["pins"], ["pin", ALPINE], ["unpin", ALPINE]])
def test_a_folder_without_a_cache(tmp_path: Path, command: list[str]) -> None:
    result = CliRunner().invoke(main, ["cache", *command, "--data", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert result.stderr == (
        f"mirrortap: {tmp_path}/nothing/cache: there is no cache; name the proxy's folder with --data\n"
    )
    assert not (tmp_path / "nothing").exists()


def test_the_default_folder_is_the_proxys(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(data.folder.parent))
    data.folder.rename(data.folder.parent / "mirrortap")
    assert CliRunner().invoke(main, ["cache", "verify"]).stdout.startswith("4 files checked, ")


def test_blobs_that_cannot_be_listed(data: Data) -> None:
    (data.store.folder / "blobs").rename(data.store.folder / "elsewhere")
    (data.store.folder / "blobs").write_text("")
    assert data.refused("verify") == f"mirrortap: {data.store.folder}/blobs: Not a directory\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_imports_into_nobody_elses_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 12345, 12345)
    result = CliRunner().invoke(main, ["cache", "import", str(tmp_path), "--data", str(data)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"mirrortap: {data}: is uid 12345's, who could not use what root writes there; run this as that user:"
        " docs/deploy/systemd.md says how for a service\n"
    )
    assert list(data.iterdir()) == []
