"""Who trusts a root on this machine, as far as files say."""

import binascii
import ssl
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

# Below `/`: the bundles of Debian and Alpine, RHEL, SUSE, and what OpenSSL programs of Alpine read.
BUNDLES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)
# Of each, the folders are named after hosts; rootless programs read the same below ~/.config.
_PER_HOST = (("docker", "docker/certs.d"), ("podman, buildah and skopeo", "containers/certs.d"))
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def trusting(root: x509.Certificate, top: Path = Path("/"), home: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Whom, and the file that says so, for files below `top` and the user's `home`."""
    der = root.public_bytes(Encoding.DER)
    paths = ssl.get_default_verify_paths()
    here = [Path(path) for path in (paths.cafile, paths.openssl_cafile) if path] if top == Path("/") else []
    for bundle in _each(*(top / name for name in BUNDLES), *here):
        if _holds(bundle, der):
            yield "the system", bundle
    for who, folder in _PER_HOST:
        for certs in (top / "etc" / folder, *([home / ".config" / folder] if home else [])):
            for file in sorted(certs.glob("*/*.crt")):
                if _holds(file, der):
                    yield f"{who}, for {file.parent.name}", file
    for file in sorted((top / "etc/containerd/certs.d").glob("*/*")):
        if file.suffix in (".crt", ".pem") and _holds(file, der):
            yield f"containerd, for {file.parent.name}, if its hosts.toml names the file", file
    for file in sorted((top / "etc/buildkit/certs").rglob("*")):
        if file.suffix in (".crt", ".pem") and _holds(file, der):
            yield "buildkitd, if its buildkitd.toml names the file", file


def holds(pem: bytes, der: bytes) -> bool:
    """Whether one of the certificates in `pem` is the one that `der` encodes. Pure."""
    for block in pem.split(_BEGIN)[1:]:
        try:
            if binascii.a2b_base64(block.partition(_END)[0]) == der:
                return True
        except binascii.Error:
            continue
    return False


def _holds(path: Path, der: bytes) -> bool:
    try:
        return path.is_file() and holds(path.read_bytes(), der)
    except OSError:  # what this user cannot read says nothing
        return False


def _each(*paths: Path) -> Iterator[Path]:
    """Each file once, under the first of its names."""
    seen = set()
    for path in paths:
        if (real := path.resolve()) not in seen:
            seen.add(real)
            yield path
