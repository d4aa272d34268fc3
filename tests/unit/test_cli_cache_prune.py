"""`mirrortap cache prune`: what goes, what stays, and what is said of it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from support.cached import Data
from support.images import make_image, make_index, parts

from addon.oci import Digest

if TYPE_CHECKING:
    from pathlib import Path

    from support.images import Image, MultiArch

OLD, NEW = "docker.io/library/app:1.0", "docker.io/library/app:2.0"
DAY = 86400.0


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("old"), layer_sizes=(1000, 2000))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> MultiArch:
    return make_index(tmp_path_factory.mktemp("new"), seed=3, layer_sizes=(1000,))


@pytest.fixture
def data(tmp_path: Path, old: Image, new: MultiArch) -> Data:
    data = Data(tmp_path / "data")
    data.pull(OLD, old)
    data.pull(NEW, new)
    return data


def tags(data: Data) -> set[str]:
    with data.opened() as cache:
        return {reference for reference, *_ in cache.tags.all()}


def test_without_a_wish_what_no_tag_leads_to(data: Data, old: Image, new: MultiArch, tmp_path: Path) -> None:
    moved = make_image(tmp_path / "moved", seed=7)
    data.pull(OLD, moved)
    with data.opened() as cache:
        cache.store.add(Digest.of(b"of no image"), b"of no image")
    told = data.run("prune").stdout
    gone = parts(old)
    assert told == (
        f"docker.io/library/app@{old.manifest.digest}  {sum(map(len, gone.values())) / 1000:.1f} kB\n"
        f"removed: 5 files, {(sum(map(len, gone.values())) + 11) / 1000:.1f} kB\n"
    )
    assert data.held() == {*parts(moved), *parts(new)}
    assert tags(data) == {OLD, NEW}


def test_a_dry_run(data: Data, old: Image) -> None:
    before = data.held()
    told = data.run("prune", OLD, "--dry-run").stdout
    assert told.startswith(f"{OLD}  ")
    assert "would go: 4 files, " in told
    assert data.held() == before
    assert tags(data) == {OLD, NEW}


def test_images_by_name(data: Data, old: Image, new: MultiArch) -> None:
    data.pull("docker.io/library/app:stable", old)
    assert "removed: 0 files" in data.run("prune", OLD).stdout
    assert data.held() == {*parts(old), *parts(new)}, "another tag leads there"
    assert tags(data) == {NEW, "docker.io/library/app:stable"}
    data.run("prune", "docker.io/app:stable", NEW)
    assert data.held() == set()
    assert data.run("ls").stdout == ""


def test_an_image_by_its_digest_that_another_repository_has_too(data: Data, old: Image) -> None:
    name = f"quay.io/x/y@{old.manifest.digest}"
    data.pull(name, old)
    assert name in data.run("ls").stdout
    assert "removed: 0 files" in data.run("prune", name).stdout
    assert name not in data.run("ls").stdout


def test_by_age_an_image_goes_as_a_whole_or_not_at_all(data: Data, old: Image, new: MultiArch) -> None:
    """A builder that has the layers asks for manifests alone."""
    data.used(time.time() - 40 * DAY)
    data.used(time.time() - DAY, new.images[0].manifest.digest)
    assert "removed: 0 files" in data.run("prune", "--older-than", "60d").stdout
    data.run("prune", "--older-than", "30d")
    assert data.held() == set(parts(new))
    assert tags(data) == {NEW}


def test_wishes_add_up(data: Data, old: Image, tmp_path: Path) -> None:
    data.used(time.time() - 40 * DAY)
    data.pull(OLD, make_image(tmp_path / "moved", seed=7))
    before = data.held()
    assert "removed: 0 files" in data.run("prune", "--untagged", "--older-than", "60d").stdout
    data.run("prune", "--untagged", "--older-than", "30d")
    assert data.held() == before - set(parts(old))


def test_everything_but_what_is_pinned(data: Data, old: Image) -> None:
    data.run("pin", OLD)
    data.run("prune", "--all")
    assert data.held() == set(parts(old))
    told = data.run("prune", OLD, code=2).stderr
    assert told == f"mirrortap: {OLD} is pinned; mirrortap cache unpin lets it go\n"
    data.run("unpin", OLD)
    data.run("prune", "--all")
    assert data.held() == set()


def test_a_part_of_an_image_that_is_pinned(data: Data, new: MultiArch) -> None:
    image = new.images[0]
    data.run("pin", f"docker.io/library/app@{image.manifest.digest}")
    data.run("prune", "--all")
    assert data.held() == set(parts(image))


def test_what_is_read_stays(data: Data, old: Image) -> None:
    layer = old.layers[0].digest
    with data.opened() as cache:
        fd = cache.store.open(Digest.parse(layer))
        told = data.run("prune", OLD).stdout
        os.close(fd)
    assert "in use, left alone: 1 file; they can go later" in told
    assert layer in data.held()
    data.run("prune")
    assert layer not in data.held()


def test_leftovers_of_downloads_that_do_not_go_on(data: Data) -> None:
    with data.opened() as cache:
        dead, alive = cache.store.begin(Digest.of(b"dead")), cache.store.begin(Digest.of(b"alive"))
        for partial in dead, alive:
            partial.claim()
            partial.write(b"some of it")
        dead.close()
        assert "removed: 0 files" in data.run("prune", "--older-than", "1d").stdout
        told = data.run("prune").stdout
        assert "removed: 1 file, 10 B\nin use, left alone: 1 file" in told
        assert [file.digest for file in cache.store.partials()] == [Digest.of(b"alive")]
        alive.close()


def test_what_is_no_wish(data: Data) -> None:
    assert "'soon' is not a duration: write 30d" in data.run("prune", "--older-than", "soon", code=2).stderr
    assert "--all is everything" in data.run("prune", "--all", OLD, code=2).stderr
    other = "docker.io/library/other:1.0"
    assert f"{other} is not cached" in data.run("prune", other, OLD, code=2).stderr
    assert tags(data) == {OLD, NEW}


def test_index_json_follows(data: Data) -> None:
    data.run("prune", OLD)
    written = (data.cache_folder / "index.json").read_text()
    assert NEW in written
    assert OLD not in written
