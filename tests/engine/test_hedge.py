"""A mirror that is slow to begin gets a rival, and the first answer that is the content is the one.

Nothing here is about how long anything takes: a mirror is held until the test lets it go on.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.config import QUICK
from support.faults import Held, Status, Truncate

from engine.harness import NAME, TAG, RawServer, blob, manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from addon.config.model import Config
    from engine.conftest import Setup
    from engine.harness import RawExchange


def hedging(after: float = 0.1, *, origin: bool = False) -> Callable[[Config], Config]:
    def tuned(config: Config) -> Config:
        timeouts = replace(config.timeouts, hedge=after)
        return replace(config, timeouts=timeouts, downloads=replace(config.downloads, hedge_origin=origin))

    return tuned


@pytest.fixture
async def mirrors(setup: Setup, image: Image) -> list[FakeRegistry]:
    """Three that have the image."""
    registries = [await setup.registry() for _ in range(3)]
    for registry in registries:
        registry.add(image, NAME)
    return registries


async def test_the_second_answers_while_the_first_is_held(
    setup: Setup, origin: FakeRegistry, mirrors: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirrors[0].inject(Held(asyncio.Event()))
    proxy = setup.proxy(origin, *mirrors[:2], tuned=hedging())
    head = await proxy.head(TAG)
    got = await proxy.get(blob(image.layers[1].digest))
    assert (head.status, head.served.endpoint) == (200, mirrors[1].endpoint)
    assert (got.data, got.served.endpoint) == (image.layers[1].data, mirrors[1].endpoint)
    for registry in mirrors[:2]:
        assert [seen.method for seen in registry.requests] == ["HEAD", "GET"], "a HEAD's rival is a HEAD"
    assert origin.requests == []
    # To be slow is not to fail.
    assert "asked last" not in caplog.text


async def test_the_first_wins_when_it_is_faster_in_the_end(
    setup: Setup, mirrors: list[FakeRegistry], image: Image
) -> None:
    gate = asyncio.Event()
    mirrors[0].inject(Held(gate))
    mirrors[1].inject(Held(asyncio.Event()))
    proxy = setup.proxy(None, *mirrors[:2], tuned=hedging())
    asking = asyncio.create_task(proxy.get(blob(image.config.digest)))
    await mirrors[1].wait_for(lambda: bool(mirrors[1].requests))
    gate.set()
    got = await asking
    assert (got.data, got.served.endpoint) == (image.config.data, mirrors[0].endpoint)


async def test_each_further_delay_brings_in_one_more(
    setup: Setup, origin: FakeRegistry, mirrors: list[FakeRegistry], image: Image
) -> None:
    for mirror in mirrors[:2]:
        mirror.inject(Held(asyncio.Event()))
    got = await setup.proxy(origin, *mirrors, tuned=hedging()).get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, mirrors[2].endpoint)
    assert [len(mirror.requests) for mirror in mirrors] == [1, 1, 1]
    assert origin.requests == []


@pytest.mark.parametrize("after", [0.02, 0])
async def test_the_origin_is_no_rival_and_0_is_never(
    after: float,
    setup: Setup,
    origin: FakeRegistry,
    mirrors: list[FakeRegistry],
    image: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next one is asked only when the slow one has failed: its timeout is in the log."""
    origin.add(image, NAME)
    mirrors[0].inject(Held(asyncio.Event()))
    others = mirrors[1:2] if after == 0 else []
    proxy = setup.proxy(origin, mirrors[0], *others, settings=dict(QUICK), tuned=hedging(after))
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, (others or [origin])[0].endpoint)
    assert f"{mirrors[0].endpoint}: no answer within 1 s" in caplog.text


async def test_the_origin_is_a_rival_where_it_may(
    setup: Setup, origin: FakeRegistry, mirrors: list[FakeRegistry], image: Image
) -> None:
    origin.add(image, NAME)
    mirrors[0].inject(Held(asyncio.Event()))
    proxy = setup.proxy(origin, mirrors[0], tuned=hedging(origin=True))
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)


