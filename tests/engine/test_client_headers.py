"""Nothing of what a client says about itself reaches a mirror, or where an endpoint redirects to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.faults import Status
from support.images import sha256

from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.faults import Answer, Seen
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

OPEN = "library/open"
TOKEN = "the-clients-own-token"
COOKIE, VIA, OTHER = "cookie-of-the-client", "login-at-the-proxy", "header-of-the-client"
ANYWAY = {"Cookie": f"session={COOKIE}", "Proxy-Authorization": f"Bearer {VIA}", "X-Registry-Auth": OTHER}


@dataclass(frozen=True)
class ToElsewhere:
    """Manifests and one blob are at another registry."""

    url: str
    digest: str

    def apply(self, answer: Answer, request: Seen) -> None:
        moved = request.kind == "manifest" or (request.kind == "blob" and request.path.endswith(self.digest))
        if moved and answer.status in (200, 307) and request.method != "PUT":
            Status(307, {"Location": f"{self.url}{request.path}"}).apply(answer, request)


def leaks(registry: FakeRegistry, login: str) -> set[str]:
    """Kinds of requests of which any part shows something that the client said about itself."""
    secrets = (login.partition(" ")[2], COOKIE, VIA, OTHER)
    shown = [(seen.kind, str([*seen.headers.items(), seen.path, seen.query])) for seen in registry.requests]
    return {kind for kind, said in shown if any(secret in said for secret in secrets)}


async def pull(proxy: Proxy, image: Image, name: str, login: str) -> None:
    headers = {**ANYWAY, "Authorization": login}
    parts = {TAG.replace(NAME, name): image.manifest, manifest(image.manifest.digest, name): image.manifest}
    parts |= {blob(part.digest, name): part for part in image.blobs}
    for target, part in parts.items():
        assert (await proxy.fetch("HEAD", target, headers)).status == 200
        assert (await proxy.fetch("GET", target, headers)).data == part.data
    layer = image.layers[1]
    got = await proxy.fetch("GET", blob(layer.digest, name), {**headers, "Range": "bytes=5-"})
    assert (got.status, got.data) == (206, layer.data[5:])


async def push(proxy: Proxy, login: str) -> None:
    async def data() -> AsyncIterator[bytes]:
        yield b"pushed"

    headers = {**ANYWAY, "Authorization": login}
    started = await proxy.fetch("POST", f"/v2/{NAME}/blobs/uploads/", {**headers, "Content-Length": "0"})
    target = f"{started.headers['Location']}?digest={sha256(b'pushed')}"
    assert (await proxy.fetch("PUT", target, {**headers, "Content-Length": "6"}, body=data())).status == 201


@pytest.mark.parametrize("login", [f"Bearer {TOKEN}", basic("alice", "pw")], ids=["bearer", "basic"])
async def test_what_a_client_says_about_itself_stays_between_it_and_the_origin(
    login: str, setup: Setup, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(users={"alice": "pw"}, private={NAME: {"alice"}})
    bearer = BearerAuth(policy)
    bearer.tokens[TOKEN] = {NAME: {"pull", "push"}, OPEN: {"pull"}}
    origin = await setup.registry(auth=bearer if TOKEN in login else BasicAuth(policy), cdn=True)
    mirrors = [
        await setup.registry(),  # has nothing
        await setup.registry(auth=BearerAuth(Policy(private={NAME: set(), OPEN: set()}))),
        await setup.registry(auth=BasicAuth(Policy())),
        await setup.registry(cdn=True),
    ]
    elsewhere = await setup.registry()
    for name in NAME, OPEN:
        for registry in origin, elsewhere, mirrors[3]:
            registry.add(image, name)
    mirrors[3].inject(Status(403), kind="cdn")
    mirrors[3].inject(Status(404), kind="manifest")
    origin.inject(ToElsewhere(elsewhere.url, image.config.digest))
    # What is private is asked for as anybody first, each time.
    proxy = setup.proxy(origin, *mirrors, leads_to=[elsewhere.endpoint], settings={"private-ttl": "0s"})

    headers = {**ANYWAY, "Authorization": login}
    for status in 401, 403, 404:
        elsewhere.inject(Status(status, {"WWW-Authenticate": 'Basic realm="elsewhere"'}), times=1)
        await proxy.fetch("GET", blob(image.config.digest), {**headers, "Range": "bytes=1-2"})
    for name in NAME, OPEN:
        await pull(proxy, image, name, login)
    await push(proxy, login)
    for target in "/v2/", f"/v2/{NAME}/tags/list", f"/v2/{NAME}/referrers/{image.manifest.digest}":
        assert (await proxy.fetch("GET", target, headers)).status == 200

    for registry in *mirrors, elsewhere:
        assert registry.requests
        assert leaks(registry, login) == set()
    assert origin.seen("cdn")
    assert mirrors[3].seen("cdn")
    assert {seen.kind for seen in elsewhere.requests} == {"manifest", "blob"}
    assert leaks(origin, login) == {"ping", "manifest", "blob", "upload", "tags", "referrers"}, "not its CDN"
    assert not [secret for secret in (TOKEN, COOKIE, VIA, OTHER) if secret in caplog.text]
