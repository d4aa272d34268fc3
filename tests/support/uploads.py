"""The upload half of the fake registry: monolithic, chunked and mounted blobs, and manifests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from support.faults import Answer, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from support.content import Content


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, body, CIMultiDict({"Content-Type": "application/json", **(headers or {})}))


class Uploads:
    def __init__(self, content: Content) -> None:
        self._content = content

    async def answer(self, request: web.Request, seen: Seen, name: str, session: str) -> Answer:
        # Absolute, from the Host header the client sent: what the reference registry does.
        base = f"{request.scheme}://{request.host}"
        if seen.method == "POST":
            return await self._start(request, seen, name, base)
        if session not in self._content.uploads:
            return refusal(404, "BLOB_UPLOAD_UNKNOWN", session)
        await self._append(request, seen, session)
        if seen.method == "PUT":
            return self._finish(seen, name, session, base)
        if seen.method == "DELETE":
            del self._content.uploads[session]
            return Answer(204)
        return self._progress(name, session, base, 204 if seen.method == "GET" else 202)

    async def put_manifest(self, request: web.Request, seen: Seen, name: str, reference: str) -> Answer:
        data = await _read(request, seen)
        media_type = seen.headers.get("Content-Type", "")
        manifest = json.loads(data)
        parts = [*manifest.get("layers", []), *([manifest["config"]] if "config" in manifest else [])]
        missing = [part["digest"] for part in parts if self._content.blob(name, part["digest"]) is None]
        if missing:
            return refusal(400, "MANIFEST_BLOB_UNKNOWN", missing[0])
        digest = self._content.put_manifest(name, reference, data, media_type)
        where = f"{request.scheme}://{request.host}/v2/{name}/manifests/{digest}"
        return Answer(201, headers=CIMultiDict({"Location": where, "Docker-Content-Digest": digest}))

    async def _start(self, request: web.Request, seen: Seen, name: str, base: str) -> Answer:
        mount, source = seen.query.get("mount"), seen.query.get("from")
        if mount and source and self._content.mount(mount, source, name):
            return self._created(name, mount, base)
        session = self._content.start_upload()
        if "digest" in seen.query:
            await self._append(request, seen, session)
            return self._finish(seen, name, session, base)
        return self._progress(name, session, base, 202)

    async def _append(self, request: web.Request, seen: Seen, session: str) -> None:
        self._content.uploads[session] += await _read(request, seen)

    def _finish(self, seen: Seen, name: str, session: str, base: str) -> Answer:
        digest = seen.query.get("digest", "")
        if not self._content.finish_upload(session, name, digest):
            return refusal(400, "DIGEST_INVALID", digest)
        return self._created(name, digest, base)

    def _created(self, name: str, digest: str, base: str) -> Answer:
        headers = {"Location": f"{base}/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return Answer(201, headers=CIMultiDict(headers))

    def _progress(self, name: str, session: str, base: str, status: int) -> Answer:
        received = len(self._content.uploads[session])
        headers = {
            "Location": f"{base}/v2/{name}/blobs/uploads/{session}",
            "Docker-Upload-UUID": session,
            "Range": f"0-{max(0, received - 1)}",
        }
        return Answer(status, headers=CIMultiDict(headers))


async def _read(request: web.Request, seen: Seen) -> bytes:
    """The whole body, with no limit on its size."""
    data = await request.content.read()
    seen.body_bytes += len(data)
    return data
