"""Each client, told what README.md's table says, does what that says: by bytes and digests, through `mirrortap serve`.

WRITE_CLIENT_TABLE=1 .venv/bin/pytest tests/e2e/test_client_table.py writes the table anew.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from support import table
from support.clients import Sandbox
from support.drivers import ALWAYS, IF_THERE, MIRRORED, Driver, Machine
from support.images import Image, MultiArch, files, here, sha256
from support.processes import Failed, needs
from support.proxy import ROOT
from support.table import Block, Cell, Column

from e2e.conftest import APP, MULTI
from e2e.farm import BASIC, LOGIN, Farm, Own, farm, slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from support.certificates import Authority
    from support.programs import RealRegistry

README = ROOT / "README.md"
COMMAND = "WRITE_CLIENT_TABLE=1 .venv/bin/pytest tests/e2e/test_client_table.py"

CLIENTS = [*ALWAYS, *(driver for driver in IF_THERE if all(map(shutil.which, driver.programs)))]

# Filled by the tests of their cells.
PROXY_DOOR = Block(
    [column for column in Column if column is not Column.OTHER], {driver.row: driver.told for driver in ALWAYS}
)
MIRROR_DOOR = Block(
    [Column.TAG, Column.DIGEST, Column.INDEX, Column.OTHER], {driver.row: driver.told for driver in MIRRORED}
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, authority: Authority, mirror: RealRegistry) -> Iterator[Farm]:
    with farm(tmp_path_factory.mktemp("farm"), authority, mirror, CLIENTS) as running:
        yield running


class Trial:
    """One client at the farm: what it is given, it has from mirrortap."""

    def __init__(
        self,
        shared: Farm,
        machine: Machine,
        driver: type[Driver],
        column: Column,
        app: Image,
        multi: MultiArch,
    ) -> None:
        self.shared = shared
        self.name = slug(driver)
        self.client = driver(machine, column.name.lower())
        self.app = app
        self.multi = multi

    @property
    def own(self) -> Own:
        return self.shared.own[self.name]

    def pulls(self, name: str, image: Image | MultiArch, cache: str = "hit|miss") -> None:
        """All of it, and each layer from mirrortap, whose log says how it came by it (`cache`)."""
        since = len(self.shared.proxy.log)
        held = self.client.pull(self.client.called(name) if name.startswith("other.example/") else name)
        assert self.client.holds(image) <= held
        self.client.forget()
        repository = name.partition("@")[0].removesuffix(":1.0")
        for layer in here(image).layers:
            self.shared.proxy.log.wait_for(rf"GET {repository} blob {layer.digest[:19]} 200 ({cache})", since=since)


def by_tag(trial: Trial) -> None:
    trial.pulls(APP, trial.app)


def by_digest(trial: Trial) -> None:
    trial.pulls(f"docker.io/library/app@{trial.app.manifest.digest}", trial.app)


def index(trial: Trial) -> None:
    trial.pulls(MULTI, trial.multi)


def other(trial: Trial) -> None:
    """At the same port as Docker Hub."""
    trial.pulls("other.example/library/app:1.0", trial.app)


def private(trial: Trial) -> None:
    """With a login at a token server, from the registry and then from the cache, which others get nothing of."""
    name = f"{LOGIN.host}/team/{trial.name}:1.0"
    trial.client.login(LOGIN)
    for cache in "hit|miss", "hit":
        trial.pulls(name, trial.own.secret, cache)
    since = len(trial.shared.proxy.log)
    anonymous = type(trial.client)(trial.shared.machine, "anonymous")
    with pytest.raises(Failed, match=anonymous.says_refused):
        anonymous.pull(name)
    # A blob may still be on its way to the one who may: docker-registry gets each twice.
    assert [each for each in trial.shared.proxy.answered(since) if each.kind == "manifest"] == []


def resume(trial: Trial) -> None:
    """The endpoint breaks off in the middle of a layer; the client notices nothing."""
    since = len(trial.shared.proxy.log)
    trial.pulls(f"{trial.name}.example/library/cut:1.0", trial.own.broken)
    assert trial.own.cut.hits == 1
    layer = trial.own.broken.layers[0].digest
    assert trial.shared.proxy.log.matching(rf"after [1-9]\d* bytes of {layer}; \S+ goes on from there", since)


def push(trial: Trial) -> None:
    """With a login. The registry then holds the image's layers, however the client has packed them."""
    trial.client.login(BASIC)
    trial.client.push(APP, f"{BASIC.host}/team/{trial.name}:1.0")
    trial.client.forget()
    held = trial.shared.pushed(f"team/{trial.name}", "1.0")
    unpacked = {sha256(gzip.decompress(data)) for data in held.values() if data.startswith(b"\x1f\x8b")}
    assert unpacked == set(json.loads(trial.app.config.data)["rootfs"]["diff_ids"])


