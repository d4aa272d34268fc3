"""What can be wrong with one answer of the fake registry. Several faults may change the same answer."""

from __future__ import annotations

import fnmatch
import gzip
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from multidict import CIMultiDict, CIMultiDictProxy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping


@dataclass
class Seen:
    """One request as a server saw it, and what became of it."""

    kind: str  # ping, token, manifest, blob, upload, tags, referrers, cdn, other
    method: str
    path: str
    query: dict[str, str]
    headers: CIMultiDictProxy[str]
    body_bytes: int = 0
    status: int | None = None  # None until (or unless) an answer starts
    sent: int = 0

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


@dataclass
class Answer:
    """An answer about to be sent."""

    status: int
    body: bytes = b""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    hang: bool = False
    held: asyncio.Event | None = None
    close: bool = False
    told_length: int | None = None
    chunked: bool = False
    cut_after: int | None = None
    gate: asyncio.Event | None = None
    gate_after: int = 0


class Fault(Protocol):
    def apply(self, answer: Answer, request: Seen) -> None: ...


@dataclass(frozen=True)
class Status:
    """Another status, with an error body instead of the content."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"UNKNOWN","message":"injected"}]}'

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.status, answer.body = self.code, self.body
        answer.headers = CIMultiDict({"Content-Type": "application/json", **self.headers})


@dataclass(frozen=True)
class Hang:
    """No answer until the server ends."""

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.hang = True


@dataclass(frozen=True)
class Held:
    """No answer until the event is set."""

    gate: asyncio.Event

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.held = self.gate


@dataclass(frozen=True)
class Headers:
    """These headers more."""

    more: Mapping[str, str]

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.headers.update(self.more)


@dataclass(frozen=True)
class Close:
    """The connection ends before any header."""

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.close = True


@dataclass(frozen=True)
class Truncate:
    """The connection ends after so many bytes of the body."""

    after: int

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.cut_after = self.after


@dataclass(frozen=True)
class Corrupt:
    """One byte in the middle is another one; the length is right."""

    def apply(self, answer: Answer, request: Seen) -> None:
        if answer.body:
            middle = len(answer.body) // 2
            flipped = bytes([answer.body[middle] ^ 0xFF])
            answer.body = answer.body[:middle] + flipped + answer.body[middle + 1 :]


@dataclass(frozen=True)
class WrongLength:
    """Content-Length is off by this much. A promise that is too long ends with the connection."""

    by: int

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.told_length = max(0, len(answer.body) + self.by)


@dataclass(frozen=True)
class Chunked:
    """No Content-Length: chunked transfer."""

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.chunked = True


@dataclass(frozen=True)
class Gzip:
    """Content-Encoding: gzip, for a client that accepts it, or `always` (which breaks HTTP, and happens)."""

    always: bool = False

    def apply(self, answer: Answer, request: Seen) -> None:
        if self.always or "gzip" in request.headers.get("Accept-Encoding", ""):
            answer.body = gzip.compress(answer.body, mtime=0)
            answer.headers["Content-Encoding"] = "gzip"


@dataclass(frozen=True)
class NoDigest:
    """No Docker-Content-Digest."""

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.headers.popall("Docker-Content-Digest", None)


@dataclass(frozen=True)
class HeadRefused:
    """HEAD gets 405."""

    def apply(self, answer: Answer, request: Seen) -> None:
        if request.method == "HEAD":
            Status(405, {"Allow": "GET"}).apply(answer, request)


@dataclass(frozen=True)
class Slow:
    """The body stops after so many bytes until the event is set (the headers have gone out by then)."""

    gate: asyncio.Event
    after: int = 0

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.gate, answer.gate_after = self.gate, self.after


class Challenge:
    """Another WWW-Authenticate: `{good}` stands for the one there was, `{realm}` for its realm."""

    def __init__(self, *values: str) -> None:
        self._values = values

    def apply(self, answer: Answer, request: Seen) -> None:
        if "WWW-Authenticate" not in answer.headers:
            return
        good = answer.headers.popall("WWW-Authenticate")[0]
        realm = good.split('"')[1]
        for value in self._values:
            answer.headers.add("WWW-Authenticate", value.replace("{good}", good).replace("{realm}", realm))


@dataclass
class Injection:
    """A fault and what it applies to; `hits` counts the answers it changed."""

    fault: Fault
    kind: str
    path: str
    method: str
    times: int | None
    hits: int = 0

    def matches(self, request: Seen) -> bool:
        return (
            (self.times is None or self.hits < self.times)
            and fnmatch.fnmatchcase(request.kind, self.kind)
            and fnmatch.fnmatchcase(request.path, self.path)
            and fnmatch.fnmatchcase(request.method, self.method)
        )
