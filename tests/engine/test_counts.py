"""What is counted of endpoints: what they are asked, what of it fails, and what they send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.faults import Truncate

from engine.harness import NAME, REGISTRY, blob, closed_port

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup


async def test_who_cannot_be_reached_was_asked_as_well(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    layer, gone = image.layers[0], closed_port()
    origin.add(image, NAME)
    proxy = setup.proxy(origin, gone)
    assert (await proxy.get(blob(layer.digest))).digest == layer.digest
    tallied = proxy.tally.tallied()
    assert tallied.counters.asked == {(REGISTRY, gone): 1, (REGISTRY, origin.endpoint): 1}
    assert tallied.counters.failed == {(REGISTRY, gone): 1}
    assert tallied.counters.received == {(REGISTRY, origin.endpoint): len(layer.data)}
    assert set(tallied.latency) == {(REGISTRY, origin.endpoint)}


async def test_who_breaks_off_has_failed_and_what_it_sent_counts(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    layer = image.layers[0]
    for registry in origin, mirror:
        registry.add(image, NAME)
    mirror.inject(Truncate(1000), kind="blob")
    proxy = setup.proxy(origin, mirror)
    assert (await proxy.get(blob(layer.digest))).digest == layer.digest
    counters = proxy.tally.tallied().counters
    here, there = (REGISTRY, mirror.endpoint), (REGISTRY, origin.endpoint)
    assert (counters.asked, counters.failed) == ({here: 1, there: 1}, {here: 1})
    assert counters.received == {here: 1000, there: len(layer.data) - 1000}
    assert counters.fills == {(REGISTRY, "stored"): 1}
