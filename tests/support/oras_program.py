"""The Python package oras as a command, so that it runs with an environment of its own.

version | commands | login HOST USER PASSWORD | pull NAME FOLDER | copy NAME TARGET
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from oras.client import OrasClient


def pull(client: OrasClient, name: str, folder: Path) -> None:
    """Manifests are written as compact JSON, which is what the test images' are."""
    manifest = client.get_manifest(name)
    (folder / f"manifest-{len(list(folder.iterdir()))}").write_text(json.dumps(manifest, separators=(",", ":")))
    client.pull(name, outdir=str(folder))
    for child in manifest.get("manifests", []):
        pull(client, f"{name.rpartition(':')[0]}@{child['digest']}", folder)


def copy(client: OrasClient, name: str, target: str) -> None:
    """The layers, as an artifact."""
    with TemporaryDirectory() as folder:
        files = []
        for number, layer in enumerate(client.get_manifest(name)["layers"]):
            files.append(client.download_blob(name, layer["digest"], f"{folder}/{number}.tar.gz"))
        OrasClient(auth_backend="basic").push(target, files=files, disable_path_validation=True)


def main(command: str, *args: str) -> None:
    client = OrasClient()
    match command, args:
        case "version", ():
            print(client.version())
        case "commands", ():
            print(*dir(client))
        case "login", (host, user, password):
            client.login(user, password, hostname=host)
        case "pull", (name, folder):
            pull(client, name, Path(folder))
        case "copy", (name, target):
            copy(client, name, target)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
