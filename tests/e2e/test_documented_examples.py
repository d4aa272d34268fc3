"""The examples of others' documentation run as written: no character of `documented/` is ours, and each mirror serves.

Their host names are those of registries on an island; mirrortap and skopeo live there, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.images import make_image
from support.island import Island
from support.processes import needs
from support.proxy import serve
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from support.certificates import Authority

pytestmark = needs("skopeo", "ip", "mount")

DOCUMENTED = Path(__file__).parent / "documented"
_WATCHTOWER = "https://github.com/nicholas-fedor/watchtower/blob/main/docs/advanced-features/registry-mirrors/index.md"


@dataclass(frozen=True)
class Mirror:
    """Has one image, in its `repository`; `serves` is what clients call it."""

    authority: str
    serves: str
    repository: str = "library/app"
    tls: str = "known"  # or "unknown", or ""


@dataclass(frozen=True)
class Example:
    file: str
    source: str
    mirrors: tuple[Mirror, ...]


EXAMPLES = [
    Example(
        "docker.toml",
        "https://docs.docker.com/build/buildkit/configure/#registry-mirror",
        (Mirror("mirror.gcr.io", "docker.io/library/app"),),
    ),
    Example(
        "buildkit.toml",
        "https://github.com/moby/buildkit/blob/master/docs/buildkitd.toml.md",
        (
            Mirror("yourmirror.local:5000", "docker.io/library/app", tls=""),
            Mirror("core.harbor.domain", "docker.io/library/other", repository="proxy.docker.io/library/other"),
        ),
    ),
    Example(
        "two-ports.toml",
        "https://blog.alexellis.io/how-to-configure-multiple-docker-registry-mirrors/",
        (
            Mirror("192.168.128.1:5000", "docker.io/library/app", tls=""),
            Mirror("192.168.128.1:5001", "ghcr.io/library/app", tls=""),
        ),
    ),
    Example(
        "watchtower-two.json",
        f"{_WATCHTOWER}#multiple-mirrors-with-redundancy",
        (
            Mirror("primary-mirror.company.com", "docker.io/library/app"),
            Mirror("backup-mirror.company.com", "docker.io/library/other", repository="library/other"),
        ),
    ),
    Example(
        "watchtower-self-signed.json",
        f"{_WATCHTOWER}#corporate-proxy-environment",
        (Mirror("harbor.internal.company.com", "docker.io/library/app", tls="unknown"),),
    ),
    Example(
        "watchtower-per-registry.json",
        f"{_WATCHTOWER}#dedicated-mirrors-per-registry",
        (
            Mirror("docker-hub-mirror.company.com", "docker.io/library/app"),
            Mirror("ghcr-mirror.company.com", "ghcr.io/library/app"),
            Mirror("harbor.internal.company.com", "registry.internal.company.com/library/app"),
        ),
    ),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.file)
def test_as_written(example: Example, authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    hosts = {"localhost": "127.0.0.1"}
    for number, mirror in enumerate(example.mirrors, 1):
        host = mirror.authority.partition(":")[0]
        hosts[host] = host if host.startswith("192.") else f"192.0.2.{number}"
    pair = authority.pair("client")
    etc = {"myca.pem": authority.file, "key.pem": pair.key, "cert.pem": pair.cert}
    etc_config = {f"config/{name}": file.read_bytes() for name, file in etc.items()}
    with Island(tmp_path / "island", hosts, etc_config) as island:
        images, registries = [], []
        for seed, mirror in enumerate(example.mirrors):
            host, _, port = mirror.authority.partition(":")
            signing = {"known": authority, "unknown": stranger}.get(mirror.tls)
            at = hosts[host], int(port or 443)
            registry = island.enter(FakeRegistry(tls=signing, names=(host,), at=at))
            images.append(make_image(tmp_path / f"image-{seed}", seed=seed))
            registry.add(images[-1], mirror.repository)
            registries.append(registry)
        text = (DOCUMENTED / example.file).read_text()
        proxy = island.start(serve(tmp_path / "proxy", text, name=example.file, SSL_CERT_FILE=str(authority.file)))
        builder = Sandbox(tmp_path / "builder", proxy=proxy.url, ca=proxy.ca)
        for mirror, image, registry in zip(example.mirrors, images, registries, strict=True):
            pulled = island.do(builder.pull, f"{mirror.serves}:{image.tag}")
            assert pulled.digest == image.manifest.digest
            assert pulled.blobs() == {blob.digest: blob.size for blob in image.blobs}
            for part in image.manifest, *image.blobs:
                assert registry.traffic.sent[part.digest] == part.size
