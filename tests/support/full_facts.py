"""What a proxy could say of itself, with something of everything in it."""

from __future__ import annotations

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
    Listening,
    QuotaFacts,
    Span,
    Traffic,
    Warned,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
DIGEST = "sha256:" + "ab" * 32
BOUNDS = (0.1, 1.0, 10.0)


def full() -> Facts:
    """Of a proxy with two endpoints for docker.io, one of them down, and traffic of every kind."""
    span = Span(NOW - 60, 1000, 500, 3, 2)
    histogram = Histogram(BOUNDS, (5, 3, 1, 1), 21.5)
    return Facts(
        version="1.2.3",
        now=NOW,
        started=NOW - 3600,
        workers=2,
        connections=7,
        offline=False,
        configuration=("/etc/mirrortap/mirrortap.toml",),
        listening=Listening("127.0.0.1:3128", "http://127.0.0.1:5000", "regular"),
        traffic=Traffic((span,), (span,), (span,)),
        counters=Counters(
            requests={
                ("docker.io", "manifest", "hit"): 10,
                ("docker.io", "blob", "miss"): 4,
                ("ghcr.io", "other", "relayed"): 1,
            },
            sent={("docker.io", "hit"): 12_345, ("docker.io", "miss"): 678, ("ghcr.io", "relayed"): 9},
            received={("docker.io", "mirror.example"): 678},
            asked={("docker.io", "mirror.example"): 6, ("docker.io", "registry-1.docker.io"): 2},
            failed={("docker.io", "mirror.example"): 5},
            fills={("docker.io", "stored"): 3, ("docker.io", "failed"): 1},
            joined={("docker.io"): 2},
            evicted=8,
            evicted_bytes=80_000,
            cut=1,
            request_seconds={("manifest", "hit"): histogram, ("blob", "miss"): histogram},
            first_byte_seconds={"docker.io": histogram},
            fill_seconds={"docker.io": histogram},
        ),
        fills=(Filling(DIGEST, "docker.io", "library/app", "blob", "mirror.example", 10, 100, 5.0, 1, NOW - 2),),
        endpoints=(
            EndpointFacts("docker.io", "mirror.example", False, "down", "HTTP 503", NOW + 30, 0.25, 6, 5),
            EndpointFacts("docker.io", "registry-1.docker.io", True, "up", "", 0.0, 0.05, 2, 0),
        ),
        quotas=(
            QuotaFacts("registry-1.docker.io", "anonymous", 76, 100, 21_600.0, NOW - 10),
            QuotaFacts("registry-1.docker.io", "own", 180, 200, 21_600.0, NOW - 10),
            QuotaFacts("registry-1.docker.io", "client 1f2e", 150, 200, 21_600.0, NOW - 10),
            QuotaFacts("registry-1.docker.io", "client 3d4c", 12, 100, 21_600.0, NOW - 10),
        ),
        requests=(
            Answered(
                at=NOW - 1,
                client="192.0.2.7",
                agent="containerd/2.3.0",
                method="GET",
                registry="docker.io",
                repository="library/app",
                reference="1.0",
                kind="manifest",
                outcome="hit",
                endpoint="",
                status=200,
                sent=1234,
                seconds=0.004,
            ),
        ),
        cache=CacheFacts(
            "/var/lib/mirrortap/cache",
            42,
            5_000_000_000,
            10_000_000_000,
            20_000_000_000,
            1_000_000_000,
            1,
            (Evictable(DIGEST, 100, NOW - DAY),),
            True,
        ),
        ca=CaFacts(
            Certificate("mirrortap root", "aa" * 32, NOW - DAY, NOW + 3650 * DAY),
            Certificate("mirrortap intermediate", "bb" * 32, NOW - DAY, NOW + 90 * DAY),
            7 * DAY,
            ("registry-1.docker.io",),
        ),
        warnings=(Warned("a mirror is down", "look at it"),),
    )