async def test_a_rival_that_refuses_leaves_the_first_its_time(
    setup: Setup, origin: FakeRegistry, mirrors: list[FakeRegistry], image: Image
) -> None:
    gate = asyncio.Event()
    mirrors[0].inject(Held(gate))
    mirrors[1].inject(Status(404))
    proxy = setup.proxy(origin, *mirrors[:2], tuned=hedging())
    asking = asyncio.create_task(proxy.get(blob(image.config.digest)))
    await mirrors[1].wait_for(lambda: mirrors[1].requests != [] and mirrors[1].requests[0].status == 404)
    gate.set()
    got = await asking
    assert (got.data, got.served.endpoint) == (image.config.data, mirrors[0].endpoint)
    assert origin.requests == []


async def test_a_rival_that_refuses_is_followed_by_the_next(
    setup: Setup, mirrors: list[FakeRegistry], image: Image
) -> None:
    mirrors[0].inject(Held(asyncio.Event()))
    mirrors[1].inject(Status(404))
    got = await setup.proxy(None, *mirrors, tuned=hedging()).get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, mirrors[2].endpoint)


async def test_the_first_fails_while_its_rival_runs(
    setup: Setup,
    origin: FakeRegistry,
    mirrors: list[FakeRegistry],
    image: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    for mirror, gate in zip(mirrors, gates, strict=False):
        mirror.inject(Held(gate))
    mirrors[0].inject(Status(503))
    proxy = setup.proxy(origin, *mirrors[:2], tuned=hedging())
    asking = asyncio.create_task(proxy.get(blob(image.config.digest)))
    await mirrors[1].wait_for(lambda: bool(mirrors[1].requests))
    gates[0].set()
    while "HTTP 503" not in caplog.text:  # noqa: ASYNC110 (a turn of the loop, not a length of time)
        await asyncio.sleep(0)
    gates[1].set()
    got = await asking
    assert (got.data, got.served.endpoint) == (image.config.data, mirrors[1].endpoint)
    assert origin.requests == []
    # It failed, whoever won.
    assert f"{mirrors[0].endpoint}: HTTP 503" in caplog.text
    assert "asked last for" in caplog.text


async def test_when_all_of_them_refuse_the_origin_is_asked(
    setup: Setup, origin: FakeRegistry, mirrors: list[FakeRegistry], image: Image
) -> None:
    origin.add(image, NAME)
    gate = asyncio.Event()
    mirrors[0].inject(Held(gate))
    for mirror in mirrors[:2]:
        mirror.inject(Status(404))
    proxy = setup.proxy(origin, *mirrors[:2], tuned=hedging())
    asking = asyncio.create_task(proxy.get(blob(image.config.digest)))
    await mirrors[1].wait_for(lambda: mirrors[1].requests != [] and mirrors[1].requests[0].status == 404)
    gate.set()
    got = await asking
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)


