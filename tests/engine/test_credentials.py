"""A client's Authorization reaches the origin, when it must, and nobody else; what it brings is for those who may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.faults import Corrupt, Slow, Status

from engine.harness import NAME, REGISTRY, TAG, blob, manifest, read

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got

SECRET = "the-clients-own"
LOGIN = f"Bearer {SECRET}"


@pytest.fixture
async def private(setup: Setup, image: Image) -> FakeRegistry:
    """An origin that shows NAME to alice, who holds SECRET; its blobs are on a CDN."""
    auth = BearerAuth(Policy(users={"alice": "pw"}, private={NAME: {"alice"}}))
    registry = await setup.registry(auth=auth, cdn=True)
    auth.tokens[SECRET] = {NAME: {"pull"}}
    registry.add(image, NAME)
    return registry


def saw_secret(registry: FakeRegistry) -> list[str]:
    """Requests of which any part shows the secret."""
    return [
        f"{seen.kind} {seen.method} {seen.path}"
        for seen in registry.requests
        if SECRET in str([*seen.headers.items(), seen.path, seen.query])
    ]


def check_challenge(got: Got, registry: FakeRegistry) -> None:
    """The origin's own 401, from which a client learns how to log in."""
    assert got.status == 401
    assert got.headers["WWW-Authenticate"].startswith(f'Bearer realm="{registry.url}/token",service="fake"')


async def test_it_reaches_nobody_but_the_origin(
    setup: Setup, private: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirrors = [
        await setup.registry(),  # has nothing
        await setup.registry(auth=BearerAuth(Policy(private={NAME: set()}))),
        await setup.registry(auth=BasicAuth(Policy())),
        await setup.registry(cdn=True),
    ]
    mirrors[3].add(image, NAME)
    mirrors[3].inject(Status(403), kind="cdn")
    mirrors[3].inject(Status(404), kind="manifest")
    proxy = setup.proxy(private, *mirrors)
    for target, part in (
        (TAG, image.manifest),
        (manifest(image.manifest.digest), image.manifest),
        *((blob(part.digest), part) for part in image.blobs),
    ):
        head = await proxy.head(target, Authorization=LOGIN)
        assert (head.status, head.headers["Content-Length"]) == (200, str(part.size))
        got = await proxy.get(target, Authorization=LOGIN)
        assert (got.status, got.data, got.cut) == (200, part.data, None)
        assert got.served.how in ("miss from", "hit")
        assert got.headers["OCI-Namespace"] == REGISTRY
    for mirror in mirrors:
        assert mirror.requests
        assert saw_secret(mirror) == []
    shown = {entry.split()[0] for entry in saw_secret(private)}
    assert shown == {"manifest", "blob"}, "not its CDN, not its token endpoint"
    assert private.seen("cdn")
    assert private.seen("token")
    assert SECRET not in caplog.text
    await proxy.close()
    files = [path for path in proxy.cache.rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in files)


async def test_for_what_anybody_may_have_it_is_used_only_where_that_is_counted(setup: Setup, image: Image) -> None:
    """Most clients send a token for public images too: the answer must be everybody's."""
    auth = BearerAuth(Policy())
    origin = await setup.registry(auth=auth)
    auth.tokens[SECRET] = {NAME: {"pull"}}
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    for target, part in (TAG, image.manifest), (blob(image.config.digest), image.config):
        assert (await proxy.get(target, Authorization=LOGIN)).data == part.data
    assert saw_secret(origin) == [f"manifest GET /v2/{NAME}/manifests/{image.manifest.digest}"]
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.headers["Cache-Status"]) == (image.config.data, "mirrortap; hit")


