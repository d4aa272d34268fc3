"""All of an image, read from a registry as it is: what the clients of tests are compared with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.images import INDEX, MANIFEST, sha256
from support.processes import Failed
from support.proxy import exchange

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.client import HTTPConnection

_ACCEPT = {
    "Accept": ", ".join(
        (
            INDEX,
            MANIFEST,
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        )
    )
}


def read_whole(
    connection: HTTPConnection, repository: str, reference: str, headers: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """Manifests and blobs by the digests of their bytes. Raises Failed for what is refused."""

    def get(path: str) -> bytes:
        answer = exchange(connection, "GET", f"/v2/{repository}/{path}", {**_ACCEPT, **(headers or {})})
        if answer.status != 200:
            raise Failed(f"{path}: {answer.status} {answer.body.decode(errors='replace')}")
        return answer.body

    top = get(f"manifests/{reference}")
    found = {sha256(top): top}
    manifest = json.loads(top)
    for child in manifest.get("manifests", []):
        found |= read_whole(connection, repository, child["digest"], headers)
    for blob in (manifest["config"], *manifest["layers"]) if "layers" in manifest else ():
        data = get(f"blobs/{blob['digest']}")
        found[sha256(data)] = data
    return found
