"""A download that breaks off goes on at the next endpoint, from where it was; clients notice nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.config import QUICK
from support.faults import Answer, Chunked, Corrupt, Seen, Slow, Status, Truncate
from support.images import sha256

from engine.harness import NAME, RawExchange, RawServer, blob, committed, read

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.registry import FakeRegistry

    from engine.conftest import Setup

SIZE = 6_000_000
DATA = bytes(number % 251 for number in range(SIZE))
DIGEST = sha256(DATA)


class OtherTotal:
    def apply(self, answer: Answer, request: Seen) -> None:
        if "Content-Range" in answer.headers:
            answer.headers["Content-Range"] = answer.headers["Content-Range"].replace(f"/{SIZE}", f"/{SIZE + 1}")


class OneMegabyteAtMost:
    """Of whatever range is asked for, as RFC 9110 allows (15.3.7)."""

    def apply(self, answer: Answer, request: Seen) -> None:
        if "Content-Range" in answer.headers:
            answer.body = answer.body[:1_000_000]
            start = int(answer.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
            answer.headers["Content-Range"] = f"bytes {start}-{start + len(answer.body) - 1}/{SIZE}"


async def holding(setup: Setup, **kind: object) -> FakeRegistry:
    registry = await setup.registry(**kind)
    registry.content.put_blob(NAME, DATA)
    return registry


def sent(*registries: FakeRegistry) -> int:
    return sum(registry.traffic.sent[DIGEST] for registry in registries)


@pytest.mark.parametrize("percent", [10, 50, 99])
async def test_the_next_endpoint_goes_on_from_there(percent: int, setup: Setup) -> None:
    first, second, origin = await holding(setup), await holding(setup), await holding(setup)
    first.inject(Truncate(SIZE * percent // 100), kind="blob", method="GET")
    proxy = setup.proxy(origin, first, second)
    got = await proxy.get(blob(DIGEST))
    assert (got.status, got.cut, got.digest) == (200, None, DIGEST)
    (resumed,) = second.seen("blob", method="GET")
    assert resumed.headers["Range"] == f"bytes={SIZE * percent // 100}-"
    assert origin.requests == []
    assert sent(first, second) == SIZE
    assert proxy.cached() == {DIGEST}
    assert proxy.unfinished() == []


async def test_three_in_a_row(setup: Setup) -> None:
    mirrors = [await holding(setup) for _ in range(3)]
    for mirror in mirrors:
        mirror.inject(Truncate(SIZE * 3 // 10), kind="blob", method="GET")
    origin = await holding(setup)
    proxy = setup.proxy(origin, *mirrors)
    got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    assert all(mirror.seen("blob", method="GET") for mirror in mirrors)
    assert sent(*mirrors, origin) == SIZE


async def test_an_endpoint_that_knows_no_ranges_is_read_from_its_beginning(setup: Setup) -> None:
    first, second = await holding(setup), await holding(setup, ranges=False)
    first.inject(Truncate(SIZE // 2), kind="blob", method="GET")
    proxy = setup.proxy(None, first, second)
    got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)


async def test_the_only_endpoint_is_asked_again(setup: Setup, origin: FakeRegistry) -> None:
    origin.content.put_blob(NAME, DATA)
    origin.inject(Truncate(SIZE // 3), kind="blob", method="GET", times=2)
    got = await setup.proxy(origin).get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    assert len(origin.seen("blob", method="GET")) == 3


async def test_one_that_never_brings_anything_new_is_given_up(setup: Setup, origin: FakeRegistry) -> None:
    origin.content.put_blob(NAME, DATA)
    origin.inject(Truncate(SIZE // 3), kind="blob", method="GET", times=1)
    origin.inject(Truncate(0), kind="blob", method="GET")
    proxy = setup.proxy(origin)
    got = await proxy.get(blob(DIGEST))
    assert got.cut
    assert len(got.data) < SIZE
    assert proxy.cached() == set()


async def test_chunked_bodies_are_resumed_too(setup: Setup) -> None:
    first, second = await holding(setup), await holding(setup)
    for fault in Chunked(), Truncate(SIZE // 2):
        first.inject(fault, kind="blob", method="GET")
    got = await setup.proxy(None, first, second).get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)


async def test_a_stalled_body_is_resumed_elsewhere(setup: Setup) -> None:
    first, second = await holding(setup), await holding(setup)
    first.inject(Slow(asyncio.Event(), after=SIZE // 2), kind="blob", method="GET")
    proxy = setup.proxy(None, first, second, settings={**QUICK, "stall-timeout": "800ms"})
    got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)


async def test_all_readers_of_a_broken_download_get_everything(setup: Setup) -> None:
    gate = asyncio.Event()
    first, second = await holding(setup), await holding(setup)
    for fault in Slow(gate, after=SIZE // 4), Truncate(SIZE // 2):
        first.inject(fault, kind="blob", method="GET")
    proxy = setup.proxy(None, first, second)
    replies = [await proxy.ask("GET", blob(DIGEST)) for _ in range(8)]
    reading = [asyncio.create_task(read(reply)) for reply in replies]
    gate.set()
    for got in await asyncio.gather(*reading):
        assert (got.cut, got.digest) == (None, DIGEST)
    assert len(second.seen("blob", method="GET")) == 1


async def test_whoever_sent_something_else_is_asked_last_about_it(setup: Setup) -> None:
    """skopeo and its like retry at best once: the retry must not meet the same wrong bytes, nor wait for others."""
    first, second = await holding(setup), await holding(setup)
    first.inject(Corrupt(), kind="blob", method="GET")
    proxy = setup.proxy(None, first, second)
    assert (await proxy.get(blob(DIGEST))).cut
    # It is downloaded again for whoever comes next.
    await committed(DIGEST)
    assert proxy.cached() == {DIGEST}
    got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest, got.served.how) == (None, DIGEST, "hit")
    assert len(first.seen("blob", method="GET")) == 1
    assert sent(second) == SIZE
    assert proxy.unfinished() == []


async def test_an_endpoint_that_sends_less_than_asked_for_is_asked_for_the_rest(setup: Setup) -> None:
    first, second = await holding(setup), await holding(setup)
    first.inject(Truncate(SIZE // 3), kind="blob", method="GET", times=1)
    second.inject(OneMegabyteAtMost(), kind="blob", method="GET")
    got = await setup.proxy(None, first, second).get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    assert sent(second) == 1_000_000
    assert sent(first, second) == SIZE


async def test_whoever_has_another_size_is_passed_over(setup: Setup) -> None:
    first, second, third = [await holding(setup) for _ in range(3)]
    first.inject(Truncate(SIZE // 2), kind="blob", method="GET")
    second.content.put_blob(NAME, DATA)
    second.inject(OtherTotal(), kind="blob", method="GET")
    got = await setup.proxy(None, first, second, third).get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    assert len(third.seen("blob", method="GET")) == 1


async def test_one_that_only_trickles_is_left_for_the_next(setup: Setup, authority: Authority) -> None:
    """It never stalls, and would take for ever."""

    async def trickle(exchange: RawExchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for byte in DATA:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0.01)

    second = await holding(setup)
    async with RawServer(authority, trickle) as first:
        proxy = setup.proxy(None, first.endpoint, second, settings={**QUICK, "stall-timeout": "800ms"})
        got = await proxy.get(blob(DIGEST))
    assert (got.cut, got.digest) == (None, DIGEST)
    (resumed,) = second.seen("blob", method="GET")
    assert resumed.headers["Range"].startswith("bytes=")


async def test_whoever_failed_is_asked_last_for_a_while(setup: Setup) -> None:
    """A mirror that hangs costs the first request of a pull its timeout, and the others nothing."""
    first, second = await holding(setup), await holding(setup)
    first.inject(Status(503))
    proxy = setup.proxy(None, first, second)
    other = second.content.put_blob(NAME, b"another")
    assert (await proxy.get(blob(DIGEST))).digest == DIGEST
    assert (await proxy.get(blob(other))).data == b"another"
    assert len(first.requests) == 1
    # But it is asked when nobody else has it.
    only = first.content.put_blob(NAME, b"only here")
    first.traffic.injections.clear()
    assert (await proxy.get(blob(only))).data == b"only here"
