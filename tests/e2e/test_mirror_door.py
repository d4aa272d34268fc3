"""The mirror door for the clients it is there for: real ones, told of a mirror, of no proxy and of no CA."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.clients import Pulled, Sandbox
from support.config import toml
from support.images import MANIFEST, Image, make_image
from support.processes import needs, run
from support.programs import containerd, dockerd
from support.proxy import MIRROR, Proxy, serve

from e2e.conftest import fill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.certificates import Authority
    from support.config import Table
    from support.programs import RealRegistry

    from e2e.conftest import Registries

pytestmark = needs("docker-registry", "skopeo")

HUB, OTHER = "docker.io/library/app:1.0", "registry.test/team/tool:2.0"
NAME = "mirror.test"


@dataclass(frozen=True)
class Farm:
    """A mirror in front of two registries, one of them plain http, that hold an image each."""

    proxy: Proxy
    images: dict[str, Image]
    origins: Sequence[RealRegistry]

    def asked(self, path: str) -> int:
        """How often the origins have been asked for content there."""
        return sum(each.method == "GET" and path in each.path for origin in self.origins for each in origin.accesses())


@pytest.fixture
def farm(tmp_path: Path, authority: Authority, registries: Registries, direct: Sandbox) -> Iterator[Farm]:
    app = make_image(tmp_path / "app", "1.0", seed=11, layer_sizes=(10_000, 2_000_000))
    tool = make_image(tmp_path / "tool", "2.0", seed=12, layer_sizes=(20_000, 1_000_000))
    hub, other = registries("hub"), registries("other", tls=authority.pair())
    fill(direct, hub, app, "library/app:1.0")
    fill(direct, other, tool, "team/tool:2.0")
    config = toml(
        {
            "docker.io": {"server": hub.url},
            "registry.test": {"server": other.url, "ca": [authority.file]},
        }
    )
    with serve(tmp_path / "proxy", config, *MIRROR) as proxy:
        yield Farm(proxy, {HUB: app, OTHER: tool}, (hub, other))


@pytest.fixture
def refusing(tmp_path: Path, registries: Registries) -> Iterator[Proxy]:
    """A mirror that has no login for what is behind it."""
    private = registries("private", htpasswd={"ann": "s3cret"})
    tables = {name: {"server": private.url} for name in ("docker.io", "registry.test")}
    with serve(tmp_path / "refusing", toml(tables), *MIRROR) as proxy:
        yield proxy
        # dockerd and ctr have asked it, and it has said why not.
        refused = proxy.log.matching(r"HEAD docker.io/library/app manifest 1.0 403 refused")
        assert len(refused) == 2
        assert private.accesses("/manifests/1.0")


def content(image: Image) -> dict[str, int]:
    return {blob.digest: blob.size for blob in image.blobs}


def registries_conf(machine: Sandbox, place: str, *, insecure: bool = True) -> None:
    """As docs/mirror-door.md has it. The registries themselves are not to be had."""
    text = "".join(
        f'[[registry]]\nlocation = "{registry}"\n[[registry.mirror]]\n'
        f'location = "{place}/{registry}"\ninsecure = {str(insecure).lower()}\n'
        for registry in ("docker.io", "registry.test")
    )
    # skopeo 1.9 knows no variable for it.
    for folder in machine.home, machine.home / ".config" / "containers":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "registries.conf").write_text(text)


@needs("dockerd", "containerd", "runc", "ctr", "podman")
def test_all_clients(farm: Farm, refusing: Proxy, tmp_path: Path) -> None:
    """Cold for the first of them, warm for the others; for each, by digests and, where it shows them, by bytes."""
    place = farm.proxy.mirror
    plain = Sandbox(tmp_path / "plain")
    registries_conf(plain, place)
    for name, image in farm.images.items():
        pulled = plain.pull(name)
        assert (pulled.digest, pulled.blobs()) == (image.manifest.digest, content(image))
        # By digest, as a build that is pinned does.
        again = plain.pull(f"{name.rpartition(':')[0]}@{image.manifest.digest}")
        assert again.blobs() == content(image)
        assert plain.podman_pull(name) == image.manifest.digest

    hosts = tmp_path / "hosts" / "_default"
    hosts.mkdir(parents=True)
    # What a mirror refuses for want of a login, clients ask the next for.
    (hosts / "hosts.toml").write_text(f'[host."http://{refusing.mirror}"]\n[host."http://{place}"]\n')
    with containerd(tmp_path / "containerd") as daemon:
        for name, image in farm.images.items():
            options = ("--hosts-dir", str(hosts.parent), "--snapshotter", "native")
            daemon.ctr("images", "pull", *options, name, env=plain.env)
            assert image.manifest.digest in daemon.ctr("images", "ls", f"name=={name}", env=plain.env).stdout
            got = daemon.ctr("content", "get", image.config.digest, env=plain.env).stdout
            assert got.encode() == image.config.data

    mirrors = [f"http://{refusing.mirror}", f"http://{place}"]
    with dockerd(tmp_path / "docker", json.dumps({"registry-mirrors": mirrors})) as docker:
        docker.cli("pull", "app:1.0")
        shown = docker.cli("image", "inspect", "--format", "{{.Id}} {{index .RepoDigests 0}}", "app:1.0").stdout
        assert shown.split() == [farm.images[HUB].config.digest, f"app@{farm.images[HUB].manifest.digest}"]

    # By the mirror's log it was this port, and by the origins' theirs all but the first came from the cache.
    answered = farm.proxy.answered()
    assert {line.repository for line in answered} == {"docker.io/library/app", "registry.test/team/tool"}
    assert {line.cache for line in answered} == {"hit", "miss"}
    for image in farm.images.values():
        for blob in image.blobs:
            assert farm.asked(f"/blobs/{blob.digest}") == 1


def test_another_mirrortap_and_tls(farm: Farm, authority: Authority, tmp_path: Path) -> None:
    """One mirror of another, which shows a certificate of its CA for its name."""
    tables: dict[str, Table] = {
        "docker.io": {"mirrors": [farm.proxy.mirror], "fallback": False},
        "registry.test": {"mirrors": [f"{farm.proxy.mirror}/registry.test"], "fallback": False},
        farm.proxy.mirror: {"http": True},
    }
    with serve(tmp_path / "front", toml(tables), *MIRROR, "--mirror-tls", NAME) as front:
        for name, image in farm.images.items():
            registry, _, path = name.partition("/")
            repository, _, tag = path.partition(":")
            for manifest in image.manifest.digest, tag:
                asked = f"/v2/{registry}/{repository}/manifests/{manifest}"
                assert over_tls(front, asked) == image.manifest.data
            for blob in image.blobs:
                for asked in f"/v2/{registry}/{repository}/blobs", f"/v2/{repository}/blobs":
                    assert over_tls(front, f"{asked}/{blob.digest}?ns={registry}") == blob.data
        sources = {line.endpoint for line in front.answered() if line.cache == "miss"}
        assert sources == {farm.proxy.mirror, f"{farm.proxy.mirror}/registry.test"}

        # The same by a registry client, which has a file of its own to look the name up in.
        machine = Sandbox(tmp_path / "machine", ca=front.ca)
        registries_conf(machine, f"{NAME}:{front.mirror.rpartition(':')[2]}", insecure=False)
        for name, image in farm.images.items():
            folder = tmp_path / f"by-{image.tag}"
            copying = ["skopeo", f"--policy={machine.policy}", "copy", f"docker://{name}", f"dir:{folder}"]
            run([*with_hosts(tmp_path, NAME), *copying], env=machine.env)
            assert Pulled(folder).blobs() == content(image)
    for image in farm.images.values():
        for blob in image.blobs:
            assert farm.asked(f"/blobs/{blob.digest}") == 1


def over_tls(proxy: Proxy, path: str) -> bytes:
    """What a client gets that trusts the CA and has looked the name up."""
    context = ssl.create_default_context(cafile=str(proxy.ca))
    host, _, port = proxy.mirror.rpartition(":")
    with closing(http.client.HTTPSConnection(NAME, int(port), context=context, timeout=30)) as connection:
        connection.sock = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=NAME)
        connection.request("GET", path, headers={"Accept": MANIFEST})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()


def with_hosts(folder: Path, name: str) -> list[str]:
    """The beginning of a command line for which the name is this machine's, and for nothing else."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 {name}\n")
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
