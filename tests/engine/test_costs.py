"""What warm requests cost the engine, in counts: seconds would tell of the machine, these tell of a change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from support.costs import Costs
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

# As clients send them.
HEADERS = [
    ("Host", "registry.test"),
    ("User-Agent", "containerd/2.3.0"),
    ("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"),
    ("Accept-Encoding", "gzip"),
]
LOGIN = ("Authorization", "Bearer anonymous")


@dataclass(frozen=True)
class Limit:
    """`calls`: of functions, as many as were found when this was written down."""

    calls: int
    files: dict[str, int]

    @property
    def most(self) -> int:
        """A seventh more are let pass: another patch release of Python may take a few."""
        return self.calls + self.calls // 7


LIMITS = {
    "GET manifest": Limit(144, {"stat": 1}),
    "HEAD manifest": Limit(144, {"stat": 1}),
    "GET tag": Limit(145, {"stat": 1}),
    "GET blob": Limit(158, {"open": 1, "flock": 1, "fstat": 2, "close": 1}),
    "HEAD blob": Limit(135, {"stat": 1}),
}
LOGGING_IN = 32  # calls more, of one who shows a credential


async def warm(proxy: Proxy, image: Image) -> dict[str, str]:
    """Pulls it; what may be asked for then."""
    paths = {"manifest": manifest(image.manifest.digest), "tag": TAG, "blob": blob(image.layers[0].digest)}
    for target in paths.values():
        assert (await proxy.fetch("GET", target, HEADERS)).status == 200
    await proxy.settled(image.manifest.digest)
    return paths


async def cost(proxy: Proxy, method: str, target: str, headers: list[tuple[str, str]]) -> Costs:
    """Of one more, after others like it."""
    for _ in range(3):
        await asyncio.sleep(0)  # a turn of the event loop, as between two requests
        with proxy.counted() as costs:
            reply = await proxy.ask(method, target, headers)
            if not isinstance(reply.body, bytes):
                await reply.body.close()
        assert (reply.status, reply.served.how) == (200, "hit")
    return costs


async def test_a_warm_request_costs_no_more_than_it_did(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, settings={"tag-ttl": "1h"})
    paths = await warm(proxy, image)
    for kind, limit in LIMITS.items():
        method, _, what = kind.partition(" ")
        for headers, most in (HEADERS, limit.most), ([*HEADERS, LOGIN], limit.most + LOGGING_IN):
            costs = await cost(proxy, method, paths[what], headers)
            again = await cost(proxy, method, paths[what], headers)
            assert costs.functions == again.functions
            assert costs.calls <= most, (
                f"a warm {kind} costs {costs.calls} calls, of which {most} are let pass. Every request of every client"
                " pays for them: look below for what is new, and do it once, not per request. If it is worth its"
                f" price, write the new number down in LIMITS, and say why in the commit.\n{costs}"
            )
            assert costs.calls > most // 2, f"a warm {kind} costs {costs.calls} calls now: write that down here"
            assert costs.statements == ["PRAGMA data_version"], (
                f"a warm {kind} asks SQLite more than whether somebody has written: what is asked of each request is"
                f" for database.recall, which remembers.\n{costs}"
            )
            assert costs.files == limit.files, f"a warm {kind} asks the file system something else now.\n{costs}"
