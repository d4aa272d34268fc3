"""Endpoints that lead back to the proxy: one refusal for each, and the pull goes on elsewhere."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from support.config import QUICK
from support.images import sha256

from addon.fingerprints import Fingerprints
from addon.loops import Via
from engine.harness import NAME, TAG, RawServer, blob

if TYPE_CHECKING:
    import pytest
    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy, RawExchange

OWN = Via(Fingerprints(b"tests")).header[1]
BACK = "HTTP 508: what it is asked comes back to the proxy that asks"


class Front:
    """A port behind which a proxy answers. `answers`: the statuses and bodies."""

    def __init__(self, authority: Authority) -> None:
        self.server = RawServer(authority, self._answer)
        self.proxy: Proxy
        self.answers: list[tuple[int, bytes]] = []

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    @property
    def statuses(self) -> list[int]:
        return [status for status, _ in self.answers]

    async def _answer(self, exchange: RawExchange) -> None:
        line, *lines = exchange.head.decode().split("\r\n")
        method, target, _ = line.split()
        headers = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines if each)]
        reply = await self.proxy.ask(method, target, headers)
        body = reply.body
        if not isinstance(body, bytes):
            data = b""
            while piece := await body.read():
                data += piece
            await body.close()
            body = data
        self.answers.append((reply.status, body))
        await exchange.answer(f"{reply.status} X", reply.headers, body)


async def front(setup: Setup, authority: Authority) -> Front:
    front = Front(authority)
    await setup.enter(front.server)
    return front


async def test_a_mirror_that_is_the_proxy_itself(
    setup: Setup, authority: Authority, image: Image, mirror: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(image, NAME)
    itself = await front(setup, authority)
    itself.proxy = proxy = setup.proxy(None, itself.endpoint, mirror)
    got = await proxy.get(TAG)
    assert (got.status, got.digest) == (200, image.manifest.digest)
    layer = image.layers[0]
    got = await proxy.get(blob(layer.digest))
    assert (got.status, got.digest) == (200, layer.digest)
    assert got.served.endpoint == mirror.endpoint
    # Once for the tag's HEAD, for the manifest, and for the layer.
    assert itself.statuses == [508] * 3
    (why,) = {json.loads(body)["errors"][0]["message"] for _, body in itself.answers if body}
    assert "has come back to the proxy that sent it: one of its mirrors" in why
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 3
    assert all(line.startswith(f"{itself.endpoint}: {BACK}") for line in told)


async def test_nothing_but_itself(setup: Setup, authority: Authority) -> None:
    itself = await front(setup, authority)
    itself.proxy = proxy = setup.proxy(itself.endpoint)
    got = await proxy.get(TAG)
    assert got.status == 502
    assert f"{itself.endpoint}: {BACK}" in got.error["message"]
    passed_on = await proxy.get(f"/v2/{NAME}/tags/list")
    assert passed_on.status == 508
    assert "has come back to the proxy that sent it" in passed_on.error["message"]
    pushed = await proxy.fetch("POST", f"/v2/{NAME}/blobs/uploads/")
    assert pushed.status == 508


async def test_a_redirect_that_leads_back(
    setup: Setup, authority: Authority, image: Image, origin: FakeRegistry
) -> None:
    origin.add(image, NAME)
    itself = await front(setup, authority)

    async def redirect(exchange: RawExchange) -> None:
        target = exchange.head.split()[1].decode()
        await exchange.answer("307 Elsewhere", [("Location", f"https://{itself.endpoint}{target}")])

    leading_back = await setup.enter(RawServer(authority, redirect))
    itself.proxy = proxy = setup.proxy(origin, leading_back.endpoint, leads_to=[itself.endpoint])
    layer = image.layers[0]
    got = await proxy.get(blob(layer.digest))
    assert (got.status, got.digest, got.served.endpoint) == (200, layer.digest, origin.endpoint)
    assert set(itself.statuses) == {508}


async def test_two_that_have_each_other(setup: Setup, authority: Authority, origin: FakeRegistry) -> None:
    fronts = [await front(setup, authority) for _ in range(2)]
    one, other = fronts
    digests = [origin.content.put_blob(NAME, name.encode()) for name in "abc"]
    one.proxy = setup.proxy(origin, other.endpoint, settings=QUICK, key=b"one")
    # What one of them has, and the other has not.
    other.proxy = setup.proxy(await setup.registry())
    assert (await one.proxy.get(blob(digests[0]))).data == b"a"
    other.proxy = setup.proxy(origin, one.endpoint, settings=QUICK, key=b"other")
    other.answers.clear()

    got = await one.proxy.get(blob(digests[1]))
    assert (got.data, got.served.endpoint) == (b"b", other.endpoint)
    assert (one.statuses, other.statuses) == ([508], [200])
    assert len(origin.seen("blob", path=digests[1], method="GET")) == 1

    # That was about this one request: for what the other may have, it is asked first again.
    got = await other.proxy.get(blob(digests[0]))
    assert (got.data, got.served.endpoint) == (b"a", one.endpoint)

    # Both are asked for the same at once: each waits for the other, and no longer than for a mirror that is silent.
    both = await asyncio.gather(*(each.proxy.get(blob(digests[2])) for each in fronts))
    assert [sha256(each.data) for each in both] == [digests[2]] * 2


async def test_who_passed_it_on_before_is_told(
    setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    origin.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    via = [("Via", "1.0 fred"), ("via", "HTTP/1.1 p.example.net:80")]

    async def told(target: str, headers: list[tuple[str, str]]) -> set[str]:
        """What the endpoints hear."""
        for registry in origin, mirror:
            registry.requests.clear()
        assert (await proxy.fetch("GET", target, headers)).status == 200
        return {", ".join(request.headers.getall("Via")) for request in (*origin.requests, *mirror.requests)}

    lists = [f"/v2/{NAME}/tags/list", f"/v2/{NAME}/referrers/{image.manifest.digest}"]
    for target in TAG, blob(image.layers[0].digest), *lists:
        assert await told(target, via) == {f"1.0 fred, HTTP/1.1 p.example.net:80, {OWN}"}
    for target in TAG, blob(image.layers[1].digest), *lists:
        assert await told(target, []) == {OWN}
