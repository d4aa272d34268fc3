"""Every kind of builder gets the same image, told nothing but HTTPS_PROXY and the CA."""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.config import toml
from support.processes import needs
from support.programs import containerd, dockerd
from support.proxy import Proxy, exchange, mitmdump, serve

from e2e.conftest import APP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.images import Image
    from support.programs import RealRegistry

    from e2e.conftest import Builder

pytestmark = needs("docker-registry")


@pytest.fixture(scope="module")
def config(mirror: RealRegistry) -> str:
    return toml({"docker.io": {"mirrors": [mirror.endpoint], "fallback": False}, mirror.endpoint: {"http": True}})


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, config: str) -> Iterator[Proxy]:
    """One for all clients, as on a build farm: the first one fills the cache of the others."""
    with serve(tmp_path_factory.mktemp("proxy"), config) as running:
        yield running


@needs("skopeo")
def test_skopeo(app: Image, proxy: Proxy, builder: Builder) -> None:
    pulled = builder(proxy).pull(APP)
    assert pulled.digest == app.manifest.digest
    assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}


@needs("buildah", "runc")
def test_buildah(app: Image, proxy: Proxy, builder: Builder) -> None:
    assert builder(proxy).buildah_pull(APP) == app.manifest.digest


@needs("buildah", "runc", "busybox")
def test_buildah_builds_from_it(proxy: Proxy, builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {APP}\nRUN echo built > /made\n")
    machine = builder(proxy)
    options = ("--isolation", "chroot", f"--signature-policy={machine.policy}", "--tag", "built")
    said = machine.buildah("bud", *options, str(tmp_path)).stdout
    assert "RUN echo built" in said


@needs("podman", "runc")
def test_podman(app: Image, proxy: Proxy, builder: Builder) -> None:
    assert builder(proxy).podman_pull(APP) == app.manifest.digest


@needs("ctr", "containerd")
def test_ctr(app: Image, proxy: Proxy, builder: Builder, tmp_path: Path) -> None:
    machine = builder(proxy)
    with containerd(tmp_path / "containerd") as daemon:
        daemon.ctr("images", "pull", "--snapshotter", "native", APP, env=machine.env)
        listed = daemon.ctr("images", "ls", f"name=={APP}", env=machine.env).stdout
    assert app.manifest.digest in listed


@needs("dockerd", "containerd", "runc")
def test_dockerd(app: Image, proxy: Proxy, tmp_path: Path) -> None:
    with dockerd(tmp_path / "docker", HTTPS_PROXY=proxy.url, SSL_CERT_FILE=str(proxy.ca)) as docker:
        docker.cli("pull", APP)
        shown = docker.cli("image", "inspect", "--format", "{{.Id}} {{index .RepoDigests 0}}", APP).stdout
    assert shown.split() == [app.config.digest, f"app@{app.manifest.digest}"]


@needs("dockerd", "containerd", "runc", "busybox")
def test_buildkit_in_dockerd(app: Image, proxy: Proxy, tmp_path: Path) -> None:
    """The docker command, which fetches tokens for BuildKit, has the same environment as the daemon."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {APP}\nRUN echo built > /made\n")
    since = len(proxy.log)
    with dockerd(
        tmp_path / "docker", HTTPS_PROXY=proxy.url, SSL_CERT_FILE=str(proxy.ca), DOCKER_BUILDKIT="1"
    ) as docker:
        docker.cli("build", "--network=host", "--tag=built", str(context))
        layers = docker.cli("image", "inspect", "--format", "{{len .RootFS.Layers}}", "built").stdout
    assert int(layers) == len(app.layers) + 1
    assert {line.kind for line in proxy.answered(since)} == {"manifest", "blob"}


@needs("skopeo")
def test_mitmdump_with_the_addon_as_a_script(app: Image, config: str, builder: Builder, tmp_path: Path) -> None:
    with mitmdump(tmp_path / "mitmdump", config, "--set", "mirrortap_mirror_listen=127.0.0.1:0") as running:
        machine = builder(running)
        for _ in range(2):
            assert machine.pull(APP).blobs() == {blob.digest: blob.size for blob in app.blobs}
        hub = running.client("registry-1.docker.io")
        answer = hub.get(f"/v2/library/app/blobs/{app.config.digest}")
        assert answer.headers["Cache-Status"] == "mirrortap; hit"
        with closing(http.client.HTTPConnection(running.mirror, timeout=30)) as mirror:
            assert exchange(mirror, "GET", f"/v2/app/blobs/{app.config.digest}").body == app.config.data


@needs("skopeo")
def test_a_client_without_the_ca_is_told_so(proxy: Proxy, tmp_path: Path) -> None:
    """It fails at its own TLS check: nothing makes it trust the proxy by accident."""
    said, got = Sandbox(tmp_path / "plain", proxy=proxy.url).pull_refused(APP)
    assert "x509" in said
    assert got.blobs() == {}
