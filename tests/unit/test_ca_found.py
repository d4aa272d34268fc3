"""Who trusts a root, as files on a machine say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import Authority
from ca.found import holds, trusting

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "ca", ["docker.io"])


@pytest.fixture
def other(tmp_path: Path) -> bytes:
    return Authority.open(tmp_path / "other", ["docker.io"]).roots_pem


def test_every_place(root: Authority, other: bytes, tmp_path: Path) -> None:
    top, home = tmp_path / "top", tmp_path / "home"
    bundle = b"# a comment\n" + other + root.roots_pem + other
    for path, data in (
        (top / "etc/ssl/certs/ca-certificates.crt", bundle),
        (top / "etc/pki/tls/certs/ca-bundle.crt", other),
        (top / "etc/docker/certs.d/ghcr.io/mirrortap.crt", root.roots_pem),
        (top / "etc/docker/certs.d/quay.io/ca.crt", other),
        (top / "etc/docker/certs.d/quay.io/client.cert", root.roots_pem),
        (top / "etc/containers/certs.d/docker.io/ca.crt", bundle),
        (home / ".config/containers/certs.d/quay.io/ca.crt", bundle),
        (top / "etc/containerd/certs.d/docker.io/mirrortap.pem", bundle),
        (top / "etc/containerd/certs.d/docker.io/hosts.toml", bundle),
        (top / "etc/buildkit/certs/docker.io/mirrortap.crt", bundle),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (top / "etc/ssl/cert.pem").symlink_to("certs/ca-certificates.crt")
    (top / "etc/docker/certs.d/quay.io/gone.crt").symlink_to("nowhere")
    found = [(who, str(path.relative_to(tmp_path))) for who, path in trusting(root.root, top, home)]
    assert found == [
        ("the system", "top/etc/ssl/certs/ca-certificates.crt"),
        ("docker, for ghcr.io", "top/etc/docker/certs.d/ghcr.io/mirrortap.crt"),
        ("podman, buildah and skopeo, for docker.io", "top/etc/containers/certs.d/docker.io/ca.crt"),
        ("podman, buildah and skopeo, for quay.io", "home/.config/containers/certs.d/quay.io/ca.crt"),
        (
            "containerd, for docker.io, if its hosts.toml names the file",
            "top/etc/containerd/certs.d/docker.io/mirrortap.pem",
        ),
        ("buildkitd, if its buildkitd.toml names the file", "top/etc/buildkit/certs/docker.io/mirrortap.crt"),
    ]


def test_nobody(root: Authority, tmp_path: Path) -> None:
    assert list(trusting(root.root, tmp_path / "empty", tmp_path)) == []
    assert list(trusting(root.root)) == []


def test_damaged_neighbours(root: Authority, other: bytes) -> None:
    der = root.root.public_bytes(Encoding.DER)
    damaged = other.replace(b"MII", b"M!I", 1)
    for text, expected in (
        (root.roots_pem, True),
        (root.roots_pem.replace(b"\n", b"\r\n"), True),
        (damaged + root.roots_pem, True),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n" + root.roots_pem, True),
        (other + damaged, False),
        (root.roots_pem.partition(b"-----END")[0][:-20], False),
        (der, False),
        (b"", False),
    ):
        assert holds(text, der) is expected
