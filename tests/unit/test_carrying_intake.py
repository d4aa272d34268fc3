"""Archives into the cache, and out of it: nothing but what its digest says, and no tag before all of it is there."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archives import LAYOUT, OCI_NAME, blob, index, layout, saved, special, tarred, written
from support.cached import Data
from support.images import make_image, make_index, parts, sha256

from addon.cache.reference import Reference
from addon.carrying import intake, members
from addon.oci import DOCKER_MANIFEST, MANIFEST_TYPES, Digest

if TYPE_CHECKING:
    from support.archives import Entry
    from support.images import Image, MultiArch

APP, MULTI = "docker.io/library/app:1.0", "quay.io/x/multi:1.0"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("app"), layer_sizes=(1000, 20_000))


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> MultiArch:
    return make_index(tmp_path_factory.mktemp("multi"), seed=3, layer_sizes=(1000,))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Nothing is there yet."""
    return Data(tmp_path / "data")


def tags(data: Data) -> dict[str, str]:
    """What is known of tags, newest first."""
    with data.opened() as cache:
        found: dict[str, str] = {}
        for reference, digest, _ in cache.tags.all():
            found.setdefault(reference, str(digest))
        return found


def linked(data: Data, name: str) -> set[str]:
    reference = Reference.parse(name)
    with data.opened() as cache:
        rows = cache.database.execute(
            "SELECT digest FROM link WHERE registry = ? AND repository = ?", (reference.registry, reference.repository)
        ).fetchall()
    return {digest for (digest,) in rows}


def refused(data: Data, archive: Path, *options: str) -> str:
    """Of which nothing stays."""
    told = data.run("import", archive, *options, code=2).stderr
    assert told.startswith(f"mirrortap: {archive}: ")
    assert told.endswith("\nNothing of it was imported.\n")
    assert data.held() == set()
    assert tags(data) == {}
    assert list((data.cache_folder / "partial").iterdir()) == []
    return told.removeprefix(f"mirrortap: {archive}: ").removesuffix("\nNothing of it was imported.\n")


def files(entries: list[Entry]) -> list[tuple[str, bytes]]:
    return [entry for entry in entries if not isinstance(entry, tarfile.TarInfo)]


# --- import ---


def test_an_archive_with_two_images(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    told = data.run("import", written(tmp_path / "images.tar", layout({APP: app, MULTI: multi}))).stdout
    assert told.splitlines()[0].startswith(f"imported {APP}  4 files, ")
    assert told.splitlines()[1].startswith(f"imported {MULTI}  7 files, ")
    assert data.held() == {*parts(app), *parts(multi)}
    assert tags(data) == {APP: app.manifest.digest, MULTI: multi.index.digest}
    assert linked(data, APP) == set(parts(app))
    listed = json.loads((data.cache_folder / "index.json").read_text())["manifests"]
    assert {entry["annotations"][OCI_NAME]: entry["digest"] for entry in listed} == tags(data)
    assert listed[0]["annotations"]["mirrortap.public"] == "true"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_and_by_standard_input(compress: Any, data: Data, app: Image, tmp_path: Path) -> None:
    archive = tmp_path / "image"
    archive.write_bytes(compress(tarred(layout({APP: app}))))
    argv = [sys.executable, "-m", "addon.cli", "cache", "import", "-", "--data", str(data.folder)]
    if compress is gzip.compress:
        data.run("import", archive)
    else:
        with open(archive, "rb") as file:
            subprocess.run(argv, stdin=file, check=True, cwd=Path(__file__).parents[2])
    assert data.held() == set(parts(app))


def test_a_folder(data: Data, app: Image) -> None:
    told = data.run("import", app.layout, code=1).stderr
    assert "is called '1.0' there: say which image it is with --as REGISTRY/REPOSITORY:TAG" in told
    assert data.held() == set(), "what nothing refers to does not stay"
    data.run("import", app.layout, "--as", "docker.io/app:2.0")
    assert tags(data) == {"docker.io/library/app:2.0": app.manifest.digest}


def test_an_image_by_its_digest(data: Data, app: Image, tmp_path: Path) -> None:
    name = f"docker.io/library/app@{app.manifest.digest}"
    data.run("import", written(tmp_path / "image.tar", layout({name: app})))
    assert tags(data) == {}
    assert linked(data, name) == set(parts(app))
    other = f"docker.io/library/app@{Digest.of(b'')}"
    told = data.run("import", written(tmp_path / "image.tar", layout({other: app})), code=1).stderr
    assert f"not imported: {other}: is {app.manifest.digest} in the archive" in told


def test_annotations_may_be_null(data: Data, app: Image, tmp_path: Path) -> None:
    entries = [LAYOUT, index([{**app.top.as_json(), "annotations": None}])]
    entries += [blob(digest, content) for digest, content in parts(app).items()]
    data.run("import", written(tmp_path / "image.tar", entries), "--as", APP)
    assert tags(data) == {APP: app.manifest.digest}


def test_what_docker_saves_now(data: Data, app: Image, tmp_path: Path) -> None:
    """Since version 25: an image layout, and a manifest.json for older ones beside it."""
    entries = layout({APP: app})
    docker = [{"Config": f"blobs/{app.config.digest.replace(':', '/')}", "RepoTags": ["app:1.0"], "Layers": []}]
    data.run("import", written(tmp_path / "saved.tar", [*entries, ("manifest.json", json.dumps(docker).encode())]))
    assert tags(data) == {APP: app.manifest.digest}


def test_what_docker_saved(data: Data, app: Image, tmp_path: Path) -> None:
    told = data.run("import", written(tmp_path / "saved.tar", saved(app, "app:1.0", "localhost:5000/x/app:2.0"))).stdout
    assert f"imported {APP}  " in told
    assert (
        'Clients get the images of localhost:5000 if the configuration has a table [registry."localhost:5000"].' in told
    )
    manifest = json.loads(data.path(tags(data)[APP]).read_bytes())
    layers = [gzip.decompress(layer.data) for layer in app.layers]
    assert manifest == {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": app.config.size,
            "digest": app.config.digest,
        },
        "layers": [
            {"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": len(layer), "digest": sha256(layer)}
            for layer in layers
        ],
    }
    assert data.held() == {tags(data)[APP], app.config.digest, *map(sha256, layers)}
    assert tags(data)["localhost:5000/x/app:2.0"] == tags(data)[APP]


