"""`mirrortap cache ls` and `show`: what is cached of which image, for people, for programs, on a narrow terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from support.cached import Data
from support.images import make_image, make_index

from addon.cache.images import Images
from addon.commands.cache_ls import print_table

if TYPE_CHECKING:
    from support.images import Image, MultiArch

APP, MULTI, PART = "docker.io/library/app:1.0", "quay.io/x/multi:1.0", "reg.corp:5000/team/part:1.0"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> MultiArch:
    return make_index(tmp_path_factory.mktemp("multi"), seed=3)


@pytest.fixture
def data(tmp_path: Path, app: Image, multi: MultiArch) -> Data:
    """An image, one of two platforms of another, and a private one that lacks a layer."""
    data = Data(tmp_path / "data")
    data.pull(APP, app)
    other = multi.images[1]
    data.pull(MULTI, multi, without=(other.manifest.digest, *(blob.digest for blob in other.blobs)))
    part = make_image(tmp_path / "part", seed=5, layer_sizes=(1000, 3_000_000))
    data.pull(PART, part, without=(part.layers[1].digest,), public=False)
    return data


def listed(data: Data, *options: str) -> list[list[str]]:
    return [line.split("\t") for line in data.run("ls", *options).stdout.splitlines()]


def test_lines_for_programs_that_read_lines(data: Data) -> None:
    data.run("pin", APP)
    data.used(time.time() - 3 * 86400)
    assert listed(data) == [
        [APP, "211 kB", "all", "linux/amd64", "3 days ago", "pinned"],
        [MULTI, "212 kB", "1 of 2 platforms", "linux/amd64", "3 days ago", "-"],
        [PART, "2.2 kB", "3 of 4 blobs", "-", "3 days ago", "private"],
    ]
    assert data.run("ls").stderr == "3 images, 426 kB\n"


def test_the_order(data: Data, multi: MultiArch) -> None:
    assert [line[0] for line in listed(data, "--sort", "size")] == [MULTI, APP, PART]
    data.used(1.0)
    data.used(2.0, multi.index.digest)
    assert listed(data, "--sort", "used")[0][0] == MULTI


def test_patterns(data: Data) -> None:
    assert [line[0] for line in listed(data, "quay.io/*", "*part*")] == [MULTI, PART]
    assert listed(data, "nothing") == []


def test_what_images_share_counts_once(data: Data, app: Image) -> None:
    before = json.loads(data.run("ls", "--json").stdout)["size"]
    data.pull("docker.io/library/app:latest", app)
    found = json.loads(data.run("ls", "--json").stdout)
    assert found["size"] == before
    sizes = {image["reference"]: image["size"] for image in found["images"]}
    assert sizes[APP] == sizes["docker.io/library/app:latest"] == sum(part.size for part in (app.manifest, *app.blobs))


def test_what_no_tag_leads_to_has_its_digest_for_a_name(data: Data, app: Image, tmp_path: Path) -> None:
    """A tag that has moved, and an index that was pulled by its digest: not what these consist of."""
    data.pull(APP, make_image(tmp_path / "newer", seed=9))
    pinned = make_index(tmp_path / "pinned", seed=11)
    data.pull(f"quay.io/by/digest@{pinned.index.digest}", pinned)
    assert [line[0] for line in listed(data)] == [
        APP,
        f"docker.io/library/app@{app.manifest.digest}",
        f"quay.io/by/digest@{pinned.index.digest}",
        MULTI,
        PART,
    ]


def test_a_moved_tag_whose_content_has_not_come_is_what_it_was(data: Data, app: Image, tmp_path: Path) -> None:
    newer = make_image(tmp_path / "newer", seed=9)
    data.pull(APP, newer, without=(newer.manifest.digest, *(blob.digest for blob in newer.blobs)))
    found = {image["reference"]: image for image in json.loads(data.run("ls", "--json").stdout)["images"]}
    assert found[APP]["digest"] == app.manifest.digest
    assert found[APP]["complete"]


def test_a_lost_database_is_no_obstacle(data: Data) -> None:
    for file in data.cache_folder.glob("mirrortap.sqlite*"):
        file.unlink()
    assert [line[0] for line in listed(data)] == [APP, MULTI, PART]


def test_show(data: Data, app: Image) -> None:
    data.pull("docker.io/library/app:latest", app)
    data.run("pin", APP)
    shown = data.run("show", "docker.io/app:1.0").stdout
    assert shown.startswith(f"{APP}\n  digest     {app.manifest.digest}\n")
    for line in (
        "here       all, 211 kB",
        "platform   linux/amd64",
        "read by    everybody",
        "pinned     yes",
        "last used  just now",
        "checked    just now, with a registry or by an import",
        f"manifest {app.manifest.digest}",
        f"config {app.config.digest}",
        f"layer {app.layers[1].digest}\n    200 kB, last used just now\n    also in docker.io/library/app:latest",
    ):
        assert f"\n  {line}\n" in shown


def test_show_for_programs(data: Data, multi: MultiArch) -> None:
    found: dict[str, Any] = json.loads(data.run("show", MULTI, "--json").stdout)
    assert found["platforms"] == [
        {"platform": "linux/amd64", "complete": True},
        {"platform": "linux/arm64", "complete": False},
    ]
    here = {part["digest"]: part["here"] for part in found["parts"]}
    one, other = multi.images
    assert here == {
        multi.index.digest: True,
        one.manifest.digest: True,
        **{blob.digest: True for blob in one.blobs},
        other.manifest.digest: False,
    }
    (missing,) = [part for part in found["parts"] if not part["here"]]
    assert (missing["size"], missing["used"]) == (other.manifest.size, None)


def test_what_is_private_or_missing_is_shown(data: Data) -> None:
    shown = data.run("show", PART).stdout
    assert "read by    those who have shown that they may (private)" in shown
    assert "3.0 MB, not here" in shown


def test_what_is_not_cached(data: Data) -> None:
    told = data.run("show", "docker.io/library/other:1.0", code=2).stderr
    assert told == "mirrortap: docker.io/library/other:1.0 is not cached; mirrortap cache ls lists what is\n"


def test_a_narrow_terminal(data: Data) -> None:
    theirs, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    argv = [sys.executable, "-m", "addon.cli", "cache", "ls", "--data", str(data.folder)]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        argv, stdout=ours, cwd=Path(__file__).parents[2], env=environment | {"TERM": "xterm"}
    ) as program:
        os.close(ours)
        shown = b""
        while chunk := read(theirs):
            shown += chunk
    os.close(theirs)
    assert program.returncode == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert all(len(line) <= 40 for line in text.splitlines()), text
    for word in APP, MULTI, PART, "1 of 2 platforms", "private", "3 images, 426 kB":
        assert word in text


def test_a_wide_one(data: Data) -> None:
    with data.opened() as cache:
        images = Images(cache).all()
    console = Console(file=io.StringIO(), width=120)
    print_table(images, console)
    assert isinstance(console.file, io.StringIO)
    first, *lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert first == ["IMAGE", "SIZE", "HERE", "PLATFORMS", "LAST", "USED"]
    assert [line[0] for line in lines] == [APP, MULTI, PART]
    assert lines[2] == [PART, "2.2", "kB", "3", "of", "4", "blobs", "-", "just", "now", "private"]


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # so a terminal ends
        return b""
