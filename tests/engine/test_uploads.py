"""Pushes: each client's way of sending a blob, streamed and never read ahead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.images import sha256

from engine.harness import NAME, RawServer, blob, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy, RawExchange

LOGIN = {"Authorization": "Bearer pusher"}
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
PIECE = 64 << 10


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


@pytest.fixture
async def store(setup: Setup) -> FakeRegistry:
    """A registry where a login is needed to push."""
    auth = BearerAuth(Policy())
    auth.tokens["pusher"] = {NAME: {"pull", "push", "delete"}}
    return await setup.registry(auth=auth)


async def start_upload(proxy: Proxy) -> str:
    got = await proxy.fetch("POST", UPLOADS, {**LOGIN, "Content-Length": "0"})
    assert got.status == 202
    where = got.headers["Location"]
    assert where.startswith(UPLOADS), "the client would be led past the proxy"
    return where


async def push_in_one_put(proxy: Proxy, data: bytes) -> int:
    """buildkitd"""
    where = await start_upload(proxy)
    headers = {**LOGIN, "Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
    got = await proxy.fetch("PUT", f"{where}?digest={sha256(data)}", headers, body=in_pieces(data))
    return got.status


async def push_by_patch(proxy: Proxy, data: bytes) -> int:
    """skopeo"""
    where = await start_upload(proxy)
    headers = {**LOGIN, "Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
    got = await proxy.fetch("PATCH", where, headers, body=in_pieces(data))
    assert got.status == 202
    got = await proxy.fetch("PUT", f"{got.headers['Location']}?digest={sha256(data)}", {**LOGIN, "Content-Length": "0"})
    return got.status


async def push_by_chunked_patch(proxy: Proxy, data: bytes) -> int:
    """dockerd"""
    where = await start_upload(proxy)
    got = await proxy.fetch("PATCH", where, {**LOGIN, "Transfer-Encoding": "chunked"}, body=in_pieces(data))
    assert got.status == 202
    got = await proxy.fetch("PUT", f"{got.headers['Location']}?digest={sha256(data)}", {**LOGIN, "Content-Length": "0"})
    return got.status


@pytest.mark.parametrize("push", [push_in_one_put, push_by_patch, push_by_chunked_patch])
async def test_an_image_is_pushed_and_pulled(
    push: object, setup: Setup, store: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    assert callable(push)
    proxy = setup.proxy(store, mirror)
    for part in image.blobs:
        assert (await proxy.head(blob(part.digest), **LOGIN)).status == 404
        assert await push(proxy, part.data) == 201
        assert (await proxy.head(blob(part.digest), **LOGIN)).status == 200
    headers = {**LOGIN, "Content-Type": image.manifest.media_type, "Content-Length": str(image.manifest.size)}
    got = await proxy.fetch("PUT", manifest("1.0"), headers, body=in_pieces(image.manifest.data))
    assert (got.status, got.headers["Docker-Content-Digest"]) == (201, image.manifest.digest)
    assert (await proxy.get(manifest("1.0"))).data == image.manifest.data
    for part in image.blobs:
        assert (await proxy.get(blob(part.digest))).data == part.data
    assert {seen.kind for seen in mirror.requests} <= {"blob", "manifest"}, "an upload was shown to a mirror"
    assert {seen.method for seen in mirror.requests} == {"GET", "HEAD"}


async def test_a_push_without_a_login_is_refused_by_the_origin(setup: Setup, store: FakeRegistry) -> None:
    got = await setup.proxy(store).fetch("POST", UPLOADS, {"Content-Length": "0"})
    assert got.status == 401
    assert got.headers["WWW-Authenticate"].endswith(f'scope="repository:{NAME}:pull,push"')


async def test_each_piece_goes_on_before_the_next_is_there(setup: Setup, authority: Authority) -> None:
    """A client may wait for as long as it likes between pieces."""
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive(exchange: RawExchange) -> None:
        while chunk := await exchange.chunk():
            arrived.put_nowait(chunk)
        await exchange.answer("202 Accepted")

    async def send() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"piece %d" % number
            # Only once the origin has it; whoever waits for the whole body never gets here.
            assert await asyncio.wait_for(arrived.get(), 10) == b"piece %d" % number

    async with RawServer(authority, receive) as origin:
        got = await setup.proxy(origin.endpoint).fetch("PATCH", f"{UPLOADS}1", body=send())
        assert got.status == 202


async def test_no_more_is_read_than_the_origin_takes(setup: Setup, authority: Authority) -> None:
    """A large layer must not gather in memory before an origin that takes it slowly."""
    total, received, ahead = 64 << 20, 0, 0

    async def receive(exchange: RawExchange) -> None:
        nonlocal received
        while received < total:
            received += len(await exchange.reader.read(PIECE))
        await exchange.answer("202 Accepted")

    async def send() -> AsyncIterator[bytes]:
        nonlocal ahead
        for sent in range(0, total, PIECE):
            ahead = max(ahead, sent - received)
            yield bytes(PIECE)

    async with RawServer(authority, receive) as origin:
        headers = {"Content-Length": str(total)}
        got = await setup.proxy(origin.endpoint).fetch("PATCH", f"{UPLOADS}1", headers, body=send())
    assert (got.status, received) == (202, total)
    # What sockets and TLS hold on the way, and no more.
    assert ahead < total // 3


async def test_an_origin_may_answer_before_the_body_is_there(setup: Setup, authority: Authority) -> None:
    """A refusal need not wait for the gigabytes it refuses."""
    answered = asyncio.Event()

    async def refuse(exchange: RawExchange) -> None:
        await exchange.answer("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="https://auth.test/"')], b"no")

    async def send() -> AsyncIterator[bytes]:
        yield b"first"
        await answered.wait()
        yield b"second"

    async with RawServer(authority, refuse) as origin:
        reply = await setup.proxy(origin.endpoint).ask("PATCH", f"{UPLOADS}1", body=send())
        answered.set()
        assert reply.status == 401
        assert not isinstance(reply.body, bytes)
        assert await reply.body.read() == b"no"
        await reply.body.close()


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("length", [{"Content-Length": "1000"}, {}], ids=["told length", "chunked"])
async def test_a_client_that_breaks_off_does_not_complete_an_upload(
    length: dict[str, str], method: str, setup: Setup, authority: Authority
) -> None:
    complete: list[bytes] = []

    async def receive(exchange: RawExchange) -> None:
        complete.append(await exchange.body())
        await exchange.answer("201 Created")

    async def send() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionResetError("the client left")

    async with RawServer(authority, receive) as origin:
        got = await setup.proxy(origin.endpoint).fetch(method, f"{UPLOADS}1", length, body=send())
        assert got.status >= 500
        assert complete == [], "the origin was told that half an upload is all of it"


@pytest.mark.parametrize("length", [{"Content-Length": "15"}, {}], ids=["told length", "chunked"])
@pytest.mark.parametrize("read_first", [True, False])
async def test_an_upload_that_breaks_is_not_sent_again_in_part(
    read_first: bool, length: dict[str, str], setup: Setup, authority: Authority
) -> None:
    """A body can be read once: what is left of it is another body."""
    broken = asyncio.Event()
    complete: list[bytes] = []

    async def receive(exchange: RawExchange) -> None:
        if not broken.is_set():
            if read_first:
                await exchange.reader.read(1)
            broken.set()
            exchange.writer.transport.abort()
            return
        complete.append(await exchange.body())
        await exchange.answer("201 Created")

    async def send() -> AsyncIterator[bytes]:
        yield b"first"
        await broken.wait()
        yield b"secon"
        yield b"third"

    async with RawServer(authority, receive) as origin:
        got = await setup.proxy(origin.endpoint).fetch("PUT", f"{UPLOADS}1", length, body=send())
        assert complete == []
        assert (got.status, len(origin.heads)) == (502, 1)
