"""Long bodies, which threads read from their connections: all that is promised of short ones, plain and over TLS."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import threading
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.faults import Corrupt, Slow, Truncate, WrongLength
from support.images import sha256

from addon.body import BodyCut
from addon.upstream import response
from addon.upstream.takeover import Taken, take_over
from engine.harness import NAME, REGISTRY, RawServer, blob
from engine.test_broken_bodies import check_failed, check_nothing_is_cached
from engine.test_coalescing import unread

if TYPE_CHECKING:
    from collections.abc import Iterator

    import aiohttp
    from support.config import Table
    from support.registry import FakeRegistry

    from addon.body import Body
    from engine.conftest import Setup
    from engine.harness import Proxy, RawExchange

MIB = 1 << 20
# More than aiohttp reads ahead, and a little.
SIZE = 4 * MIB + 543_210
DATA = random.Random(6).randbytes(SIZE)
DIGEST = sha256(DATA)
MIDDLE = 3 * MIB + 543_210


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Taken]:
    """The connections that were taken over."""
    found = []

    def watched(answer: aiohttp.ClientResponse) -> Taken | None:
        if rest := take_over(answer):
            found.append(rest)
        return rest

    monkeypatch.setattr(response, "take_over", watched)
    return found


@pytest.fixture(params=["plain", "TLS"])
async def source(request: pytest.FixtureRequest, setup: Setup) -> FakeRegistry:
    registry = await setup.registry(tls=setup.authority if request.param == "TLS" else None)
    registry.content.put_blob(NAME, DATA)
    return registry


def before(setup: Setup, *registries: FakeRegistry, settings: Table | None = None, grace: float = 0.0) -> Proxy:
    """A proxy for what these have."""
    own = {each.endpoint: {"http": each.url.startswith("http:"), "ca": [setup.ca_file]} for each in registries}
    rule = {"mirrors": [each.endpoint for each in registries], "fallback": False}
    return setup.start(toml({**own, REGISTRY: rule}, settings), grace=grace)


async def begun(body: Body) -> bytes:
    """What may be shown of it when it has come to its middle."""
    data = bytearray()
    while len(data) < MIDDLE - 1:
        data += await body.read()
    return bytes(data)


async def check_complete(proxy: Proxy) -> None:
    got = await proxy.get(blob(DIGEST))
    assert (got.status, got.cut, got.digest) == (200, None, DIGEST)
    assert proxy.cached() == {DIGEST}
    assert proxy.unfinished() == []


async def test_it_comes_as_it_is(setup: Setup, source: FakeRegistry, taken: list[Taken]) -> None:
    await check_complete(before(setup, source))
    assert len(taken) == 1
    assert len(source.requests) == 1


async def test_a_short_one_leaves_its_connection_to_the_next(setup: Setup, taken: list[Taken]) -> None:
    registry = await setup.registry()
    digests = [registry.content.put_blob(NAME, DATA[:length]) for length in (MIB, MIB // 2)]
    proxy = before(setup, registry)
    for digest in digests:
        assert (await proxy.get(blob(str(digest)))).digest == str(digest)
    assert taken == []


@pytest.mark.parametrize("ranges", [True, False], ids=["206", "200"])
async def test_what_breaks_off_goes_on_from_there(
    ranges: bool, setup: Setup, source: FakeRegistry, taken: list[Taken], caplog: pytest.LogCaptureFixture
) -> None:
    source.inject(Truncate(MIDDLE), times=1)
    source.ranges = ranges
    await check_complete(before(setup, source))
    # The whole again, or too little to be worth it.
    assert len(taken) == (1 if ranges else 2)
    assert f"bytes={MIDDLE}-" in [seen.headers.get("Range") for seen in source.requests]
    assert f"{source.endpoint}: the body broke off: fewer bytes than announced, or broken framing" in caplog.text
    assert f"after {MIDDLE} bytes of {DIGEST}" in caplog.text


async def test_what_stalls_goes_on_from_there(
    setup: Setup, source: FakeRegistry, taken: list[Taken], caplog: pytest.LogCaptureFixture
) -> None:
    source.inject(Slow(asyncio.Event(), after=MIDDLE), times=1)
    await check_complete(before(setup, source, settings={"stall-timeout": "800ms"}))
    assert taken
    assert f"{source.endpoint}: the body broke off: no data in time, after {MIDDLE} bytes" in caplog.text


async def test_what_is_too_slow_goes_on_elsewhere(
    setup: Setup, taken: list[Taken], caplog: pytest.LogCaptureFixture
) -> None:
    """Never silent, and of no use."""

    async def dribble(exchange: RawExchange) -> None:
        await exchange.send(f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode() + DATA[:MIDDLE])
        for byte in range(MIDDLE, SIZE):
            await asyncio.sleep(0.02)
            await exchange.send(DATA[byte : byte + 1])

    good = await setup.registry()
    good.content.put_blob(NAME, DATA)
    async with RawServer(setup.authority, dribble) as bad:
        settings = {"stall-timeout": "800ms", "min-rate": "1GB"}
        proxy = setup.proxy(None, bad.endpoint, good, settings=settings)
        await check_complete(proxy)
    assert f"{bad.endpoint}: sent only " in caplog.text
    (rest,) = good.requests
    assert int(rest.headers["Range"].removeprefix("bytes=").removesuffix("-")) >= MIDDLE
    assert taken


async def test_who_sends_less_than_was_asked_for_is_asked_for_the_rest(
    setup: Setup, taken: list[Taken], caplog: pytest.LogCaptureFixture
) -> None:
    ends = [100_000, MIDDLE, SIZE]

    async def part(exchange: RawExchange) -> None:
        start, end = int((exchange.header("range") or ["bytes=0-"])[0][len("bytes=") : -1]), ends.pop(0)
        length = SIZE if start == 0 else end - start
        fields = [("Content-Length", str(length)), ("Content-Range", f"bytes {start}-{end - 1}/{SIZE}")]
        await exchange.answer("206 Partial Content" if start else "200 OK", fields, DATA[start:end])

    async with RawServer(setup.authority, part) as mirror:
        await check_complete(setup.proxy(None, mirror.endpoint))
    assert ends == []
    assert taken
    assert f"ended before all was sent, after {MIDDLE} bytes" in caplog.text


@pytest.mark.parametrize("fault", [Corrupt(), WrongLength(7), WrongLength(-7)], ids=["corrupt", "short", "long"])
async def test_what_is_wrong_is_cut(
    fault: Corrupt | WrongLength,
    setup: Setup,
    source: FakeRegistry,
    taken: list[Taken],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source.inject(fault)
    proxy = before(setup, source)
    check_failed(await proxy.get(blob(DIGEST)))
    assert taken
    check_nothing_is_cached(proxy, source.endpoint, DIGEST, caplog.text)
    source.traffic.injections.clear()
    await check_complete(proxy)


async def test_what_has_come_is_shown_before_the_rest_comes(
    setup: Setup, source: FakeRegistry, taken: list[Taken]
) -> None:
    """And a client that leaves then leaves nothing behind but what the next one goes on with."""
    gate = asyncio.Event()
    source.inject(Slow(gate, after=MIDDLE), times=1)
    proxy = before(setup, source, settings={"keep-filling-from": "100%"})
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    body = unread((await proxy.ask("GET", blob(DIGEST))).body)
    assert await begun(body) == DATA[: MIDDLE - 1]
    (apart,) = [thread for thread in threading.enumerate() if thread.name == "download"]
    assert apart not in threads
    (fill,) = [task for task in asyncio.all_tasks() if task.get_name() == f"fill {DIGEST}"]
    await body.close()
    await asyncio.wait({fill}, timeout=10)
    apart.join(10)
    assert not apart.is_alive()
    gate.set()
    async with asyncio.timeout(20):
        while source.requests[0].sent < SIZE and len(os.listdir("/proc/self/fd")) > descriptors:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert len(taken) == 1
    await check_complete(proxy)
    assert source.requests[-1].headers["Range"] == f"bytes={MIDDLE - 1}-"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2, "a connection is left"


async def test_the_end_of_the_proxy_is_that_of_its_downloads(
    setup: Setup, source: FakeRegistry, taken: list[Taken]
) -> None:
    source.inject(Slow(asyncio.Event(), after=MIDDLE))
    proxy = before(setup, source)
    body = unread((await proxy.ask("GET", blob(DIGEST))).body)
    await begun(body)
    assert taken
    async with asyncio.timeout(10):
        await proxy.close()
        with pytest.raises(BodyCut):
            await body.read()
    await body.close()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """As in test_unwritable.py."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
async def test_a_disk_that_gets_full_is_no_fault_of_the_endpoint(
    setup: Setup, source: FakeRegistry, taken: list[Taken], caplog: pytest.LogCaptureFixture
) -> None:
    proxy = before(setup, source)
    for got in await asyncio.gather(*(proxy.get(blob(DIGEST)) for _ in range(2))):
        assert (got.cut, got.digest) == (None, DIGEST)
    assert taken
    assert proxy.cached() == set()
    assert str(proxy.cache) in caplog.text
    assert "asked last" not in caplog.text
