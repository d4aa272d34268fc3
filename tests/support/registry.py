"""A registry in this process, over real sockets, that records everything and can go wrong in every way.

async with FakeRegistry(auth=BearerAuth(Policy(...)), cdn=True) as registry:
    registry.add(image, "library/app")
    registry.inject(Truncate(1000), kind="blob", times=1)
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Self

from multidict import CIMultiDict

from support.auth import BasicAuth, BearerAuth
from support.content import Content
from support.faults import Answer, Fault, Injection, Seen
from support.images import INDEX, Image, MultiArch
from support.listener import Listener, Traffic
from support.uploads import Uploads, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from support.certificates import Authority

NAME = r"/v2/(?P<name>[^?]+?)"
ROUTES = {
    "manifest": re.compile(NAME + r"/manifests/(?P<reference>[^/]+)$"),
    "upload": re.compile(NAME + r"/blobs/uploads/(?P<session>[0-9a-f]*)$"),
    "blob": re.compile(NAME + r"/blobs/(?P<reference>[^/]+)$"),
    "tags": re.compile(NAME + r"/tags/list$"),
    "referrers": re.compile(NAME + r"/referrers/(?P<reference>[^/]+)$"),
}
NEEDS = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}


class FakeRegistry:
    """See `content` (what it holds), `requests`, `traffic.sent` (bytes per digest), `endpoint` and `url`.

    tls: sign a certificate for `names` (127.0.0.1 is always in it); without, plain http.
    auth: BearerAuth or BasicAuth; without, everybody may read and push.
    cdn: blobs are answered with a 307 to a second server, called `cdn_name`, which refuses an Authorization
        header as S3 does. Its requests are of kind "cdn".
    prefix: a path in front of /v2/, for mirrors such as host/some/path.
    ranges: single byte ranges are honoured; else the whole body is sent with 200.
    at: address and port to listen at; any free one of 127.0.0.1 otherwise.
    """

    def __init__(
        self,
        *,
        tls: Authority | None = None,
        names: tuple[str, ...] = (),
        auth: BearerAuth | BasicAuth | None = None,
        cdn: bool = False,
        cdn_name: str = "localhost",
        prefix: str = "",
        ranges: bool = True,
        at: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.auth = auth
        self.ranges = ranges
        self.content = Content()
        self.traffic = Traffic()
        self._at = at
        self._tls = tls
        self._names = names
        self._prefix = prefix
        self._cdn_name = cdn_name
        self._listener = Listener(self.traffic, self._answer, self._kind)
        self._cdn = Listener(self.traffic, self._cdn_answer, lambda path: "cdn") if cdn else None
        self._uploads = Uploads(self.content)

    async def __aenter__(self) -> Self:
        await self._listener.start(self._tls.server_context(*self._names) if self._tls else None, *self._at)
        if self._cdn:
            await self._cdn.start(self._tls.server_context(self._cdn_name) if self._tls else None)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.traffic.ending.set()
        await self._listener.stop()
        if self._cdn:
            await self._cdn.stop()

    @property
    def endpoint(self) -> str:
        return f"{self._at[0]}:{self._listener.port}{self._prefix}"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.endpoint}"

    @property
    def cdn_endpoint(self) -> str | None:
        return f"{self._cdn_name}:{self._cdn.port}" if self._cdn else None

    @property
    def requests(self) -> list[Seen]:
        return self.traffic.requests

    def add(self, image: Image | MultiArch, repository: str, tag: str | None = None) -> None:
        self.content.add(image, repository, tag)

    def inject(
        self, fault: Fault, kind: str = "*", path: str = "*", method: str = "*", times: int | None = None
    ) -> Injection:
        """A fault for `times` requests whose kind (see `Seen`), path and method match (shell patterns)."""
        return self.traffic.inject(fault, kind, path, method, times)

    def seen(self, kind: str = "*", path: str = "", method: str = "") -> list[Seen]:
        return self.traffic.seen(kind, path, method)

    async def wait_for(self, happened: Callable[[], bool], timeout: float = 60) -> None:
        await self.traffic.wait_for(happened, timeout)

    @property
    def _scheme(self) -> str:
        return "https" if self._tls else "http"

    def _kind(self, path: str) -> str:
        path = path.removeprefix(self._prefix)
        if path in ("/v2/", "/v2"):
            return "ping"
        if path == "/token":
            return "token"
        return next((kind for kind, pattern in ROUTES.items() if pattern.match(path)), "other")

    async def _answer(self, request: web.Request, seen: Seen) -> Answer:
        path = seen.path.removeprefix(self._prefix)
        if seen.kind == "token" and isinstance(self.auth, BearerAuth):
            return await self.auth.token(request, seen)
        match = ROUTES[seen.kind].match(path) if seen.kind in ROUTES else None
        name = match["name"] if match else ""
        challenge = self._challenge(seen, name)
        if challenge:
            # Bodies are read even when refused: the count of them is what a test may ask for.
            seen.body_bytes = len(await request.read())
            return refusal(401, "UNAUTHORIZED", "log in", {"WWW-Authenticate": challenge})
        if seen.kind == "ping":
            return Answer(200, b"{}", _headers("application/json"))
        if seen.kind == "upload" and match:
            return await self._uploads.answer(request, seen, name, match["session"])
        if seen.kind == "manifest" and seen.method == "PUT" and match:
            return await self._uploads.put_manifest(request, seen, name, match["reference"])
        if seen.kind == "manifest" and match:
            return self._manifest(seen, name, match["reference"])
        if seen.kind == "blob" and match:
            return self._blob(seen, name, match["reference"])
        if seen.kind == "tags":
            tags = sorted(self.content.repositories[name].tags)
            return _json({"name": name, "tags": tags})
        if seen.kind == "referrers" and match:
            return _json(self._referrers(name, match["reference"]), INDEX)
        return refusal(404, "UNSUPPORTED", seen.path)

    def _challenge(self, seen: Seen, name: str) -> str | None:
        if self.auth is None:
            return None
        needed = NEEDS.get(seen.method, "push")
        return self.auth.challenge(seen.authorization, name, needed, f"{self._scheme}://{self.endpoint}/token")

    def _manifest(self, seen: Seen, name: str, reference: str) -> Answer:
        found = self.content.manifest(name, reference)
        if found is None:
            return refusal(404, "MANIFEST_UNKNOWN", f"{name}:{reference}")
        digest, media_type, data = found
        if seen.method == "DELETE":
            del self.content.repositories[name].manifests[digest]
            return Answer(202)
        headers = _headers(media_type)
        headers["Docker-Content-Digest"] = digest
        headers["ETag"] = f'"{digest}"'
        return Answer(200, data, headers)

    def _blob(self, seen: Seen, name: str, digest: str) -> Answer:
        data = self.content.blob(name, digest)
        if data is None:
            return refusal(404, "BLOB_UNKNOWN", digest)
        if self._cdn:
            where = f"{self._scheme}://{self.cdn_endpoint}/{name}/{digest}?signature=secret"
            return Answer(307, headers=CIMultiDict({"Location": where}))
        return self._bytes(seen, data, digest)

    async def _cdn_answer(self, request: web.Request, seen: Seen) -> Answer:
        name, _, digest = seen.path.strip("/").rpartition("/")
        data = self.content.blob(name, digest)
        if seen.authorization:
            return refusal(400, "DENIED", "only one way to say who you are")
        if data is None or seen.query.get("signature") != "secret":
            return refusal(403, "DENIED", seen.path)
        return self._bytes(seen, data, digest)

    def _bytes(self, seen: Seen, data: bytes, digest: str) -> Answer:
        headers = _headers("application/octet-stream")
        if seen.kind == "blob":
            headers["Docker-Content-Digest"] = digest
        if not self.ranges:
            return Answer(200, data, headers)
        headers["Accept-Ranges"] = "bytes"
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", seen.headers.get("Range", ""))
        if wanted is None or wanted[0] == "bytes=-":
            return Answer(200, data, headers)
        start, end = _span(wanted[1], wanted[2], len(data))
        if start >= end:
            headers["Content-Range"] = f"bytes */{len(data)}"
            return Answer(416, b"", headers)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return Answer(206, data[start:end], headers)

    def _referrers(self, name: str, digest: str) -> dict[str, Any]:
        found = [
            {"mediaType": media_type, "digest": of, "size": len(data)}
            for of, (media_type, data) in self.content.repositories[name].manifests.items()
            if json.loads(data).get("subject", {}).get("digest") == digest
        ]
        return {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": found,
        }


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """Half-open; empty when the range cannot be satisfied."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


def _headers(media_type: str) -> CIMultiDict[str]:
    return CIMultiDict({"Content-Type": media_type, "Docker-Distribution-Api-Version": "registry/2.0"})


def _json(value: dict[str, Any], media_type: str = "application/json") -> Answer:
    return Answer(200, json.dumps(value).encode(), _headers(media_type))