async def test_a_private_image_is_kept_for_those_who_may_read_it(
    setup: Setup, private: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(private)
    targets = {TAG: image.manifest, manifest(image.manifest.digest): image.manifest}
    targets |= {blob(part.digest): part for part in image.blobs}
    for target, part in targets.items():
        assert (await proxy.get(target, Authorization=LOGIN)).data == part.data
    assert proxy.cached() == {part.digest for part in targets.values()}
    for target, part in targets.items():
        for login in ({}, {"Authorization": "Bearer somebody-elses"}):
            got = await proxy.fetch("GET", target, login)
            check_challenge(got, private)
            assert part.data not in got.data
            head = await proxy.fetch("HEAD", target, login)
            check_challenge(head, private)
            assert head.headers.get("Docker-Content-Digest") is None
    # And alice may still have it.
    for target, part in targets.items():
        got = await proxy.get(target, Authorization=LOGIN)
        assert (got.data, got.served.how) == (part.data, "hit")


async def test_one_who_asks_while_a_private_blob_streams_gets_none_of_it(
    setup: Setup, private: FakeRegistry, image: Image
) -> None:
    layer, gate = image.layers[1], asyncio.Event()
    private.inject(Slow(gate, after=1000), kind="cdn")
    proxy = setup.proxy(private)
    streaming = await proxy.ask("GET", blob(layer.digest), {"Authorization": LOGIN})
    check_challenge(await proxy.get(blob(layer.digest)), private)
    check_challenge(await proxy.head(blob(layer.digest)), private)
    gate.set()
    assert (await read(streaming)).data == layer.data


@pytest.mark.parametrize("which", ["config", "layer"])
async def test_wrong_private_bytes_are_cut_at_the_end(
    which: str, setup: Setup, private: FakeRegistry, image: Image
) -> None:
    part = {"config": image.config, "layer": image.layers[1]}[which]
    private.inject(Corrupt(), kind="cdn", method="GET", times=1)
    proxy = setup.proxy(private)
    got = await proxy.get(blob(part.digest), Authorization=LOGIN)
    assert got.cut
    assert private.endpoint in got.cut
    assert len(got.data) < part.size
    assert (await proxy.get(blob(part.digest), Authorization=LOGIN)).data == part.data


async def test_a_login_by_name_and_password_goes_the_same_way(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    origin = await setup.registry(auth=BasicAuth(Policy(users={"alice": "pw"})))
    origin.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    login = basic("alice", "pw")
    assert (await proxy.get(TAG, Authorization=login)).data == image.manifest.data
    assert (await proxy.get(blob(image.config.digest), Authorization=login)).data == image.config.data
    got = await proxy.get(TAG)
    assert (got.status, got.headers["WWW-Authenticate"]) == (401, 'Basic realm="fake"')
    assert [seen.authorization for seen in mirror.requests] == [None] * len(mirror.requests)


async def test_a_range_of_a_private_blob(setup: Setup, private: FakeRegistry, image: Image) -> None:
    """containerd, dockerd and buildkitd go on with `bytes=N-` after a break."""
    layer = image.layers[1]
    proxy = setup.proxy(private)
    got = await proxy.get(blob(layer.digest), Authorization=LOGIN, Range="bytes=1000-")
    assert (got.status, got.data) == (206, layer.data[1000:])
    assert got.headers["Content-Range"] == f"bytes 1000-{layer.size - 1}/{layer.size}"


async def test_what_a_mirror_shows_to_all_is_public(
    setup: Setup, private: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(private, mirror)
    assert (await proxy.get(blob(image.config.digest))).data == image.config.data
    assert private.requests == []


@pytest.mark.parametrize("status", [503, 429])
async def test_an_origin_that_fails_does_not_hand_out_what_is_private(
    status: int, setup: Setup, private: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(private)
    for target in TAG, blob(image.config.digest):
        await proxy.get(target, Authorization=LOGIN)
    private.inject(Status(status))
    for target, part in (TAG, image.manifest), (blob(image.config.digest), image.config):
        for login in {}, {"Authorization": "Bearer somebody-elses"}:
            got = await proxy.fetch("GET", target, login)
            assert got.status in (502, 429)
            assert part.data not in got.data
        # Who has just shown that they may read it need not show it again.
        assert (await proxy.get(target, Authorization=LOGIN)).data == part.data


async def test_a_login_does_not_follow_a_download_to_another_registry(setup: Setup, image: Image) -> None:
    """Two registries are asked for one digest at once; the download that was begun for the other one fails."""
    gate = asyncio.Event()
    other = await setup.registry(auth=BearerAuth(Policy(private={"their/app": set()})))
    other.inject(Slow(gate), kind="token", times=1)
    origin = await setup.registry(auth=BearerAuth(Policy()))
    origin.add(image, NAME)
    more = [f'[registry."other.test"]\nserver = "https://{other.endpoint}"\nca = ["{setup.ca_file}"]\n']
    proxy = setup.proxy(origin, more=more)
    digest = image.config.digest
    theirs = asyncio.create_task(proxy.get(blob(digest, "their/app"), registry="other.test"))
    await other.wait_for(lambda: bool(other.seen("token")))
    ours = asyncio.create_task(proxy.get(blob(digest), Authorization=LOGIN))
    # The origin shows that it holds the blob; the download that runs is then the one to wait for.
    await origin.wait_for(lambda: any(seen.status == 200 for seen in origin.seen("blob")))
    gate.set()
    assert (await theirs).status == 401
    got = await ours
    assert saw_secret(other) == [], "the login for one registry was shown to another"
    assert (got.status, got.data) == (200, image.config.data)
