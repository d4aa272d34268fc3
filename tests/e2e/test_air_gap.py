"""The air gap: what a Dockerfile needs is warmed and exported, imported in an empty folder, and built from with no
network behind.

The proxy that serves it there is offline and has a data folder of its own: the registry that it was pulled from may as
well be on another planet.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.clients import Sandbox
from support.config import toml
from support.images import sha256
from support.processes import clean_env, needs
from support.programs import containerd, dockerd
from support.proxy import serve

from addon.cli import main
from e2e.conftest import APP, MULTI

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from support.images import Image, MultiArch
    from support.programs import Dockerd, RealRegistry
    from support.proxy import Proxy, RawClient

    from e2e.conftest import Builder

pytestmark = needs("skopeo", "docker-registry", "buildah", "dockerd", "docker", "containerd", "ctr", "runc")

CORP = "registry.corp.test"
DOCKERFILE = f"ARG BASE={APP}\nFROM $BASE\nRUN sha256sum data/*.bin > sums\nFROM {MULTI}\n"
CLASSIC = "docker.io/library/classic:1.0"
SAVED = "docker.io/library/saved:1.0"


def cache(data: Path, *arguments: str | Path, code: int = 0) -> Result:
    """`mirrortap cache ...` in a process that is not the proxy's."""
    result = CliRunner().invoke(main, ["cache", *map(str, arguments), "--data", str(data)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory, mirror: RealRegistry) -> Path:
    """An archive of what a Dockerfile was found to need, where there is no proxy: of multi one platform of two."""
    folder = tmp_path_factory.mktemp("connected")
    config, dockerfile, data = folder / "mirrors.toml", folder / "Dockerfile", folder / "data"
    config.write_text(toml({"docker.io": {"mirrors": [mirror.endpoint]}, mirror.endpoint: {"http": True}}))
    dockerfile.write_text(DOCKERFILE)
    arguments = ["warm", "--from", dockerfile, "--config", config, "--data", data]
    warmed = CliRunner().invoke(main, list(map(str, arguments)))
    assert warmed.exit_code == 0, warmed.output
    told = cache(data, "export", "--output", folder / "images.tar").stderr
    assert f"exported {APP}\nexported {MULTI}\n" in told
    return folder / "images.tar"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, carried: Path) -> Iterator[Proxy]:
    """The proxy on the other side: nothing configured, nothing there but what is imported."""
    folder = tmp_path_factory.mktemp("behind")
    told = cache(folder / "data", "import", carried).stdout
    assert f"imported {APP}  " in told
    assert f"imported {MULTI}  " in told
    with serve(folder, "", "--offline") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def docker(behind: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with dockerd(tmp_path_factory.mktemp("docker"), HTTPS_PROXY=behind.url, SSL_CERT_FILE=str(behind.ca)) as docker:
        yield docker


def test_buildah_builds_from_it(app: Image, behind: Proxy, builder: Builder) -> None:
    machine = builder(behind)
    context = machine.home / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    options = ("--isolation=chroot", f"--signature-policy={machine.policy}", "--no-cache")
    machine.buildah("bud", *options, "--target=0", "--tag=built", str(context))
    machine.buildah("bud", *options, "--tag=both", str(context))
    assert machine.buildah_pull(APP) == app.manifest.digest


def test_buildkit_builds_from_it_and_what_docker_saves_is_imported(
    app: Image, behind: Proxy, docker: Dockerd, builder: Builder, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {APP}\nRUN echo built > /told\nCMD cat /told\n")
    environment = clean_env(
        tmp_path / "home", HTTPS_PROXY=behind.url, SSL_CERT_FILE=str(behind.ca), DOCKER_BUILDKIT="1"
    )
    options = ("--progress=plain", "--network=host", "--tag=saved:1.0", "--tag=corp.test/saved:2.0")
    docker.cli("build", *options, str(tmp_path), env=environment)

    archive = tmp_path / "saved.tar"
    docker.cli("save", "--output", str(archive), "saved:1.0", "corp.test/saved:2.0")
    told = cache(behind.data, "import", archive).stdout
    assert f"imported {SAVED}  " in told
    assert "imported corp.test/saved:2.0  " in told
    machine = builder(behind)
    container = machine.buildah("from", f"--signature-policy={machine.policy}", SAVED).stdout.strip()
    assert machine.buildah("run", "--isolation=chroot", container, "cat", "/told").stdout == "built\n"
    # What it is to dockerd itself: the same image, by its ID.
    docker.cli("rmi", "saved:1.0", "corp.test/saved:2.0")
    docker.cli("pull", "saved:1.0")
    shown = docker.cli("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", "saved:1.0").stdout
    with tarfile.open(archive) as tar, tar.extractfile("manifest.json") as file:  # type: ignore[union-attr]
        assert shown.startswith(f"sha256:{json.load(file)[0]['Config'].removesuffix('.json')} ")
    for diff_id in json.loads(app.config.data)["rootfs"]["diff_ids"]:
        assert diff_id in shown


def test_others_read_what_was_exported(
    app: Image, multi: MultiArch, carried: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = Sandbox(tmp_path / "machine")
    machine.skopeo("copy", "--quiet", f"oci-archive:{carried}:{APP}", f"dir:{tmp_path / 'app'}")
    assert sha256((tmp_path / "app" / "manifest.json").read_bytes()) == app.manifest.digest
    for blob in app.blobs:
        assert sha256((tmp_path / "app" / blob.digest.removeprefix("sha256:")).read_bytes()) == blob.digest
    machine.skopeo("copy", "--quiet", f"oci-archive:{carried}:{MULTI}", f"dir:{tmp_path / 'multi'}")
    assert sha256((tmp_path / "multi" / "manifest.json").read_bytes()) == multi.images[0].manifest.digest
    # Its sockets have names that must be short.
    with containerd(tmp_path_factory.mktemp("ctrd")) as daemon:
        daemon.ctr("images", "import", "--snapshotter", "native", str(carried), env=machine.env)
        listed = daemon.ctr("images", "ls", env=machine.env).stdout
    for name, digest in (APP, app.manifest.digest), (MULTI, multi.index.digest):
        (line,) = [line for line in listed.splitlines() if line.startswith(f"{name} ")]
        assert digest in line


def test_what_docker_saved_up_to_version_24(app: Image, behind: Proxy, builder: Builder, tmp_path: Path) -> None:
    told = cache(behind.data, "import", classic(app, tmp_path / "classic.tar")).stdout
    assert f"imported {CLASSIC}  " in told
    machine = builder(behind)
    pulled = machine.pull(CLASSIC)
    assert json.loads(pulled.manifest)["config"]["digest"] == app.config.digest
    container = machine.buildah("from", f"--signature-policy={machine.policy}", CLASSIC).stdout.strip()
    said = machine.buildah("run", "--isolation=chroot", container, "echo", "it", "runs")
    assert said.stdout == "it runs\n"


def classic(image: Image, file: Path) -> Path:
    """As `docker save` wrote it: folders by other IDs, layers not compressed, a layer that is there already linked."""
    config = image.config.digest.removeprefix("sha256:") + ".json"
    ids = [f"{number:064x}" for number in range(len(image.layers))]
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for id_, layer in zip(ids, image.layers, strict=True):
            folder = tarfile.TarInfo(f"{id_}/")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            add(f"{id_}/VERSION", b"1.0")
            add(f"{id_}/json", b"{}")
            add(f"{id_}/layer.tar", gzip.decompress(layer.data))
        link = tarfile.TarInfo(f"{'f' * 64}/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, f"../{ids[0]}/layer.tar"
        tar.addfile(link)
        add(config, image.config.data)
        names = [f"{'f' * 64}/layer.tar", *(f"{id_}/layer.tar" for id_ in ids[1:])]
        saved = {"Config": config, "RepoTags": ["classic:1.0"], "Layers": names}
        add("manifest.json", json.dumps([saved]).encode())
        add("repositories", b"{}")
    return file


def test_a_registry_that_is_only_known_there(app: Image, carried: Path, behind: Proxy, tmp_path: Path) -> None:
    """Whoever asks, with a login or without: offline there is nobody who could say that one may not."""
    data, name = tmp_path / "data", f"{CORP}/team/app:1.0"
    archive = f"oci-archive:{tmp_path / 'one.tar'}"
    Sandbox(tmp_path / "machine").skopeo("copy", "--quiet", f"oci-archive:{carried}:{APP}", f"{archive}:1.0")
    told = cache(data, "import", tmp_path / "one.tar", code=1)
    assert "is called '1.0' there: say which image it is with --as" in told.stderr
    told = cache(data, "import", tmp_path / "one.tar", "--as", name)
    assert f'if the configuration has a table [registry."{CORP}"]' in told.stdout

    with pytest.raises(OSError, match="504 mirrortap is offline"):
        behind.client(CORP).get("/v2/")
    behind.log.wait_for(rf'if it is a registry whose images are cached, add \[registry."{CORP}"\]')
    with serve(tmp_path, toml({CORP: {}}), "--offline") as proxy:
        served_to_anybody(app, proxy.client(CORP), "team/app")


def test_docker_hub_is_known_without_a_table(app: Image, behind: Proxy) -> None:
    served_to_anybody(app, behind.client("registry-1.docker.io"), "library/app")


def served_to_anybody(app: Image, client: RawClient, name: str) -> None:
    """By its tag and its digest, in full and as headers; to clients with a login, a token, and nothing."""
    for headers in {}, {"Authorization": "Basic d2hvOmV2ZXI="}, {"Authorization": "Bearer whatever"}:
        for reference in "1.0", app.manifest.digest:
            for method in "HEAD", "GET":
                answer = client.request(method, f"/v2/{name}/manifests/{reference}", headers)
                assert answer.status == 200, answer.body
                assert answer.headers["Docker-Content-Digest"] == app.manifest.digest
                assert answer.body == (app.manifest.data if method == "GET" else b"")
        for blob in app.blobs:
            assert client.get(f"/v2/{name}/blobs/{blob.digest}", headers).body == blob.data