def test_what_docker_saved_by_its_id(data: Data, app: Image, tmp_path: Path) -> None:
    archive = written(tmp_path / "saved.tar", saved(app))
    assert "has no name there: say which image it is with --as" in data.run("import", archive, code=1).stderr
    data.run("import", archive, "--as", APP)
    assert list(tags(data)) == [APP]


def test_a_tag_means_what_was_imported_last(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    """Whatever it was, to whichever clients, and also where that is imported again."""
    data.pull(APP, multi)
    for image in app, multi, app:
        data.run("import", written(tmp_path / "image.tar", layout({APP: image})))
        with data.opened() as cache:
            for accepts in frozenset(MANIFEST_TYPES), frozenset({DOCKER_MANIFEST}):
                newest, *_ = cache.tags.pointers("docker.io", "library/app", "1.0", accepts)
                assert str(newest.digest) == image.top.digest


def test_what_is_known_as_private_stays_private(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    data.pull(MULTI, multi, public=False)
    told = data.run("import", written(tmp_path / "images.tar", layout({APP: app, MULTI: multi}))).stdout
    assert told.count("stays private") == 1
    assert "stays private, as quay.io/x/multi was in this cache" in told
    with data.opened() as cache:
        private, public = cache.rights.verdict("quay.io", "x/multi"), cache.rights.verdict("docker.io", "library/app")
    assert private
    assert not private.public
    assert public
    assert (public.public, public.fresh) == (True, False), "a proxy that can ask asks before it believes an archive"


def test_what_only_some_were_given_stays_private(data: Data, app: Image, tmp_path: Path) -> None:
    """Refusals are soon forgotten; what clients have shown is not."""
    with data.opened() as cache:
        cache.rights.prove("somebody", "docker.io", "library/app", None)
    assert "stays private" in data.run("import", written(tmp_path / "image.tar", layout({APP: app}))).stdout
    with data.opened() as cache:
        assert cache.rights.verdict("docker.io", "library/app") is None


def test_what_the_cache_has_is_not_given_to_an_archive_that_only_names_it(
    data: Data, app: Image, tmp_path: Path
) -> None:
    """Else a digest that has become known would open a private layer."""
    private = "reg.corp/secret:1.0"
    data.pull(private, app, public=False)
    layer = app.layers[0].digest
    archive = written(tmp_path / "image.tar", layout({APP: app}, without=(layer,)))
    told = data.run("import", archive, code=1).stderr
    assert f"not imported: {APP}: 1 of its 4 files are not in the archive ({layer[:19]} is one)" in told
    data.run("import", archive, "--partial")
    assert linked(data, APP) == set(parts(app)) - {layer}
    assert data.held() == set(parts(app)), "what was there stays there"


def test_one_platform_of_an_index_is_enough(data: Data, multi: MultiArch, tmp_path: Path) -> None:
    one, other = multi.images
    without = other.manifest.digest, *(part.digest for part in other.blobs)
    data.run("import", written(tmp_path / "image.tar", layout({MULTI: multi}, without=without)))
    assert tags(data) == {MULTI: multi.index.digest}
    assert data.held() == {multi.index.digest, one.manifest.digest, *(part.digest for part in one.blobs)}


def test_what_fails_does_not_keep_the_others_away(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    without = tuple(image.manifest.digest for image in multi.images)
    archive = written(tmp_path / "images.tar", layout({MULTI: multi, APP: app}, without=without))
    assert f"not imported: {MULTI}: " in data.run("import", archive, code=1).stderr
    assert tags(data) == {APP: app.manifest.digest}
    assert data.held() == set(parts(app))


def test_what_is_there_already_is_checked_but_not_written_again(data: Data, app: Image, tmp_path: Path) -> None:
    data.pull("docker.io/library/other:1.0", app)
    inode = data.path(app.layers[0].digest).stat().st_ino
    entries = layout({APP: app})
    data.run("import", written(tmp_path / "image.tar", entries))
    assert data.path(app.layers[0].digest).stat().st_ino == inode
    ((name, content),) = files([blob(app.layers[0].digest, b"x" * app.layers[0].size)])
    told = data.run("import", written(tmp_path / "bad.tar", [*entries, (name, content)]), code=2).stderr
    assert f"'{name}': its bytes have digest {sha256(content)}: the archive is damaged" in told
    assert data.held() == set(parts(app))


def test_what_the_disk_has_no_room_for(data: Data, app: Image, tmp_path: Path) -> None:
    """A petabyte, by its header: refused before a byte of it is read."""
    huge = tarfile.TarInfo(f"blobs/{Digest.of(b'').algorithm}/{Digest.of(b'').encoded}")
    huge.size = 1 << 50
    archive = tmp_path / "huge.tar"
    archive.write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + tarred(layout({APP: app})))
    told = data.run("import", archive, code=2).stderr
    assert "alone has 1125900 GB; make room, or choose another folder with --data" in told
    assert data.held() == set()


def test_a_proxy_that_starts_meanwhile_leaves_it_alone(data: Data, app: Image, tmp_path: Path) -> None:
    archive = written(tmp_path / "image.tar", layout({APP: app}))
    with data.opened() as cache, intake.Intake(cache, lambda count: None) as taking, members.opened(archive) as found:
        for member in found:
            with cache.store.receive() as incoming:
                incoming.write(b"half of it")
                cache.store.sweep()
                taking.take(member)
                incoming.write(b", and the rest")
                incoming.keep()
        taking.adopt(None, partial=False)
        assert cache.store.size(Digest.of(b"half of it, and the rest"))
    assert tags(data) == {APP: app.manifest.digest}


# --- bad archives ---


def test_wrong_bytes(data: Data, app: Image, tmp_path: Path) -> None:
    ((name, content),) = files([blob(app.layers[1].digest, app.layers[1].data[:-1] + b"x")])
    entries = [entry for entry in files(layout({APP: app})) if entry[0] != name]
    told = refused(data, written(tmp_path / "image.tar", [*entries, (name, content)]))
    assert told == f"'{name}': its bytes have digest {sha256(content)}: the archive is damaged"


@pytest.mark.parametrize("where", ["first", "last"])
def test_one_hostile_member_spoils_all(where: str, data: Data, app: Image, tmp_path: Path) -> None:
    hostile = special(f"blobs/sha256/{Digest.of(b'').encoded}", tarfile.SYMTYPE, "/etc/passwd")
    entries = layout({APP: app})
    entries = [hostile, *entries] if where == "first" else [*entries, hostile]
    told = refused(data, written(tmp_path / "image.tar", entries))
    assert "is a link to '/etc/passwd', which no archive of images needs" in told


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "it has neither index.json nor manifest.json"),
        ([("README", b"hello")], "it has neither index.json nor manifest.json"),
        ([("README", bytes(2 << 20))], "'README': has 2.1 MB, and belongs to no image"),
        ([("index.json", bytes(17 << 20))], "index.json: has 17.8 MB; 16.8 MB may be"),
        ([LAYOUT, index([])], "there is no image in it"),
        ([("index.json", b"[]")], "'index.json': it: "),
        ([("index.json", b'{"manifests": [{}]}')], "'index.json': manifests.0.digest: Field required"),
        ([index([{"digest": "../../etc/passwd"}])], "index.json: '../../etc/passwd' is not a digest"),
        ([("oci-layout", b"{}"), index([])], "oci-layout is damaged"),
        ([("oci-layout", b'{"imageLayoutVersion": "2"}'), index([])], "oci-layout: version '2' is not known"),
        ([("manifest.json", b"{}")], "'manifest.json': it: "),
        ([("manifest.json", b'[{"Config": "x.json"}]')], "manifest.json: names 'x.json', which is not in the archive"),
        ([("manifest.json", b'[{"Config": "../x"}]')], "'../x': leads out of the archive"),
        ([("x.json", b"{}"), ("manifest.json", b'[{"Config": "x.json"}]')], "'x.json': rootfs: Field required"),
        (
            [("x.json", b'{"rootfs": {"diff_ids": ["sha256:1"]}}'), ("manifest.json", b'[{"Config": "x.json"}]')],
            "'x.json': speaks of 1 layers, the archive has 0",
        ),
    ],
)
def test_what_is_no_archive_of_images(entries: list[tuple[str, bytes]], told: str, data: Data, tmp_path: Path) -> None:
    assert told in refused(data, written(tmp_path / "bad.tar", entries))


