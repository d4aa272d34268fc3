"""Who is sent on to the mirror door for a blob, and who gets the bytes themselves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict
from support.access import Policy
from support.auth import BasicAuth, BearerAuth
from support.clock import Clock
from support.descriptors import descriptors
from support.faults import Slow

from addon.pulls.redirects import SMALLEST
from addon.reply import PlainDoor, Request
from addon.tickets import Ticket
from engine.harness import NAME, REGISTRY, blob, manifest, read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.images import Image
    from support.registry import FakeRegistry

    from addon.reply import Reply
    from engine.conftest import Setup
    from engine.harness import Got, Proxy

CLIENT = "10.0.0.7"
DOOR = PlainDoor("http://10.0.0.2:5000", CLIENT)
LARGE = bytes(range(256)) * (SMALLEST // 256)
ALICE = "Bearer alices"


async def answer(
    proxy: Proxy,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    door: PlainDoor | None = DOOR,
) -> Reply:
    """With its body unread."""
    rule = proxy.config.rule(REGISTRY, 443, NAME)
    assert rule
    return await proxy.engine.answer(Request(rule, method, target, tuple((headers or {}).items()), door=door))


async def ask(proxy: Proxy, target: str, headers: Mapping[str, str] | None = None, **asked: Any) -> Got:
    return await read(await answer(proxy, target, headers, **asked))


async def warm(proxy: Proxy, target: str, headers: Mapping[str, str] | None = None) -> None:
    """Until it is in the cache."""
    got = await ask(proxy, target, headers, door=None)
    assert (got.status, got.cut) == (200, None)
    again = await ask(proxy, target, headers, door=None)
    assert (again.status, again.served.how) == (200, "hit")


@pytest.fixture
async def origin(setup: Setup) -> FakeRegistry:
    """Everybody may read it."""
    return await setup.registry(auth=BearerAuth(Policy()))


async def test_a_warm_public_blob(setup: Setup, origin: FakeRegistry) -> None:
    digest = origin.content.put_blob(NAME, LARGE)
    proxy = setup.proxy(origin, redirect="public")
    cold = await ask(proxy, blob(digest))
    assert (cold.status, cold.data) == (200, LARGE)
    files = descriptors()
    for headers in {}, {"Authorization": "Bearer anything"}, {"Range": "bytes=5-9"}, {"Range": "bytes=99999999-"}:
        got = await ask(proxy, blob(digest), headers)
        assert (got.status, got.data) == (307, b"")
        location = got.headers.popone("Location")
        assert got.headers == CIMultiDict(
            {
                "Docker-Content-Digest": digest,
                "Docker-Distribution-API-Version": "registry/2.0",
                "Content-Length": "0",
                "OCI-Namespace": REGISTRY,
                "Cache-Status": "mirrortap; hit; detail=redirected",
            }
        )
        assert str(got.served) == "redirected"
        assert location.startswith(DOOR.url)
        assert proxy.tickets.read(location.removeprefix(DOOR.url), CLIENT) == Ticket(REGISTRY, blob(digest))
    assert descriptors() == files


async def test_by_a_setting_for_all_registries(setup: Setup, origin: FakeRegistry) -> None:
    digest = origin.content.put_blob(NAME, LARGE)
    proxy = setup.proxy(origin, settings={"redirect": "public"})
    await warm(proxy, blob(digest))
    assert (await ask(proxy, blob(digest))).status == 307
    proxy = setup.proxy(origin, settings={"redirect": "public"}, redirect="never")
    await warm(proxy, blob(digest))
    assert (await ask(proxy, blob(digest))).status == 200


@pytest.mark.parametrize(
    ("rule", "asked", "size"),
    [
        pytest.param({}, {}, SMALLEST, id="by default"),
        pytest.param({"redirect": "never"}, {}, SMALLEST, id="never"),
        pytest.param({"redirect": "public"}, {"door": None}, SMALLEST, id="there is no door for it"),
        pytest.param({"redirect": "public"}, {"method": "HEAD"}, SMALLEST, id="HEAD"),
        pytest.param({"redirect": "public"}, {}, SMALLEST - 1, id="small"),
    ],
)
async def test_who_gets_the_content(
    rule: dict[str, Any], asked: dict[str, Any], size: int, setup: Setup, origin: FakeRegistry
) -> None:
    digest = origin.content.put_blob(NAME, LARGE[:size])
    proxy = setup.proxy(origin, **rule)
    await warm(proxy, blob(digest))
    got = await ask(proxy, blob(digest), **asked)
    assert (got.status, got.served.how) == (200, "hit")
    assert got.data == (b"" if asked.get("method") == "HEAD" else LARGE[:size])


async def test_manifests_come_by_tls_alone(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """By a tag, nothing else says whose bytes they are."""
    origin.add(image, NAME)
    large = image.manifest.data + b" " * SMALLEST
    digest = origin.content.put_manifest(NAME, "large", large, image.manifest.media_type)
    proxy = setup.proxy(origin, redirect="public")
    await warm(proxy, manifest(digest))
    got = await ask(proxy, manifest(digest))
    assert (got.status, got.data) == (200, large)


async def test_what_is_not_public_comes_by_tls_alone(setup: Setup, origin: FakeRegistry) -> None:
    digest = origin.content.put_blob(NAME, LARGE)
    auth = origin.auth
    assert isinstance(auth, BearerAuth)
    auth.policy.private[NAME] = set()
    auth.tokens = {"alices": {NAME: {"pull"}}}
    for access in "checked", "open":
        proxy = setup.proxy(origin, redirect="public", access=access)
        await warm(proxy, blob(digest), {"Authorization": ALICE})
        for headers in {"Authorization": ALICE}, {"Authorization": ALICE, "Range": "bytes=0-9"}:
            got = await ask(proxy, blob(digest), headers)
            assert got.status in (200, 206)
            assert got.served.how == "hit"
        anonymous = await ask(proxy, blob(digest))
        assert (anonymous.status, anonymous.data == LARGE) == ((200, True) if access == "open" else (401, False))


async def test_what_the_proxys_own_credential_opens_comes_by_tls_alone(setup: Setup, tmp_path: Path) -> None:
    """Everybody who may use the proxy may read it, and nobody else."""
    origin = await setup.registry(auth=BasicAuth(Policy(users={"proxy": "s3cret"}, private={NAME: {"proxy"}})))
    digest = origin.content.put_blob(NAME, LARGE)
    (tmp_path / "password").write_text("s3cret")
    (tmp_path / "password").chmod(0o600)
    proxy = setup.proxy(origin, redirect="public", auth={"username": "proxy", "password-file": tmp_path / "password"})
    (warning,) = [each for each in proxy.config.warnings if "redirect" in each]
    assert 'mirrortap.toml: registry."registry.test": redirect = "public" changes nothing' in warning
    await warm(proxy, blob(digest))
    rule = proxy.config.rule(REGISTRY, 443, NAME)
    assert rule
    assert proxy.access.public(rule, NAME), "nothing is shown by this any more"
    assert (await ask(proxy, blob(digest))).data == LARGE
    offline = setup.beside(proxy, tuned=lambda config: config.taken_offline())
    assert (await ask(offline, blob(digest))).data == LARGE


async def test_public_is_what_was_shown_to_be_lately(setup: Setup, origin: FakeRegistry) -> None:
    clock = Clock(time.time())
    digest = origin.content.put_blob(NAME, LARGE)
    proxy = setup.proxy(origin, redirect="public", clock=clock, settings={"public-ttl": "1h"})
    await warm(proxy, blob(digest))
    offline = setup.beside(proxy, tuned=lambda config: config.taken_offline(), clock=clock)
    assert (await ask(offline, blob(digest))).status == 307
    clock.now += 3600
    assert (await ask(offline, blob(digest))).data == LARGE
    asked = len(origin.requests)
    assert (await ask(proxy, blob(digest))).status == 307
    assert [seen.method for seen in origin.requests[asked:] if seen.kind == "blob"] == ["HEAD"]
    auth = origin.auth
    assert isinstance(auth, BearerAuth)
    auth.policy.private[NAME] = set()
    auth.tokens = {}
    clock.now += 3600
    assert (await ask(proxy, blob(digest))).status == 401


async def test_who_joins_a_running_download_gets_its_bytes(setup: Setup, origin: FakeRegistry) -> None:
    digest = origin.content.put_blob(NAME, LARGE)
    gate = asyncio.Event()
    origin.inject(Slow(gate, after=SMALLEST // 2), kind="blob", method="GET")
    proxy = setup.proxy(origin, redirect="public")
    first = await proxy.ask("GET", blob(digest))
    second = await answer(proxy, blob(digest))
    assert (second.status, second.served.how) == (200, "joined from")
    gate.set()
    for got in await asyncio.gather(read(first), read(second)):
        assert (got.status, got.data) == (200, LARGE)