async def test_a_slow_one_goes_on_where_its_rival_breaks_off(
    setup: Setup, mirrors: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    layer = image.layers[1]
    mirrors[0].inject(Held(asyncio.Event()), times=1)
    mirrors[1].inject(Truncate(layer.size // 2), times=1)
    # On a busy machine, too, whoever is asked for the rest has begun by then.
    got = await setup.proxy(None, *mirrors[:2], tuned=hedging(0.5)).get(blob(layer.digest))
    assert (got.data, got.cut) == (layer.data, None)
    assert [len(mirror.requests) for mirror in mirrors] == [2, 1, 0]
    assert f"{mirrors[0].endpoint}: no answer" not in caplog.text


async def test_whoever_broke_off_comes_after_those_that_were_not_asked(
    setup: Setup, mirrors: list[FakeRegistry], image: Image
) -> None:
    layer = image.layers[1]
    mirrors[0].inject(Held(asyncio.Event()))
    mirrors[1].inject(Truncate(layer.size // 2), times=1)
    got = await setup.proxy(None, *mirrors, tuned=hedging(0.5)).get(blob(layer.digest))
    assert (got.data, got.cut) == (layer.data, None)
    # Nor is the slow one the first to be asked for the rest.
    assert [len(mirror.requests) for mirror in mirrors] == [1, 1, 1]


async def test_one_that_always_hangs_does_not_hold_up_every_request(
    setup: Setup, mirrors: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mirrortap")
    mirrors[0].inject(Held(asyncio.Event()))
    proxy = setup.proxy(None, *mirrors[:2], tuned=hedging())
    parts = [image.config, *image.layers]
    for part in parts:
        assert (await proxy.get(blob(part.digest))).data == part.data
    assert (await proxy.head(manifest(image.manifest.digest))).status == 200
    assert len(parts) >= 3
    # It was waited for three times, then the others came first.
    assert caplog.text.count(f"{mirrors[0].endpoint}: slow to answer") == 3
    assert f"{mirrors[0].endpoint}: slower than a rival" in caplog.text


class Unfinished:
    """A server that begins an answer, or not even that, and knows when the client has gone."""

    def __init__(self, status: str = "", gate: asyncio.Event | None = None) -> None:
        self._status = status
        self._gate = gate
        self._gone = asyncio.Event()

    async def __call__(self, exchange: RawExchange) -> None:
        if self._gate:
            await self._gate.wait()
        if self._status:
            await exchange.send(f"HTTP/1.1 {self._status}\r\nContent-Length: 1000\r\n\r\nbegun".encode())
        await exchange.reader.read()
        self._gone.set()

    async def left(self) -> None:
        async with asyncio.timeout(10):
            await self._gone.wait()


async def test_the_losers_connection_is_closed(
    setup: Setup, authority: Authority, mirrors: list[FakeRegistry], image: Image
) -> None:
    silent = Unfinished()
    async with RawServer(authority, silent) as slow:
        proxy = setup.proxy(None, slow.endpoint, mirrors[1], tuned=hedging())
        assert (await proxy.get(blob(image.config.digest))).data == image.config.data
        await silent.left()


async def test_the_connection_of_one_that_refuses_is_closed(
    setup: Setup, authority: Authority, mirrors: list[FakeRegistry], image: Image
) -> None:
    refusing = Unfinished("404 Not Found")
    async with RawServer(authority, refusing) as first:
        proxy = setup.proxy(None, first.endpoint, mirrors[1])
        assert (await proxy.get(blob(image.config.digest))).data == image.config.data
        await refusing.left()


async def test_answers_that_come_together_leave_nothing_open(
    setup: Setup, authority: Authority, mirrors: list[FakeRegistry], image: Image
) -> None:
    gate = asyncio.Event()
    mirrors[0].inject(Held(gate))
    late = [Unfinished("200 OK", gate) for _ in range(2)]
    async with RawServer(authority, late[0]) as second, RawServer(authority, late[1]) as third:
        proxy = setup.proxy(None, mirrors[0], second.endpoint, third.endpoint, tuned=hedging())
        asking = asyncio.create_task(proxy.get(blob(image.config.digest)))
        while not third.heads:  # noqa: ASYNC110 (a turn of the loop, not a length of time)
            await asyncio.sleep(0)
        gate.set()
        got = await asking
        assert (got.data, got.served.endpoint) == (image.config.data, mirrors[0].endpoint)
        for each in late:
            await each.left()


async def test_all_connections_are_closed_when_the_client_leaves(setup: Setup, authority: Authority) -> None:
    both = [Unfinished(), Unfinished()]
    async with RawServer(authority, both[0]) as first, RawServer(authority, both[1]) as second:
        proxy = setup.proxy(None, first.endpoint, second.endpoint, tuned=hedging())
        before = asyncio.all_tasks()
        leaving = asyncio.create_task(proxy.head(blob("sha256:" + "0" * 64)))
        while not second.heads:  # noqa: ASYNC110 (a turn of the loop, not a length of time)
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("ask ")]
        for each in both:
            await each.left()
