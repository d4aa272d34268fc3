"""What a registry request means: repository, reference, digest, kind; and OCI errors. Pure.

Terms and grammar are those of the OCI distribution-spec (https://github.com/opencontainers/distribution-spec).
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from addon.memo import remembered

if TYPE_CHECKING:
    from collections.abc import Iterable

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFEST_TYPES = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST, DOCKER_SCHEMA1)
# By digest the content is fixed, so everything is accepted, whatever the client that comes first would accept.
ACCEPT_ANY_MANIFEST = ", ".join((*MANIFEST_TYPES, "*/*;q=0.1"))
# The spec asks registries to take manifests of at least 4 MiB; beyond this they stop being manifests.
MAX_MANIFEST = 16 << 20

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([A-Za-z0-9=_-]+)")
_HEX = re.compile(r"[0-9a-f]+")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_TARGET = re.compile(r"/v2/(?P<name>.*)/(?P<kind>manifests|blobs)/(?P<reference>[^/]*|[^/]+:.*)", re.DOTALL)
# A colon is what tells a digest from a tag; clients that escape it mean the same thing.
_MAX_NAME = 255
_REPOSITORY = re.compile(r"/v2/(?P<name>.+)/(?:manifests|blobs|tags|referrers)/", re.DOTALL)
_REFERRERS = re.compile(r"/v2/(?P<name>.*)/referrers/(?P<digest>[^/]*)", re.DOTALL)


class OciError(Exception):
    """An answer that is an error, with the body the distribution-spec gives it ("Error Codes").

    `status` is the HTTP status, `code` one of the spec's codes (or UNAVAILABLE, which clients also know),
    `headers` go with the answer (a challenge, Retry-After).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        detail: object = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = tuple(headers)

    def body(self) -> bytes:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return json.dumps({"errors": [error]}).encode()


@dataclass(frozen=True)
class Digest:
    """A content digest, `algorithm:encoded`; image-spec, "Digests"."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises OciError (400, DIGEST_INVALID) for what the spec does not allow."""
        match = _DIGEST.fullmatch(text)
        if not match:
            raise OciError(400, "DIGEST_INVALID", f"{_shown(text)} is not a digest: algorithm:hex is")
        digest = cls(match[1], match[2])
        length = _HEX_LENGTH.get(digest.algorithm)
        if length and (len(digest.encoded) != length or not _HEX.fullmatch(digest.encoded)):
            raise OciError(
                400,
                "DIGEST_INVALID",
                f"{_shown(text)} is not a digest: {digest.algorithm} has {length} lower-case hex digits",
            )
        return digest

    @classmethod
    def of(cls, content: bytes) -> Digest:
        return cls("sha256", hashlib.sha256(content).hexdigest())

    @property
    def verifiable(self) -> bool:
        """Whether content can be held against this digest here, and so be cached."""
        return self.algorithm in _HEX_LENGTH

    @property
    def short(self) -> str:
        return f"{self.algorithm}:{self.encoded[:12]}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


@dataclass(frozen=True)
class Manifest:
    """`/v2/<name>/manifests/<reference>`; the reference is a tag (str) or a digest."""

    repository: str
    reference: Digest | str


@dataclass(frozen=True)
class Blob:
    """`/v2/<name>/blobs/<digest>`."""

    repository: str
    reference: Digest


@dataclass(frozen=True)
class Referrers:
    """`/v2/<name>/referrers/<digest>`, with the query as it was asked."""

    repository: str
    reference: Digest
    query: str


@dataclass(frozen=True)
class Ping:
    """`/v2/`, by which clients learn how to log in."""


@dataclass(frozen=True)
class Other:
    """Everything that is the origin's own business: pushes, tag lists, deletes, tokens."""


Target = Manifest | Blob | Referrers | Ping | Other


@remembered
def understand(method: str, path: str) -> Target:
    """What is asked for by `method` and `path` (which may carry a query).

    Raises OciError (400) for a pull whose name, tag or digest the spec does not allow.
    """
    if method not in ("GET", "HEAD"):
        return Other()
    path, _, query = path.partition("?")
    path = unquote(path)
    if path in ("/v2/", "/v2"):
        return Ping()
    match = _TARGET.fullmatch(path)
    if not match:
        return _referrers(path, query)
    name, reference = match["name"], match["reference"]
    if match["kind"] == "blobs" and reference == "uploads":
        return Other()
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise OciError(400, "NAME_INVALID", f"{_shown(name)} is not a repository name")
    if match["kind"] == "blobs":
        return Blob(name, Digest.parse(reference))
    if ":" in reference:
        return Manifest(name, Digest.parse(reference))
    if not _TAG.fullmatch(reference):
        raise OciError(400, "TAG_INVALID", f"{_shown(reference)} is neither a tag nor a digest")
    return Manifest(name, reference)


@remembered
def repository(target: str) -> str:
    """The repository that `target`, a path that may carry a query, is about; "" when it is about none."""
    # As registries may read it, whatever stands between: what is said of a repository must hold for its every spelling.
    path = posixpath.normpath("/" + unquote(target.partition("?")[0]).lstrip("/"))
    match = _REPOSITORY.match(f"{path}/")
    return match["name"] if match else ""


def accepted(accept: Iterable[str]) -> frozenset[str]:
    """Which manifest media types these Accept header values admit.

    Clients send them in any order, so this set, not the header, says whether two clients mean the same.
    """
    # Several values are as good as one (RFC 9110, 5.3).
    return _accepted(",".join(accept))


@remembered
def _accepted(accept: str) -> frozenset[str]:
    named = {part.partition(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if not named or "*/*" in named or "application/*" in named:
        return frozenset(MANIFEST_TYPES)
    return frozenset(named.intersection(MANIFEST_TYPES))


def media_type(content: bytes) -> str | None:
    """The media type of a manifest, from what it says of itself; None when it is no manifest."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    stated = document.get("mediaType")
    if isinstance(stated, str) and re.fullmatch(r"[A-Za-z0-9.+/_-]{3,255}", stated):
        return stated
    # mediaType is optional in OCI documents (image-spec, "Image Manifest Property Descriptions").
    if "manifests" in document:
        return OCI_INDEX
    if "config" in document and "layers" in document:
        return OCI_MANIFEST
    if document.get("schemaVersion") == 1:
        return DOCKER_SCHEMA1
    return None


def _referrers(path: str, query: str) -> Referrers | Other:
    match = _REFERRERS.fullmatch(path)
    if not match or len(match["name"]) > _MAX_NAME or not _NAME.fullmatch(match["name"]):
        return Other()
    try:
        return Referrers(match["name"], Digest.parse(match["digest"]), query)
    except OciError:
        return Other()  # the origin says what is wrong with it


def _shown(text: str) -> str:
    """`text` for a message: short, and without control characters."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")
