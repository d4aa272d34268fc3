"""Bytes that are not what the digest says: the transfer is cut, nothing is kept, and a retry can succeed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.faults import Answer, Chunked, Corrupt, Seen, Slow, Truncate, WrongLength

from engine.harness import NAME, TAG, RawServer, blob, manifest

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.faults import Fault
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy, RawExchange


class SomethingElse:
    """Right in every way, but another blob."""

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.body = b"\0" * len(answer.body)


@dataclass(frozen=True)
class EndsAt:
    """Nothing comes from this byte on, whichever range is asked for."""

    byte: int

    def apply(self, answer: Answer, request: Seen) -> None:
        asked_from = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        answer.cut_after = max(0, self.byte - asked_from)


class Longer:
    def apply(self, answer: Answer, request: Seen) -> None:
        answer.body += b"more"


def check_nothing_is_cached(proxy: Proxy, endpoint: str, digest: str, log: str) -> None:
    assert proxy.cached() == set()
    assert any(endpoint in line and digest in line for line in log.splitlines()), "the log does not say who sent what"


def check_failed(got: Got) -> None:
    """Cut; or, when it broke before the headers went out, an error."""
    if got.status == 200:
        assert got.cut
        told = got.headers.get("Content-Length")
        assert told is None or len(got.data) < int(told), "the client holds a complete body that is wrong"
    else:
        assert (got.status, got.error["code"]) == (503, "UNAVAILABLE")


BROKEN: list[object] = [
    pytest.param((Corrupt(),), id="corrupt"),
    pytest.param((SomethingElse(),), id="something else"),
    pytest.param((Longer(),), id="longer"),
    pytest.param((Truncate(0),), id="nothing after the headers"),
    pytest.param((EndsAt(300),), id="truncated"),
    pytest.param((WrongLength(7),), id="less than announced"),
    pytest.param((WrongLength(-7),), id="more than announced"),
    pytest.param((Chunked(), Corrupt()), id="chunked, corrupt"),
    pytest.param((Chunked(), EndsAt(300)), id="chunked, truncated"),
]


@pytest.mark.parametrize("faults", BROKEN)
@pytest.mark.parametrize("which", ["layer", "manifest"])
async def test_the_transfer_is_cut_and_a_retry_succeeds(
    faults: tuple[Fault, ...],
    which: str,
    setup: Setup,
    origin: FakeRegistry,
    mirror: FakeRegistry,
    image: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror.add(image, NAME)
    part = image.layers[1] if which == "layer" else image.manifest
    target = blob(part.digest) if which == "layer" else manifest(part.digest)
    injected = [mirror.inject(fault, method="GET") for fault in faults]
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get(target)
    assert all(injection.hits for injection in injected)
    check_failed(got)
    check_nothing_is_cached(proxy, mirror.endpoint, part.digest, caplog.text)
    mirror.traffic.injections.clear()
    again = await proxy.get(target)
    assert (again.status, again.data, again.cut) == (200, part.data, None)
    assert proxy.cached() == {part.digest}


async def test_a_download_that_breaks_at_once_is_not_blamed_on_the_cache(
    setup: Setup, mirror: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    """It has failed before the one who asked comes to read it."""
    mirror.add(image, NAME)
    mirror.inject(Truncate(0), kind="blob")
    proxy = setup.proxy(None, mirror)
    got = await proxy.get(blob(image.config.digest))
    check_failed(got)
    assert "cache cannot be used" not in caplog.text


async def test_a_body_announced_as_empty_is_not_passed_on_as_complete(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    """Content-Length: 0 for a blob that is not empty."""
    mirror.add(image, NAME)
    layer = image.layers[1]
    mirror.inject(WrongLength(-layer.size), kind="blob", times=1)
    proxy = setup.proxy(None, mirror)
    got = await proxy.get(blob(layer.digest))
    check_failed(got)
    assert (await proxy.get(blob(layer.digest))).data == layer.data


async def test_a_body_that_ends_with_the_connection_is_verified_too(
    setup: Setup, authority: Authority, image: Image
) -> None:
    """HTTP/1.0 style, no length at all: only the digest shows that something is missing."""
    layer = image.layers[1]
    bodies = [layer.data[:1000], layer.data]

    async def send(exchange: RawExchange) -> None:
        await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n" + bodies.pop(0))
        exchange.writer.close()
        await exchange.writer.wait_closed()

    async with RawServer(authority, send) as mirror:
        proxy = setup.proxy(None, mirror.endpoint)
        got = await proxy.get(blob(layer.digest))
        assert got.cut
        assert "Content-Length" not in got.headers
        again = await proxy.get(blob(layer.digest))
        assert (again.data, again.cut) == (layer.data, None)


async def test_chunked_without_a_length_is_passed_on_and_cached(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    mirror.inject(Chunked(), times=1)
    proxy = setup.proxy(None, mirror)
    layer = image.layers[1]
    got = await proxy.get(blob(layer.digest))
    assert (got.status, got.data, got.cut) == (200, layer.data, None)
    assert "Content-Length" not in got.headers
    assert got.headers["Docker-Content-Digest"] == layer.digest
    again = await proxy.get(blob(layer.digest))
    assert (again.data, again.headers["Content-Length"]) == (layer.data, str(layer.size))
    assert again.headers["Cache-Status"] == "mirrortap; hit"


async def test_a_mirror_that_stalls_in_the_middle_is_asked_for_the_rest(
    setup: Setup, mirror: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(image, NAME)
    layer = image.layers[1]
    mirror.inject(Slow(asyncio.Event(), after=1000), times=1)
    proxy = setup.proxy(None, mirror, settings={"stall-timeout": "800ms"})
    got = await proxy.get(blob(layer.digest))
    assert (got.cut, got.data) == (None, layer.data)
    assert f"{mirror.endpoint}: the body broke off: no data in time" in caplog.text


@pytest.mark.parametrize("fault", [EndsAt(100), Corrupt()], ids=["truncated", "corrupt"])
async def test_a_manifest_by_tag_is_verified_like_any_other(
    fault: Fault, setup: Setup, mirror: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(image, NAME)
    mirror.inject(fault, kind="manifest", method="GET")
    proxy = setup.proxy(None, mirror)
    check_failed(await proxy.get(TAG))
    check_nothing_is_cached(proxy, mirror.endpoint, image.manifest.digest, caplog.text)
    mirror.traffic.injections.clear()
    assert (await proxy.get(TAG)).data == image.manifest.data
