"""Many who ask for one digest at once: one download, and nobody is given what is not verified."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.faults import Answer, Seen, Slow

from engine.harness import NAME, REGISTRY, blob, manifest, read

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from addon.body import Body
    from engine.conftest import Setup


class WrongLastByte:
    def apply(self, answer: Answer, request: Seen) -> None:
        answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 0xFF])


def unread(body: Body | bytes) -> Body:
    assert not isinstance(body, bytes)
    return body


@pytest.mark.parametrize("which", ["config", "layer", "manifest"])
async def test_many_asks_for_one_cold_digest_are_one_download(
    which: str, setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    part = {"config": image.config, "layer": image.layers[1], "manifest": image.manifest}[which]
    target = manifest(part.digest) if which == "manifest" else blob(part.digest)
    replies = await asyncio.gather(*(proxy.get(target) for _ in range(50)))
    assert {(got.status, got.data, got.cut) for got in replies} == {(200, part.data, None)}
    assert [request.method for request in mirror.requests] == ["GET"]


async def test_one_that_comes_in_the_middle_gets_it_from_the_start(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    layer, gate = image.layers[1], asyncio.Event()
    mirror.inject(Slow(gate, after=100_000), kind="blob")
    proxy = setup.proxy(None, mirror)
    first = await proxy.ask("GET", blob(layer.digest))
    body = unread(first.body)
    data = b""
    while len(data) < 99_999:
        data += await body.read()
    second = await proxy.ask("GET", blob(layer.digest))
    late = asyncio.create_task(read(second))
    gate.set()
    while piece := await body.read():
        data += piece
    await body.close()
    assert data == layer.data
    got = await late
    assert (got.data, got.cut) == (layer.data, None)
    assert dict(first.headers)["Cache-Status"] == f'mirrortap; fwd=miss; detail="{mirror.endpoint}"'
    assert got.headers["Cache-Status"] == f'mirrortap; fwd=miss; collapsed; detail="{mirror.endpoint}"'
    assert proxy.tally.tallied().counters.joined == {REGISTRY: 1}
    assert len(mirror.requests) == 1


async def test_ranges_of_a_running_download_may_be_all_one_clients(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    layer, gate = image.layers[1], asyncio.Event()
    mirror.inject(Slow(gate, after=1000), kind="blob")
    proxy = setup.proxy(None, mirror)
    half = layer.size // 2
    parts = [
        await proxy.ask("GET", blob(layer.digest), {"Range": f"bytes={wanted}"})
        for wanted in (f"0-{half - 1}", f"{half}-")
    ]
    assert [part.served.how for part in parts] == ["miss from"] * 2
    gate.set()
    assert b"".join([(await read(part)).data for part in parts]) == layer.data
    assert not proxy.tally.tallied().counters.joined


async def test_a_head_joins_a_running_download(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    layer, gate = image.layers[1], asyncio.Event()
    mirror.inject(Slow(gate, after=1000), kind="blob")
    proxy = setup.proxy(None, mirror)
    downloading = await proxy.ask("GET", blob(layer.digest))
    head = await proxy.head(blob(layer.digest))
    assert (head.status, head.headers["Content-Length"]) == (200, str(layer.size))
    assert head.headers["Docker-Content-Digest"] == layer.digest
    assert "collapsed" in head.headers["Cache-Status"]
    gate.set()
    assert (await read(downloading)).data == layer.data
    assert len(mirror.requests) == 1


async def test_readers_that_leave_do_not_end_the_download(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    layer, gate = image.layers[1], asyncio.Event()
    mirror.inject(Slow(gate, after=100_000), kind="blob")
    proxy = setup.proxy(None, mirror)
    leaving = [await proxy.ask("GET", blob(layer.digest)) for _ in range(2)]
    for reply in leaving:
        assert await unread(reply.body).read()
        await unread(reply.body).close()
    gate.set()
    got = await proxy.get(blob(layer.digest))
    assert (got.data, got.cut) == (layer.data, None)
    assert len(mirror.requests) == 1, "the download was begun again"
    assert proxy.cached() == {layer.digest}


async def test_a_client_that_leaves_before_the_first_byte_does_not_end_the_download(setup: Setup, image: Image) -> None:
    gate = asyncio.Event()
    # The token comes late, so the download is not open yet when the client leaves.
    mirror = await setup.registry(auth=BearerAuth(Policy()))
    mirror.add(image, NAME)
    mirror.inject(Slow(gate), kind="token")
    proxy = setup.proxy(None, mirror)
    layer = image.layers[1]
    leaving = asyncio.create_task(proxy.get(blob(layer.digest)))
    await mirror.wait_for(lambda: bool(mirror.seen("token")))
    staying = asyncio.create_task(proxy.get(blob(layer.digest)))
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.set()
    assert (await staying).data == layer.data
    assert len(mirror.seen("token")) == 1
    # One that is refused, one with the token.
    assert len(mirror.seen("blob")) == 2


@pytest.mark.parametrize("which", ["config", "layer"])
async def test_the_last_byte_is_held_back_until_the_digest_is_right(
    which: str, setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    part = {"config": image.config, "layer": image.layers[1]}[which]
    gate = asyncio.Event()
    mirror.inject(WrongLastByte(), kind="blob")
    mirror.inject(Slow(gate, after=part.size - 1), kind="blob")
    proxy = setup.proxy(None, mirror)
    whole = await proxy.ask("GET", blob(part.digest))
    tail = await proxy.ask("GET", blob(part.digest), {"Range": f"bytes={part.size - 1}-"})
    assert tail.status == 206
    body, data = unread(whole.body), b""
    # Everything that is there is shown, less one byte: the reader cannot know which byte is the last.
    while len(data) < part.size - 2:
        data += await body.read()
    assert data == part.data[: part.size - 2]
    gate.set()
    rest, cut = await read(whole), await read(tail)
    assert rest.cut
    assert len(data + rest.data) < part.size
    assert (cut.data, bool(cut.cut)) == (b"", True)
    assert proxy.cached() == set()
    assert proxy.unfinished() == []


async def test_when_the_content_is_right_all_of_it_comes_however_late(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    layer, gate = image.layers[1], asyncio.Event()
    mirror.inject(Slow(gate, after=layer.size - 1), kind="blob")
    proxy = setup.proxy(None, mirror)
    reply = await proxy.ask("GET", blob(layer.digest))
    body, data = unread(reply.body), b""
    while len(data) < layer.size - 2:
        data += await body.read()
    rest = asyncio.create_task(body.read())
    gate.set()
    assert data + await rest + await body.read() + await body.read() == layer.data
    await body.close()


async def test_what_is_verified_and_not_on_disk_yet_is_not_asked_for_again(
    setup: Setup, mirror: FakeRegistry, image: Image
) -> None:
    """A client that has all of it need not wait for the disk, and neither does the next one."""
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    for part in image.blobs:
        first = await read(await proxy.ask("GET", blob(part.digest)))
        again = await read(await proxy.ask("GET", blob(part.digest)))
        head = await proxy.head(blob(part.digest))
        assert first.data == again.data == part.data
        assert again.headers["Cache-Status"] == head.headers["Cache-Status"] == "mirrortap; hit"
        assert head.headers["Content-Length"] == str(part.size)
    assert [seen.method for seen in mirror.requests] == ["GET"] * len(image.blobs)


async def test_what_is_complete_when_the_proxy_stops_is_kept(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(None, mirror)
    layer = image.layers[1]
    assert (await read(await proxy.ask("GET", blob(layer.digest)))).data == layer.data
    proxy = await setup.restart(proxy)
    assert proxy.cached() == {layer.digest}
    assert proxy.unfinished() == []


async def test_a_download_that_ends_with_the_proxy_is_cut(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.add(image, NAME)
    layer = image.layers[1]
    mirror.inject(Slow(asyncio.Event(), after=1000), kind="blob")
    proxy = setup.proxy(None, mirror)
    reply = await proxy.ask("GET", blob(layer.digest))
    reading = asyncio.create_task(read(reply))
    await proxy.engine.close()
    got = await reading
    assert got.cut
    assert len(got.data) < 1000
    assert proxy.cached() == set()
