"""Upstream that does not answer costs a client little when the cache can, and what it says later counts.

The timeouts are so long that a test in which one of them is waited for does not end in time.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from support.clock import Clock
from support.faults import Close, NoDigest, Status
from support.wire import Wire

from engine.harness import NAME, REGISTRY, TAG, RawServer, closed_port, manifest
from engine.test_tags import NEW_CLIENT, OLD_CLIENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, RawExchange

pytestmark = pytest.mark.timeout(60)

FOREVER = {"connect-timeout": "1h", "first-byte-timeout": "1h"}
IMPATIENT = {**FOREVER, "stale-after": "50ms"}


@pytest.fixture
async def wire(mirror: FakeRegistry) -> AsyncIterator[Wire]:
    async with Wire(mirror.endpoint) as wire:
        yield wire


def questions() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "question"]


async def answered() -> None:
    """Until everything that was asked in the background is answered and written down."""
    for name in "question", "write index.json":
        if tasks := [task for task in asyncio.all_tasks() if task.get_name() == name]:
            await asyncio.wait(tasks)


@asynccontextmanager
async def held(wire: Wire) -> AsyncIterator[None]:
    """No answer comes through meanwhile; afterwards all of them have come."""
    wire.hold()
    yield
    wire.release()
    await answered()


def stale(got: Got, image: Image) -> None:
    assert (got.status, got.headers["Docker-Content-Digest"]) == (200, image.manifest.digest)
    assert got.headers["Cache-Status"].endswith("detail=stale")


# --- tags ---


async def test_no_answer_in_time_is_none(setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, wire.endpoint, settings=IMPATIENT)
    await proxy.get(TAG)
    async with held(wire):
        stale(await proxy.head(TAG), image)
        got = await proxy.get(TAG)
        stale(got, image)
        assert got.data == image.manifest.data


async def test_connections_that_are_never_made(setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image) -> None:
    """Neither to the mirror, nor to the origin, nor from the start."""
    mirror.add(image, NAME)
    proxy = setup.proxy(wire.endpoint, wire.endpoint, settings=IMPATIENT)
    await proxy.get(TAG)
    await wire.go_dark()
    stale(await proxy.get(TAG), image)
    proxy = await setup.restart(proxy)
    stale(await proxy.get(TAG), image)


async def test_what_is_said_too_late_counts_for_the_next(
    setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image
) -> None:
    clock = Clock()
    mirror.add(image, NAME)
    proxy = setup.proxy(None, wire.endpoint, settings={**IMPATIENT, "tag-ttl": "30s"}, clock=clock)
    await proxy.get(TAG)
    clock.now += 100
    async with held(wire):
        stale(await proxy.get(TAG), image)
    asked = len(mirror.requests)
    assert (await proxy.get(TAG)).headers["Cache-Status"] == "mirrortap; hit"
    assert len(mirror.requests) == asked


async def test_a_tag_that_is_said_too_late_to_have_moved(
    setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image, other: Image
) -> None:
    mirror.add(image, NAME)
    mirror.add(other, NAME, "2.0")
    proxy = setup.proxy(None, wire.endpoint, settings={**IMPATIENT, "tag-ttl": "1ms"})
    for tag in TAG, manifest("2.0"):
        await proxy.get(tag)
    mirror.add(other, NAME)
    async with held(wire):
        stale(await proxy.get(TAG), image)
    index = json.loads((proxy.cache / "index.json").read_text())["manifests"]
    name = f"{REGISTRY}/{NAME}:1.0"
    (digest,) = [e["digest"] for e in index if e["annotations"]["org.opencontainers.image.ref.name"] == name]
    assert digest == other.manifest.digest
    await wire.go_dark()
    stale(await proxy.get(TAG), other)


async def test_content_that_does_not_come_in_time(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, wire: Wire, image: Image, other: Image
) -> None:
    """The first mirror says where the tag has moved to, and does not have it; the next one is silent."""
    first = origin
    for each in image, other:
        first.add(each, NAME)
        mirror.add(each, NAME)
        if each is image:
            proxy = setup.proxy(None, first, wire.endpoint, settings={**FOREVER, "stale-after": "1s"})
            await proxy.get(TAG)
    first.inject(Status(404), kind="manifest", method="GET")
    async with held(wire):
        stale(await proxy.get(TAG), image)
    assert (await proxy.get(TAG)).data == other.manifest.data


async def test_nothing_in_the_cache_is_worth_waiting(
    setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, wire.endpoint, settings={**FOREVER, "stale-after": "0s"})
    assert (await proxy.get(TAG)).data == image.manifest.data
    (proxy.cache / "blobs" / image.manifest.digest.replace(":", "/")).unlink()
    assert (await proxy.get(TAG)).data == image.manifest.data


async def test_never_waiting_is_still_asking(setup: Setup, mirror: FakeRegistry, image: Image, other: Image) -> None:
    for each, tag in (image, "1.0"), (other, "2.0"):
        mirror.add(each, NAME, tag)
    proxy = setup.proxy(None, mirror, settings={**FOREVER, "stale-after": "0s"})
    for tag in TAG, manifest("2.0"):
        await proxy.get(tag)
    mirror.add(other, NAME)
    stale(await proxy.get(TAG), image)
    await answered()
    stale(await proxy.get(TAG), other)


async def test_a_registry_that_says_no_late_is_heard_next_time(
    setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    origin.add(image, NAME)
    async with Wire(origin.endpoint) as wire:
        proxy = setup.proxy(wire.endpoint, settings={**FOREVER, "stale-after": "2s"})
        await proxy.get(TAG)
        origin.inject(Status(404))
        async with held(wire):
            stale(await proxy.get(TAG), image)
        assert (await proxy.get(TAG)).status == 404


async def test_an_origin_that_fails_a_ping_is_not_waited_for_long(
    setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(closed_port(), wire.endpoint, settings={**FOREVER, "stale-after": "1h"})
    await proxy.get(TAG)
    async with held(wire):
        assert (await proxy.get("/v2/")).served.how == "in place of"
        stale(await proxy.get(TAG), image)


# --- one question for all ---


async def test_many_who_ask_for_one_tag_are_one_question(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    for _ in range(2):
        mirror.requests.clear()
        replies = await asyncio.gather(*(proxy.get(TAG) for _ in range(20)), *(proxy.head(TAG) for _ in range(20)))
        assert {got.headers["Docker-Content-Digest"] for got in replies} == {image.manifest.digest}
        assert {got.data for got in replies} == {image.manifest.data, b""}
        assert [request.path for request in mirror.seen(method="HEAD")] == [TAG]


async def test_many_who_ask_where_no_digest_is_said(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    mirror.inject(NoDigest())
    proxy = setup.proxy(None, mirror)
    replies = await asyncio.gather(*(proxy.get(TAG) for _ in range(20)))
    assert {(got.status, got.data) for got in replies} == {(200, image.manifest.data)}
    assert [request.method for request in mirror.requests] == ["HEAD", "GET"]


async def test_many_who_ask_in_vain(setup: Setup, mirror: FakeRegistry) -> None:
    proxy = setup.proxy(None, mirror)
    replies = await asyncio.gather(*(proxy.get(TAG) for _ in range(20)))
    assert {got.status for got in replies} == {404}
    assert len(mirror.requests) == 1


async def test_while_a_question_is_out_nobody_asks_it_again(
    setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, wire.endpoint, settings=IMPATIENT)
    await proxy.get(TAG)
    mirror.requests.clear()
    async with held(wire):
        for _ in range(5):
            stale(await proxy.get(TAG), image)
        assert len(questions()) == 1
    assert [request.method for request in mirror.requests] == ["HEAD"]


async def test_clients_that_mean_something_else_are_another_question(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    await asyncio.gather(*(proxy.head(TAG, Accept=accept) for accept in (NEW_CLIENT, OLD_CLIENT) * 5))
    assert len(mirror.seen(method="HEAD")) == 2


async def test_one_that_leaves_takes_nothing_from_the_others(
    setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, wire.endpoint)
    async with held(wire):
        first, second = (asyncio.create_task(proxy.get(TAG)) for _ in range(2))
        while not questions():  # noqa: ASYNC110 (a turn of the loop, not a length of time)
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
    assert (await second).data == image.manifest.data
    assert len(mirror.seen(method="HEAD")) == 1


async def test_questions_end_with_the_proxy(setup: Setup, mirror: FakeRegistry, wire: Wire, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, wire.endpoint, settings=IMPATIENT)
    await proxy.get(TAG)
    wire.hold()
    stale(await proxy.get(TAG), image)
    waiting = asyncio.create_task(proxy.get(manifest("2.0")))
    while len(questions()) < 2:  # noqa: ASYNC110 (a turn of the loop, not a length of time)
        await asyncio.sleep(0)
    await proxy.engine.close()
    assert questions() == []
    got = await waiting
    assert (got.status, got.error["message"]) == (503, "the proxy is stopping")


# --- pings ---


async def test_a_ping_that_cannot_connect(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """Not even where a connection from before is still open, whose other end may be gone."""
    origin.add(image, NAME)
    async with Wire(origin.endpoint) as wire:
        proxy = setup.proxy(wire.endpoint, settings=FOREVER)
        await proxy.get(TAG)
        await wire.go_dark()
        for _ in range(2):
            got = await proxy.get("/v2/")
            assert (got.status, got.data, got.served.how) == (200, b"{}", "in place of")


async def test_a_ping_that_was_just_in_vain_is_not_sent_again(setup: Setup, origin: FakeRegistry) -> None:
    origin.inject(Close(), kind="ping")
    proxy = setup.proxy(origin)
    assert (await proxy.get("/v2/")).served.how == "in place of"
    asked = len(origin.requests)
    for _ in range(3):
        assert (await proxy.get("/v2/")).served.how == "in place of"
    assert len(origin.requests) == asked
    assert (await proxy.get(f"/v2/{NAME}/tags/list")).status == 200, "more than pings is kept from it"


async def test_an_origin_that_answers_slowly_keeps_its_say(setup: Setup, authority: Authority) -> None:
    gate = asyncio.Event()

    async def answer(exchange: RawExchange) -> None:
        await gate.wait()
        await exchange.answer("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="x"')])

    async with RawServer(authority, answer) as origin:
        proxy = setup.proxy(origin.endpoint)
        ping = asyncio.create_task(proxy.get("/v2/"))
        # Longer than connecting may take: that this does not matter can be seen in no other way.
        await asyncio.wait([ping], timeout=2.5)
        assert origin.heads
        assert not ping.done()
        gate.set()
        got = await ping
        assert (got.status, got.headers["WWW-Authenticate"]) == (401, 'Basic realm="x"')
