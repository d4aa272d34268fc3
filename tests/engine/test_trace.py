"""The trace that a request belongs to goes along with all that it has endpoints asked (W3C Trace Context)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.faults import Slow, Status, Truncate

from engine.harness import NAME, TAG, blob, manifest, read
from engine.test_prefetch import over

if TYPE_CHECKING:
    from support.faults import Seen
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup

STATE = "vendor=of-the-client"


def parent(number: int) -> str:
    return f"00-{number:032x}-00f067aa0ba902b7-01"


def traced(number: int) -> dict[str, str]:
    """Headers of a request that is part of a trace."""
    return {"TraceParent": parent(number), "TraceState": STATE}


def trace(seen: Seen) -> tuple[str | None, str | None]:
    return seen.headers.get("traceparent"), seen.headers.get("tracestate")


async def test_all_that_a_pull_asks_belongs_to_its_trace(setup: Setup, image: Image) -> None:
    origin = await setup.registry(auth=BearerAuth(Policy()), cdn=True)
    mirror = await setup.registry(auth=BearerAuth(Policy()))
    for registry in origin, mirror:
        registry.add(image, NAME, "1.0")
    mirror.inject(Status(503), kind="blob")
    proxy = setup.proxy(origin, mirror)
    for target in TAG, manifest(image.manifest.digest), blob(image.layers[0].digest):
        assert (await proxy.fetch("GET", target, traced(1))).status == 200
    for registry in origin, mirror:
        kinds = {seen.kind for seen in registry.requests}
        assert {"token", "blob"} <= kinds
        for seen in registry.requests:
            # A token is for whoever comes next as well.
            assert trace(seen) == ((None, None) if seen.kind == "token" else (parent(1), STATE)), seen
    assert {seen.kind for seen in mirror.requests} >= {"manifest"}
    assert {seen.kind for seen in origin.requests} >= {"cdn"}


async def test_who_joins_a_download_is_no_part_of_its_cause(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    layer = image.layers[0]
    for registry in origin, mirror:
        registry.add(image, NAME)
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=1000), kind="blob")
    mirror.inject(Truncate(2000), kind="blob")
    proxy = setup.proxy(origin, mirror)
    first = await proxy.ask("GET", blob(layer.digest), traced(1))
    second = await proxy.ask("GET", blob(layer.digest), traced(2))
    gate.set()
    got = await asyncio.gather(read(first), read(second))
    assert [each.digest for each in got] == [layer.digest] * 2
    # The rest came from the origin.
    assert [trace(seen) for seen in origin.seen("blob") + mirror.seen("blob")] == [(parent(1), STATE)] * 2


async def test_what_is_fetched_ahead_belongs_to_the_pull_of_the_manifest(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME, "1.0")
    proxy = setup.proxy(None, mirror, settings={"prefetch": True})
    await proxy.fetch("GET", TAG, traced(1))
    await over()
    asked = mirror.seen("blob")
    assert len(asked) == len(image.blobs)
    assert {trace(seen) for seen in asked} == {(parent(1), STATE)}


async def test_what_is_between_client_and_origin_belongs_to_its_trace(setup: Setup, image: Image) -> None:
    origin = await setup.registry(auth=BasicAuth(Policy(users={"alice": "pw"}, private={NAME: {"alice"}})))
    origin.add(image, NAME, "1.0")
    proxy = setup.proxy(origin)
    targets = TAG, blob(image.layers[0].digest), f"/v2/{NAME}/tags/list", "/v2/"
    for number, target in enumerate(targets, 1):
        for headers in {}, {"Authorization": basic("alice", "pw")}:
            asked = len(origin.requests)
            await proxy.fetch("GET", target, traced(number) | headers)
            assert {trace(seen) for seen in origin.requests[asked:]} == {(parent(number), STATE)}


async def test_what_mirrors_are_asked_about_referrers_belongs_to_its_trace(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    table = {"url": mirror.url, "ca": [setup.ca_file], "capabilities": ["pull", "resolve", "referrers"]}
    proxy = setup.proxy(None, table)
    await proxy.fetch("GET", f"/v2/{NAME}/referrers/{image.manifest.digest}", traced(1))
    assert {trace(seen) for seen in mirror.seen("referrers")} == {(parent(1), STATE)}


async def test_what_is_no_trace_reaches_no_mirror(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME, "1.0")
    proxy = setup.proxy(None, mirror)
    got = await proxy.fetch("GET", TAG, {"traceparent": "00-" + "x" * 200, "tracestate": STATE})
    assert got.status == 200
    await proxy.fetch("GET", blob(image.layers[0].digest))
    assert mirror.seen("blob")
    assert {trace(seen) for seen in mirror.requests} == {(None, None)}
