"""What a running proxy can say of itself, as plain values: for the status page, the metrics and `mirrortap status`.

`Facts` is the whole proxy's. What each worker counts for itself comes as `Share`s, which are merged into it.
Times are seconds since the epoch, durations seconds, sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Outcome = Literal["hit", "stale", "redirected", "joined", "miss", "relayed", "refused"]
"""Of a request: served from the cache, an old tag's content, sent on to the mirror door, served from a download that
another request had begun, fetched from an endpoint, passed on as it is, or refused by mirrortap itself (an error body
of its own)."""
OUTCOMES: tuple[Outcome, ...] = ("hit", "stale", "redirected", "joined", "miss", "relayed", "refused")
Kind = Literal["manifest", "blob", "referrers", "other"]
KINDS: tuple[Kind, ...] = ("manifest", "blob", "referrers", "other")
State = Literal["unknown", "up", "limited", "down"]
"""Of an endpoint: not asked yet, answers, limits one kind of question, asked last because it failed."""

# Whatever clients can name as they like is counted under this from some number of names on.
OTHER = "other"


@dataclass(frozen=True)
class Answered:
    """One request to a registry, and what became of it. All that a client wrote is cut to a bounded length.

    `path` is without its query, which may hold a secret. `repository` is "" where the request names none; `hidden`
    where not everybody may know it: then it, `reference` and `path` are "" for whoever looks. `cut`: why the transfer
    was broken off, "" if it was not. `trace`: the trace-id of W3C Trace Context, if the client sent one.
    """

    at: float
    client: str
    agent: str
    method: str
    registry: str
    repository: str
    reference: str
    kind: Kind
    outcome: Outcome
    endpoint: str
    status: int
    sent: int
    seconds: float
    path: str = ""
    age: int = 0
    """Seconds by which something stale is too old."""
    cut: str = ""
    trace: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Filling:
    """A download that runs. `size` None: not known; `rate`: bytes a second, lately; `ahead`: no client waits yet."""

    digest: str
    registry: str
    repository: str
    kind: Kind
    endpoint: str
    written: int
    size: int | None
    rate: float
    readers: int
    since: float
    ahead: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class EndpointFacts:
    """`registry` that it is asked for, `origin` if it is that itself. `reason`: in words, why it is marked down or
    limited, and `until` when it is; `latency`: until its answers begin, on average lately, None before the first."""

    registry: str
    endpoint: str
    origin: bool
    state: State
    reason: str
    until: float
    latency: float | None
    asked: int
    failed: int


@dataclass(frozen=True)
class QuotaFacts:
    """What a registry last said is left to a `credential` ("anonymous", "own", or "client" with some hex digits)."""

    endpoint: str
    credential: str
    remaining: int
    limit: int | None
    window: float
    at: float


@dataclass(frozen=True)
class Span:
    """One bar of the traffic charts, from `start` on. `cached`: bytes served from the cache, or from a download
    that another request had begun; `fetched`: bytes that came from endpoints; hits and misses are requests for content
    that everybody or this client could have."""

    start: float
    cached: int
    fetched: int
    hits: int
    misses: int


@dataclass(frozen=True)
class Traffic:
    """Oldest first, without gaps: the last hour by minutes, the last day by hours, the last 30 days by days."""

    hour: Sequence[Span]
    day: Sequence[Span]
    month: Sequence[Span]


@dataclass(frozen=True)
class Evictable:
    """What would go next, should room be needed. `used`: when it was last served."""

    digest: str
    size: int
    used: float


@dataclass(frozen=True)
class CacheFacts:
    folder: str
    files: int
    size: int
    limit: int
    free: int
    floor: int
    pinned: int
    next: Sequence[Evictable]
    writable: bool


@dataclass(frozen=True)
class Certificate:
    name: str
    sha256: str
    begins: float
    ends: float


@dataclass(frozen=True)
class CaFacts:
    """`leaf_life`: seconds that leaves are issued for."""

    root: Certificate
    intermediate: Certificate
    leaf_life: float
    names: Sequence[str]


@dataclass(frozen=True)
class Warned:
    """Something odd, in words: what, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Histogram:
    """`counts` of observations up to each bound, not cumulated, with those beyond the last one at the end."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


@dataclass(frozen=True)
class Counters:
    """Since the proxy started. Keys' parts are bounded: what clients name freely ends up as `OTHER`."""

    requests: Mapping[tuple[str, Kind, Outcome], int] = field(default_factory=dict)
    """By registry, kind and outcome."""
    sent: Mapping[tuple[str, Outcome], int] = field(default_factory=dict)
    """Bytes to clients, by registry and outcome."""
    received: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Bytes of content from endpoints, by registry and endpoint."""
    asked: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Questions to endpoints, by registry and endpoint."""
    failed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    fills: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Downloads that ended, by registry and how: stored, followed, lied, unwritable, failed."""
    joined: Mapping[str, int] = field(default_factory=dict)
    """Requests that were served from a download that another one had begun, by registry."""
    evicted: int = 0
    evicted_bytes: int = 0
    cut: int = 0
    """Transfers that were broken off."""
    request_seconds: Mapping[tuple[Kind, Outcome], Histogram] = field(default_factory=dict)
    first_byte_seconds: Mapping[str, Histogram] = field(default_factory=dict)
    """Of downloads, until an endpoint begins to send, by registry; `fill_seconds` until all is stored."""
    fill_seconds: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class Tallied:
    """What one process has counted. `requests`: the last ones, newest first; `latency`: seconds until an endpoint
    begins to answer, by registry and endpoint; `distrusting`: clients that broke off TLS, where they wanted to, and
    when."""

    counters: Counters = Counters()
    requests: Sequence[Answered] = ()
    latency: Mapping[tuple[str, str], float] = field(default_factory=dict)
    distrusting: Sequence[tuple[str, str, float]] = ()


@dataclass(frozen=True)
class Share:
    """What one worker adds to the facts."""

    tallied: Tallied
    fills: Sequence[Filling]
    endpoints: Sequence[EndpointFacts]
    quotas: Sequence[QuotaFacts]
    connections: int
    writable: bool
    """Whether the cache could be written lately."""
    refused: str
    """Why the configuration that there is now is not in use; "" if it is."""


@dataclass(frozen=True)
class Listening:
    """Where clients come, as `host:port`; `mirror` is "" where there is none, and a URL otherwise."""

    proxy: str
    mirror: str
    mode: str


@dataclass(frozen=True)
class Facts:
    version: str
    now: float
    started: float
    workers: int
    connections: int
    offline: bool
    configuration: Sequence[str]
    listening: Listening
    traffic: Traffic
    counters: Counters
    fills: Sequence[Filling]
    endpoints: Sequence[EndpointFacts]
    quotas: Sequence[QuotaFacts]
    requests: Sequence[Answered]
    """The last ones, newest first."""
    cache: CacheFacts
    ca: CaFacts
    warnings: Sequence[Warned]
