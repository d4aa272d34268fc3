"""Real clients that run to an end, in a home of their own: no settings of this machine reach them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.images import sha256
from support.processes import clean_env, require, run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


@dataclass(frozen=True)
class Pulled:
    """A folder that skopeo wrote (`dir:`)."""

    folder: Path

    @property
    def manifest(self) -> bytes:
        return (self.folder / "manifest.json").read_bytes()

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    def blobs(self) -> dict[str, int]:
        """digest -> size, of the files' bytes (not of their names)."""
        files = [file for file in self.folder.iterdir() if len(file.name) == 64]
        return {"sha256:" + hashlib.sha256(file.read_bytes()).hexdigest(): file.stat().st_size for file in files}


class Sandbox:
    """A builder machine: its clients know HTTPS_PROXY (`proxy`), SSL_CERT_FILE (`ca`) and nothing else."""

    def __init__(self, home: Path, *, proxy: str | None = None, ca: Path | None = None) -> None:
        self.home = home
        more = {
            "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
            "CONTAINERS_CONF": str(home / "containers.conf"),
        }
        more |= {"HTTPS_PROXY": proxy} if proxy else {}
        more |= {"SSL_CERT_FILE": str(ca)} if ca else {}
        self.env = clean_env(home, **more)
        (home / "registries.conf").write_text("")
        (home / "registries.d").mkdir(exist_ok=True)
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (home / "containers.conf").write_text(
            '[engine]\nruntime = "runc"\nevents_logger = "none"\ncgroup_manager = "cgroupfs"\nlock_type = "file"\n'
        )

    def skopeo(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        require("skopeo")
        return run(
            ["skopeo", f"--policy={self.policy}", f"--registries.d={self.home / 'registries.d'}", *args],
            env=self.env,
            check=check,
        )

    def pull(self, image: str, *options: str) -> Pulled:
        """skopeo copy docker://IMAGE into a new folder."""
        pulled = self._new_folder()
        self.skopeo("copy", "--quiet", *options, f"docker://{image}", f"dir:{pulled}")
        return Pulled(pulled)

    def pull_refused(self, image: str, *options: str) -> tuple[str, Pulled]:
        """What skopeo said, and the folder with whatever it got."""
        pulled = self._new_folder()
        result = self.skopeo("copy", *options, f"docker://{image}", f"dir:{pulled}", check=False)
        assert result.returncode != 0, f"skopeo was given {image}"
        pulled.mkdir(exist_ok=True)
        return result.stderr, Pulled(pulled)

    def push(self, source: str, image: str, *options: str) -> None:
        """skopeo copy SOURCE (oci:..., dir:...) to docker://IMAGE."""
        self.skopeo("copy", "--quiet", *options, source, f"docker://{image}")

    def buildah(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        require("buildah", "runc")
        return run(["buildah", *self._storage("buildah"), *args], env=self.env, cwd=self.home, check=check)

    def buildah_pull(self, image: str) -> str:
        """The digest it was given."""
        self.buildah("pull", f"--signature-policy={self.policy}", image)
        return str(json.loads(self.buildah("inspect", "--type", "image", image).stdout)["FromImageDigest"])

    def podman(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        require("podman", "runc")
        return run(["podman", *self._storage("podman"), *args], env=self.env, cwd=self.home, check=check)

    def podman_pull(self, image: str) -> str:
        """The digest it was given."""
        self.podman("pull", f"--signature-policy={self.policy}", image)
        return self.podman("image", "inspect", "--format", "{{.Digest}}", image).stdout.strip()

    @property
    def policy(self) -> Path:
        return self.home / "policy.json"

    def _storage(self, program: str) -> list[str]:
        # Storage per program: buildah and podman would otherwise find each other's layers and not pull.
        # Relative to the home: podman takes no runroot of more than 50 characters.
        return ["--root", f"{program}/root", "--runroot", f"{program}/run", "--storage-driver", "vfs"]

    def _new_folder(self) -> Path:
        number = sum(1 for path in self.home.iterdir() if path.name.startswith("pulled"))
        return self.home / f"pulled-{number}"
