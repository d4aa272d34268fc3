"""One question in, one reply out: the values that doors and engine exchange."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from addon import ranges
from addon.multipart import ByteRanges, content_range

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from addon.body import Body
    from addon.config.model import Rule
    from addon.oci import Digest, OciError

API_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
# Of a registry's 5xx, Go programs show people the status and its reason alone.
OFFLINE_STATUS, OFFLINE_REASON = 504, "mirrortap is offline"
# Of one connection only (RFC 9110, 7.6.1), so never carried from one side to the other.
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


@dataclass(frozen=True)
class PlainDoor:
    """Where a client can have content over plain http: the door's URL, and the address that the client comes from."""

    url: str
    client: str


@dataclass(frozen=True)
class Request:
    """What a client asks of a registry. `target` is the path with the query, as the client wrote it.

    `anonymous`: the client has no credential for the registry, and nothing to gain from an answer that asks for one.
    `door`: to which it can be sent; None: nowhere.
    """

    rule: Rule
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes] | None = None
    anonymous: bool = False
    door: PlainDoor | None = None

    def header(self, name: str) -> str | None:
        """The first value of a header; `name` in lower case."""
        values = self._by_name.get(name)
        return values[0] if values else None

    def header_values(self, name: str) -> Sequence[str]:
        return self._by_name.get(name, ())

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in self.headers:
            found.setdefault(name.lower(), []).append(value)
        return found


@dataclass(frozen=True)
class Served:
    """Where an answer came from, for Cache-Status (RFC 9211) and for the log."""

    how: str  # hit, redirected, stale, miss from, joined from, relayed from, passed on to, in place of, refused
    endpoint: str = ""
    age: int = 0  # seconds by which something stale is too old

    def cache_status(self) -> str | None:
        match self.how:
            case "hit":
                return "mirrortap; hit"
            case "redirected":
                return "mirrortap; hit; detail=redirected"
            case "stale":
                return f"mirrortap; hit; ttl=-{self.age}; detail=stale"
            case "miss from":
                return f'mirrortap; fwd=miss; detail="{self.endpoint}"'
            case "joined from":
                return f'mirrortap; fwd=miss; collapsed; detail="{self.endpoint}"'
            case "relayed from":
                return f'mirrortap; fwd=bypass; detail="{self.endpoint}"'
        return None

    def __str__(self) -> str:
        return f"{self.how} {self.endpoint}".rstrip()


@dataclass(frozen=True)
class Reply:
    """What the client gets. A reply to HEAD has no body, whatever its Content-Length says."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: Body | bytes
    served: Served


def ours(
    status: int, headers: Iterable[tuple[str, str]], body: Body | bytes, served: Served, request: Request
) -> Reply:
    """A reply that the proxy answers for."""
    marks = [("OCI-Namespace", request.rule.registry)]
    if status_line := served.cache_status():
        marks.append(("Cache-Status", status_line))
    return Reply(status, (*headers, *marks), body, served)


def error(problem: OciError, request: Request) -> Reply:
    """An error in the distribution-spec's form."""
    body = problem.body()
    headers = [
        ("Content-Type", "application/json"),
        API_VERSION,
        ("Content-Length", str(len(body))),
        *problem.headers,
    ]
    return ours(problem.status, headers, b"" if request.method == "HEAD" else body, Served("refused"), request)


def end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers without those of one connection, the ones that Connection names included."""
    listed = list(headers)
    named = {
        token.strip().lower() for name, value in listed if name.lower() == "connection" for token in value.split(",")
    }
    return [(name, value) for name, value in listed if name.lower() not in _HOP_BY_HOP | named]


async def content(
    request: Request,
    digest: Digest,
    size: int | None,
    media_type: str,
    served: Served,
    body: Callable[[int, int | None], Awaitable[Body]],
) -> Reply:
    """Content of `size` bytes, of which `body(start, end)` opens slices: 200, 206 or 416 (RFC 9110, section 14).

    Raises what `body` raises, except for the later parts of a multipart reply: they are opened while it is read.
    """
    headers = describing(digest, size, media_type)
    if request.method == "HEAD":
        return ours(200, headers, b"", served, request)
    slices = None
    if size is not None and request.header("if-range") in (None, _etag(digest)):
        try:
            slices = ranges.parse(request.header("range"), size)
        except ranges.Unsatisfiable:
            headers = [("Content-Range", f"bytes */{size}"), ("Content-Length", "0")]
            return ours(416, headers, b"", served, request)
    if size is None or slices is None:
        return ours(200, headers, await body(0, size), served, request)
    if len(slices) > 1:
        parts = ByteRanges(slices, size, media_type, body)
        # What cannot be opened must be known while there can be another answer.
        await parts.begin()
        return ours(206, describing(digest, parts.length, parts.media_type), parts, served, request)
    ((start, end),) = slices
    headers = [*describing(digest, end - start, media_type), ("Content-Range", content_range(start, end, size))]
    return ours(206, headers, await body(start, end), served, request)


def describing(digest: Digest | None, size: int | None, media_type: str) -> list[tuple[str, str]]:
    """The headers that say what content is. containerd asks again, by a counted GET, where a HEAD lacks them."""
    headers = [("Content-Type", media_type), ("Accept-Ranges", "bytes"), API_VERSION]
    if size is not None:
        headers.append(("Content-Length", str(size)))
    if digest is not None:
        headers += [("Docker-Content-Digest", str(digest)), ("ETag", _etag(digest))]
    return headers


def _etag(digest: Digest) -> str:
    return f'"{digest}"'