def build(trial: Trial) -> None:
    """The container's own sha256sum reads what the image's layers hold."""
    since = len(trial.shared.proxy.log)
    said = trial.client.build(f"FROM {APP}\nRUN sha256sum data/* && touch made\n")
    trial.client.forget()
    for path, data in files(trial.app).items():
        assert f"{sha256(data).removeprefix('sha256:')}  {path}" in said
    assert trial.shared.proxy.answered(since)


CELLS: dict[Column, Callable[[Trial], None]] = {
    Column.TAG: by_tag,
    Column.DIGEST: by_digest,
    Column.INDEX: index,
    Column.PRIVATE: private,
    Column.RESUME: resume,
    Column.PUSH: push,
    Column.BUILD: build,
    Column.OTHER: other,
}


def cells(drivers: Sequence[type[Driver]], block: Block) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("driver", "column"),
        [
            pytest.param(driver, column, id=f"{slug(driver)}-{column.name.lower()}", marks=needs(*driver.programs))
            for driver in drivers
            for column in block.columns
        ],
    )


@cells(CLIENTS, PROXY_DOOR)
def test_proxy_door(driver: type[Driver], column: Column, shared: Farm, app: Image, multi: MultiArch) -> None:
    trial = Trial(shared, shared.machine, driver, column, app, multi)
    if column in driver.lacks:
        trial.client.show_lack(column)
        PROXY_DOOR.cells[driver.row, column] = Cell(False, driver.lacks[column])
    else:
        CELLS[column](trial)
        PROXY_DOOR.cells[driver.row, column] = Cell(True, driver.notes.get(column))


@cells(MIRRORED, MIRROR_DOOR)
def test_mirror_door(driver: type[Driver], column: Column, shared: Farm, app: Image, multi: MultiArch) -> None:
    CELLS[column](Trial(shared, shared.mirrored, driver, column, app, multi))
    MIRROR_DOOR.cells[driver.row, column] = Cell(True, driver.notes.get(column))


@needs(*(program for driver in ALWAYS for program in driver.programs))
def test_the_readme_has_the_table_that_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [*PROXY_DOOR.missing(), *MIRROR_DOOR.missing()]
    assert missing == [], "these cells failed, or did not run: this needs the whole file"
    found = table.render({"Through the proxy:": PROXY_DOOR, "Through the mirror door:": MIRROR_DOOR})
    if os.environ.get("WRITE_CLIENT_TABLE") == "1":
        table.write(README, found)
    with capsys.disabled():
        print("\nclients:", ", ".join(f"{driver.row} {driver.version(tmp_path)}" for driver in CLIENTS))
    assert table.read(README) == found, f"README.md's table of clients is not what was found; {COMMAND} writes it anew"


@needs("skopeo")
def test_a_client_without_the_ca_is_told_so(shared: Farm, tmp_path: Path) -> None:
    """It fails at its own TLS check: nothing makes it trust the proxy by accident."""
    said, got = Sandbox(tmp_path / "plain", proxy=shared.proxy.url).pull_refused(APP)
    assert "x509" in said
    assert got.blobs() == {}
