"""Upstreams that never stop, or say more than they send: they are left for the next one, and cost no memory."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

import pytest
from support.config import QUICK
from support.faults import WrongLength

from engine.harness import NAME, TAG, RawExchange, RawServer, blob

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup

MIB = 1 << 20


async def many_headers(exchange: RawExchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X-More: %s\r\n" % (b"x" * 1000))


async def one_header(exchange: RawExchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nX-More: ")
    while True:
        await exchange.send(b"x" * 10_000)


async def informational(exchange: RawExchange) -> None:
    while True:
        await exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0)


async def a_status_line(exchange: RawExchange) -> None:
    await exchange.send(b"HTTP/1.1 200 ")
    while True:
        await exchange.send(b"x" * 10_000)


@pytest.mark.parametrize("endless", [many_headers, one_header, informational, a_status_line])
async def test_a_head_that_never_ends(
    endless: object, setup: Setup, origin: FakeRegistry, authority: Authority, image: Image
) -> None:
    origin.add(image, NAME)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with RawServer(authority, endless) as mirror:  # type: ignore[arg-type]
        proxy = setup.proxy(origin, mirror.endpoint, settings={**QUICK, "first-byte-timeout": "1s"})
        assert (await proxy.get(TAG)).data == image.manifest.data
        got = await proxy.get(blob(image.config.digest))
        assert (got.status, got.data) == (200, image.config.data)
        assert mirror.heads
    # In KiB: the largest this process, which is the upstream too, has been.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


async def test_a_manifest_that_never_ends(
    setup: Setup, origin: FakeRegistry, authority: Authority, image: Image
) -> None:
    """By a tag whose digest nobody says, so that it is read into memory."""
    origin.add(image, NAME)

    async def endless(exchange: RawExchange) -> None:
        if exchange.head.startswith(b"HEAD"):
            await exchange.answer("405 Method Not Allowed")
            return
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.send(b"10000\r\n%s\r\n" % (b" " * 0x10000))

    async with RawServer(authority, endless) as mirror:
        proxy = setup.proxy(None, mirror.endpoint)
        got = await proxy.get(TAG)
    assert got.status == 502
    assert "more than" in got.error["message"]


@pytest.mark.parametrize("by", [-1, 1, -1000, 10**6, 10**17])
async def test_a_length_that_is_not_true(
    by: int, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    """Whoever asked first is cut, for the length was passed on; whoever asks then gets the right bytes."""
    for registry in origin, mirror:
        registry.add(image, NAME)
    mirror.inject(WrongLength(by), kind="blob", method="GET")
    layer = image.layers[1]
    proxy = setup.proxy(origin, mirror)
    first = await proxy.get(blob(layer.digest))
    assert first.cut
    assert len(first.data) < int(first.headers["Content-Length"])
    again = await proxy.get(blob(layer.digest))
    assert (again.cut, again.data) == (None, layer.data)
    assert again.headers["Content-Length"] == str(layer.size)
    assert proxy.cached() == {layer.digest}
