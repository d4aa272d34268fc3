"""Facts of a proxy that has something of everything, and clients that write what they should not."""

from __future__ import annotations

from dataclasses import replace

from addon.counts.facts import (
    Answered,
    CacheFacts,
    CaFacts,
    Certificate,
    Counters,
    EndpointFacts,
    Evictable,
    Facts,
    Filling,
    Histogram,
    Kind,
    Listening,
    Outcome,
    QuotaFacts,
    Span,
    Traffic,
    Warned,
)

NOW = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
NASTY = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
"""What a client may write into a repository's name or its User-Agent."""
DIGEST = "sha256:" + "0123456789abcdef" * 4
_MIB = 1 << 20


def example() -> Facts:
    """Every field has something in it."""
    return Facts(
        version="1.2.3",
        now=NOW,
        started=NOW - 90_000,
        workers=2,
        connections=17,
        offline=False,
        configuration=("/etc/mirrortap/mirrortap.toml",),
        listening=Listening("0.0.0.0:3128", "http://0.0.0.0:5000", "regular"),
        traffic=Traffic(_spans(60, 60), _spans(24, 3600), _spans(30, 86400)),
        counters=Counters(
            requests={("docker.io", "blob", "hit"): 3, ("quay.io", "manifest", "miss"): 1},
            sent={("docker.io", "hit"): 3000},
            received={("docker.io", "mirror.corp:5000"): 1000},
            asked={("docker.io", "mirror.corp:5000"): 5},
            failed={("docker.io", "mirror.corp:5000"): 1},
            fills={("docker.io", "stored"): 2},
            joined={"docker.io": 4},
            evicted=1,
            evicted_bytes=100,
            cut=2,
            request_seconds={("blob", "hit"): Histogram((0.1, 1.0), (3, 1, 0), 0.5)},
            first_byte_seconds={"docker.io": Histogram((0.1, 1.0), (3, 1, 0), 0.5)},
            fill_seconds={"docker.io": Histogram((0.1, 1.0), (3, 1, 0), 0.5)},
        ),
        fills=(
            Filling(
                DIGEST, "docker.io", "library/app", "blob", "mirror.corp:5000", 30 * _MIB, 120 * _MIB, 2e7, 3, NOW - 2
            ),
            Filling(
                DIGEST[:-1] + "0", "quay.io", "", "blob", "quay.io", _MIB, None, 0.0, 0, NOW, ahead=True, hidden=True
            ),
        ),
        endpoints=(
            EndpointFacts("docker.io", "mirror.corp:5000", False, "down", "connection refused", NOW + 65, 0.012, 40, 3),
            EndpointFacts("docker.io", "registry-1.docker.io", True, "limited", "429, too many", NOW + 7200, 0.2, 9, 1),
            EndpointFacts("quay.io", "quay.io", True, "up", "", 0, 0.087, 12, 0),
            EndpointFacts("ghcr.io", "ghcr.io", True, "unknown", "", 0, None, 0, 0),
        ),
        quotas=(
            QuotaFacts("registry-1.docker.io", "anonymous", 76, 100, 21600, NOW - 30),
            QuotaFacts("registry-1.docker.io", "client 3f2a", 12, None, 3600, NOW - 60),
        ),
        requests=(
            answered("miss", repository=NASTY, agent=NASTY, at=NOW - 1),
            answered("hit", at=NOW - 2),
            answered("refused", repository="", hidden=True, status=403, client="10.0.0.8", at=NOW - 3),
            answered("relayed", registry="quay.io", repository="team/app", cut="the client has left", at=NOW - 4),
            answered("stale", kind="manifest", reference="3.20", at=NOW - 5),
            answered("redirected", status=307, at=NOW - 90_000),
        ),
        cache=CacheFacts(
            "/var/lib/mirrortap/cache",
            312,
            30 << 30,
            50 << 30,
            100 << 30,
            5 << 30,
            4 << 30,
            (Evictable(DIGEST, 9 * _MIB, NOW - 9e5),),
            True,
        ),
        ca=CaFacts(
            Certificate("CN=mirrortap root", "AB:" * 31 + "CD", NOW - 86400, NOW + 3650 * 86400),
            Certificate("CN=mirrortap intermediate", "12:" * 31 + "34", NOW - 86400, NOW + 364 * 86400),
            7 * 86400,
            ("docker.io", "quay.io"),
        ),
        warnings=(
            Warned("The disk has little room: 1.2 GB are free.", "Give the cache another disk, or less: max-size."),
        ),
    )


def empty() -> Facts:
    """Of a proxy that has just started."""
    return replace(
        example(),
        configuration=(),
        listening=Listening("127.0.0.1:3128", "", "regular"),
        traffic=Traffic(*([Span(NOW, 0, 0, 0, 0)] * count for count in (60, 24, 30))),
        counters=Counters(),
        fills=(),
        endpoints=(),
        quotas=(),
        requests=(),
        cache=CacheFacts("/data/cache", 0, 0, 0, 0, 0, 0, (), True),
        warnings=(),
    )


def answered(
    outcome: Outcome,
    *,
    registry: str = "docker.io",
    repository: str = "library/app",
    reference: str = DIGEST,
    kind: Kind = "blob",
    client: str = "10.0.0.7",
    agent: str = "containers/5.24.1",
    status: int = 200,
    cut: str = "",
    hidden: bool = False,
    at: float = NOW,
) -> Answered:
    endpoint = "mirror.corp:5000" if outcome in ("miss", "relayed") else ""
    return Answered(
        at, client, agent, "GET", registry, repository, reference, kind, outcome, endpoint, status, 4096, 0.012,
        cut=cut, trace="4bf92f3577b34da6a3ce929d0e0e4736", hidden=hidden,
    )  # fmt: skip


def _spans(count: int, seconds: int) -> list[Span]:
    begin = NOW - count * seconds
    return [
        Span(begin + n * seconds, 50 * _MIB * (n * 7 % 10), 20 * _MIB * (n * 3 % 5), n * 7 % 10, n * 3 % 5)
        for n in range(count)
    ]
