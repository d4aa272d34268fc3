"""One question in, one reply out: the values that doors and engine exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from addon.body import Body
    from addon.config.model import Rule
    from addon.oci import OciError, Target

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
class Request:
    """What a client asks of a registry. `target` is the path with the query, as the client wrote it."""

    rule: Rule
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes] | None = None

    def header(self, name: str) -> str | None:
        """The first value of a header; `name` in lower case."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header.lower() == name]


@dataclass(frozen=True)
class Served:
    """Where an answer came from, for Cache-Status (RFC 9211) and for the log."""

    how: str  # hit, stale, miss from, relayed from, passed on to, in place of, refused
    endpoint: str = ""
    age: int = 0  # seconds by which something stale is too old

    def cache_status(self) -> str | None:
        match self.how:
            case "hit":
                return "mirrortap; hit"
            case "stale":
                return f"mirrortap; hit; ttl=-{self.age}; detail=stale"
            case "miss from":
                return f'mirrortap; fwd=miss; detail="{self.endpoint}"'
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
    target: Target | None = None


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
        ("Docker-Distribution-API-Version", "registry/2.0"),
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