def test_a_layer_that_is_not_what_the_configuration_says(data: Data, app: Image, tmp_path: Path) -> None:
    entries = [(name, b"x") if name.endswith(".tar") else (name, content) for name, content in files(saved(app))]
    assert "it is damaged, or compressed" in refused(data, written(tmp_path / "saved.tar", entries))


def test_a_name_for_several_images(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    archive = written(tmp_path / "images.tar", layout({APP: app, MULTI: multi}))
    assert "it has 2 images, of which --as can name none" in refused(data, archive, "--as", APP)


def test_a_file_that_is_not_there(data: Data, tmp_path: Path) -> None:
    assert "does not exist" in data.run("import", tmp_path / "nothing.tar", code=2).stderr
    assert not data.folder.exists()


# --- export, and back ---


def exported(data: Data, output: Path, *arguments: str) -> str:
    """What is said of it."""
    return data.run("export", *arguments, "--output", output).stderr


def test_the_same_images_are_the_same_bytes(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    other = Data(tmp_path / "other")
    data.pull(APP, app)
    data.pull(MULTI, multi)
    other.pull(MULTI, multi)
    other.pull(APP, app)
    told, size = exported(data, tmp_path / "one.tar"), sum(map(len, (parts(app) | parts(multi)).values()))
    assert told == f"exported {APP}\nexported {MULTI}\n11 files, {size / 1000:.1f} kB\n"
    exported(other, tmp_path / "two.tar", MULTI, APP)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert other.run("export", "--output", "-").stdout_bytes == (tmp_path / "one.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "")}
        assert tar.getnames()[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.from_regex(
            r"(docker\.io/library/[a-z]{1,5}|reg\.corp:5000/[a-z]/[a-z0-9]{1,5}):[a-zA-Z0-9_]{1,8}", fullmatch=True
        ),
        st.integers(0, 2),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["images.tar", "folder"]),
)
def test_what_is_exported_can_be_imported(
    tmp_path_factory: pytest.TempPathFactory, app: Image, multi: MultiArch, names: dict[str, int], output: str
) -> None:
    folder = tmp_path_factory.mktemp("round")
    one, other = Data(folder / "one"), Data(folder / "other")
    images: list[Image | MultiArch] = [app, multi, multi.images[1]]
    for name, number in names.items():
        one.pull(name, images[number])
    exported(one, folder / output)
    other.run("import", folder / output)
    assert other.held() == one.held()
    assert tags(other) == tags(one) == {name: images[number].top.digest for name, number in names.items()}
    exported(other, folder / f"again-{output}")
    assert contents(folder / f"again-{output}") == contents(folder / output)


def contents(path: Path) -> object:
    if path.is_file():
        return path.read_bytes()
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_folder_has_links_to_what_is_cached(data: Data, app: Image, tmp_path: Path) -> None:
    data.pull(APP, app)
    (tmp_path / "out").mkdir()
    exported(data, tmp_path / "out", APP)
    assert data.path(app.config.digest).samefile(tmp_path / "out" / "blobs" / app.config.digest.replace(":", "/"))
    told = data.run("export", "--output", tmp_path / "out", code=2).stderr
    assert told == f"mirrortap: {tmp_path}/out: is there already; name a new folder, or a file that ends in .tar\n"


def test_what_is_not_complete_is_not_exported(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    layer = app.layers[0].digest
    data.pull(APP, app, without=(layer,))
    told = data.run("export", APP, "--output", tmp_path / "x.tar", code=1).stderr
    assert told == (
        f"mirrortap: {APP}: is not all here: layer {layer}; mirrortap warm {APP} gets the rest, or --partial takes what"
        " there is\n"
    )
    assert os.listdir(tmp_path) == ["data"]
    told = data.run("export", "--output", tmp_path / "x.tar", code=1).stderr
    assert told.endswith("mirrortap: no image is complete; mirrortap cache ls lists what there is\n")
    data.pull(MULTI, multi)
    told = exported(data, tmp_path / "x.tar")
    assert f"left out: {APP}: is not all here" in told
    assert f"exported {MULTI}\n" in told
    assert f"exported {APP}\n" in exported(data, tmp_path / "x.tar", APP, "--partial")
    other = Data(tmp_path / "other")
    other.run("import", tmp_path / "x.tar", "--partial")
    assert other.held() == set(parts(app)) - {layer}


def test_what_is_not_cached_is_not_exported(data: Data, app: Image, tmp_path: Path) -> None:
    data.pull(APP, app)
    other = "docker.io/library/other:1.0"
    told = data.run("export", other, "--output", tmp_path / "x.tar", code=1).stderr
    assert told == f"mirrortap: {other} is not cached; mirrortap warm {other} pulls it\n"


def test_platforms(data: Data, app: Image, multi: MultiArch, tmp_path: Path) -> None:
    data.pull(APP, app)
    data.pull(MULTI, multi)
    exported(data, tmp_path / "arm.tar", MULTI, "--platform", "linux/arm64")
    Data(tmp_path / "arm").run("import", tmp_path / "arm.tar")
    one, other = multi.images
    assert Data(tmp_path / "arm").held() == {
        multi.index.digest,
        other.manifest.digest,
        *(b.digest for b in other.blobs),
    }
    exported(data, tmp_path / "both.tar", "--platform", "linux/amd64")
    Data(tmp_path / "both").run("import", tmp_path / "both.tar")
    assert Data(tmp_path / "both").held() == {
        multi.index.digest,
        one.manifest.digest,
        *(blob.digest for blob in one.blobs),
        *parts(app),
    }
    told = data.run("export", APP, "--platform", "linux/s390x", "--output", tmp_path / "x.tar", code=1).stderr
    assert told == f"mirrortap: {APP}: it is not for linux/s390x, but for linux/amd64\n"


def test_what_was_just_pulled_is_waited_for(data: Data, app: Image, tmp_path: Path) -> None:
    """A client has the last byte of a layer while the disk is still busy with it."""
    layer = app.layers[0]
    data.pull(APP, app, without=(layer.digest,))
    with data.opened() as cache, ThreadPoolExecutor() as pool:
        partial = cache.store.begin(Digest.parse(layer.digest))
        partial.claim()
        partial.write(layer.data)
        inode = os.stat(cache.folder / "partial" / layer.digest.replace(":", "-")).st_ino
        told = pool.submit(exported, data, tmp_path / "x.tar")
        # How proc_locks(5) shows who waits.
        while not re.search(rf"-> FLOCK .*:{inode} ", Path("/proc/locks").read_text()):
            assert not told.done(), told.result()
            time.sleep(0.01)
        partial.commit()
        partial.close()
        assert f"exported {APP}\n" in told.result()


@pytest.mark.parametrize("output", ["x.tar", "x"])
def test_damaged_content_is_not_exported(output: str, data: Data, app: Image, tmp_path: Path) -> None:
    data.pull(APP, app)
    path = data.path(app.layers[1].digest)
    path.write_bytes(app.layers[1].data[:-1] + b"x")
    told = data.run("export", "--output", tmp_path / output, code=1).stderr
    assert told == (f"mirrortap: {path} is damaged; mirrortap cache verify removes it, then pull the image again\n")
    assert os.listdir(tmp_path) == ["data"]


def test_private_images_are_told(data: Data, app: Image, tmp_path: Path) -> None:
    data.pull(APP, app, public=False)
    assert f"{APP} is private: whoever has the archive can read it" in exported(data, tmp_path / "x.tar")


def test_where_nothing_can_be_written(data: Data, app: Image, tmp_path: Path) -> None:
    data.pull(APP, app)
    for output, told in {
        "no/x.tar": f"mirrortap: {tmp_path}/no: there is no such folder to write to\n",
        "data": f"mirrortap: {tmp_path}/data: is there already; name a new folder, or a file that ends in .tar\n",
    }.items():
        assert data.run("export", "--output", tmp_path / output, code=2).stderr == told
    assert "layers are compressed already" in data.run("export", "--output", "x.tar.gz", code=2).stderr
