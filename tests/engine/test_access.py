"""Who may read what is cached: everybody what is public, a client what it has shown, as long as that is believed."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.clock import Clock
from support.config import QUICK, toml
from support.faults import Held, NoDigest, Status

from engine.harness import NAME, REGISTRY, TAG, blob, closed_port, manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy

ALICE, BOB = "Bearer alices", "Bearer bobs"
NOBODY: Mapping[str, str] = {}


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


def guarded(origin: FakeRegistry) -> BearerAuth:
    assert isinstance(origin.auth, BearerAuth)
    return origin.auth


def take_away(origin: FakeRegistry, *tokens: str) -> None:
    """From everybody but those who hold these."""
    auth = guarded(origin)
    auth.policy.private[NAME] = set()
    auth.tokens = {token.removeprefix("Bearer "): {NAME: {"pull"}} for token in tokens}


@pytest.fixture
async def origin(setup: Setup, image: Image) -> FakeRegistry:
    """Everybody may read it, until that is taken away."""
    registry = await setup.registry(auth=BearerAuth(Policy()))
    registry.add(image, NAME)
    return registry


@pytest.fixture
async def private(origin: FakeRegistry) -> FakeRegistry:
    take_away(origin, ALICE)
    return origin


def parts(image: Image) -> dict[str, bytes]:
    return {
        TAG: image.manifest.data,
        manifest(image.manifest.digest): image.manifest.data,
        **{blob(part.digest): part.data for part in image.blobs},
    }


async def ask(proxy: Proxy, target: str, login: str | None, **headers: str) -> Got:
    return await proxy.get(target, **({"Authorization": login} if login else {}), **headers)


async def pull(proxy: Proxy, image: Image, login: str | None) -> set[str]:
    """Checks the bytes; how they were served."""
    how = set()
    for target, content in parts(image).items():
        got = await ask(proxy, target, login)
        assert (got.status, got.data) == (200, content)
        how.add(got.served.how)
    return how


async def check_refused(proxy: Proxy, image: Image, login: str | None, status: int = 401) -> None:
    # The tag last: what is said of it counts for all the rest.
    for target, content in reversed(parts(image).items()):
        for headers in ({}, {"Range": "bytes=0-99"}):
            got = await ask(proxy, target, login, **headers)
            assert got.status == status
            assert content[:100] not in got.data
        head = await proxy.head(target, **({"Authorization": login} if login else {}))
        assert head.status == status


def questions(registry: FakeRegistry) -> list[tuple[str, str | None]]:
    """What was asked about content, and as whom."""
    return [(f"{seen.method} {seen.kind}", seen.authorization) for seen in registry.requests if seen.kind != "token"]


# --- what is public ---


async def test_public_is_believed_for_its_time_and_no_longer(
    setup: Setup, origin: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(origin, clock=clock, settings={"public-ttl": "1h"})
    await pull(proxy, image, None)
    take_away(origin)
    clock.now += 3599
    asked = len(origin.requests)
    for target in list(parts(image))[1:]:
        assert (await proxy.get(target)).served.how == "hit"
    assert len(origin.requests) == asked
    clock.now += 1
    await check_refused(proxy, image, None)


async def test_public_content_asks_once_when_it_is_to_be_shown_again(
    setup: Setup, origin: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(origin, clock=clock)
    await pull(proxy, image, None)
    clock.now += 3600
    asked = len(origin.requests)
    for target in list(parts(image))[1:]:
        assert (await proxy.get(target)).served.how == "hit"
    assert [seen.method for seen in origin.requests[asked:]] == ["HEAD"]


async def test_who_was_public_and_refuses_by_tag_is_believed_at_once(
    setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(origin)
    await pull(proxy, image, None)
    take_away(origin)
    assert (await proxy.get(TAG)).status == 401
    await check_refused(proxy, image, None)


async def test_public_content_is_served_while_nobody_can_be_asked(
    setup: Setup, origin: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(origin, clock=clock, settings=dict(QUICK))
    await pull(proxy, image, None)
    clock.now += 10 * 86400
    origin.inject(Status(503))
    before = len(origin.requests)
    assert await pull(proxy, image, None) == {"stale", "hit"}
    assert len(origin.requests) - before == 1, "not again for each part of the image"


async def test_a_mirror_that_wants_no_login_makes_it_public(
    setup: Setup, private: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    mirror.add(image, NAME)
    proxy = setup.proxy(private, mirror)
    await pull(proxy, image, None)
    assert questions(private) == []


async def test_a_clock_that_was_set_back_makes_nothing_good_for_ever(
    setup: Setup, origin: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(origin, clock=clock)
    await pull(proxy, image, None)
    await pull(proxy, image, ALICE)
    take_away(origin)
    clock.now -= 86400
    await check_refused(proxy, image, None)
    await check_refused(proxy, image, ALICE)


# --- what is private ---


async def test_one_proof_is_enough_for_a_repository(setup: Setup, private: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(private)
    await pull(proxy, image, ALICE)
    asked = len(private.requests)
    for target in list(parts(image))[1:]:
        got = await ask(proxy, target, ALICE)
        assert (got.data, got.served.how) == (parts(image)[target], "hit")
    assert len(private.requests) == asked
    await check_refused(proxy, image, BOB)
    await check_refused(proxy, image, None)
    guarded(private).tokens["bobs"] = {NAME: {"pull"}}
    asked = len(private.requests)
    assert await pull(proxy, image, BOB) == {"hit"}
    assert questions(private)[-1] == ("HEAD manifest", BOB)
    assert len(private.requests) == asked + 1


async def test_a_proof_is_believed_for_its_time_and_no_longer(
    setup: Setup, private: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(private, clock=clock, settings={"access-ttl": "10m"})
    await pull(proxy, image, ALICE)
    take_away(private)
    clock.now += 599
    for target in list(parts(image))[1:]:
        assert (await ask(proxy, target, ALICE)).served.how == "hit"
    clock.now += 1
    await check_refused(proxy, image, ALICE)


async def test_a_refusal_ends_a_proof(setup: Setup, private: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(private)
    await pull(proxy, image, ALICE)
    take_away(private)
    assert (await ask(proxy, TAG, ALICE)).status == 401
    await check_refused(proxy, image, ALICE)


def jwt(ends: Any) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
    return f"Bearer eyJhbGciOiJub25lIn0.{claims}.c2ln"


async def test_a_proof_does_not_outlive_its_token(
    setup: Setup, private: FakeRegistry, image: Image, clock: Clock
) -> None:
    token = jwt(int(clock.now) + 60)
    take_away(private, token)
    proxy = setup.proxy(private, clock=clock)
    await pull(proxy, image, token)
    clock.now += 58
    assert (await ask(proxy, blob(image.config.digest), token)).served.how == "hit"
    take_away(private)
    clock.now += 3
    await check_refused(proxy, image, token)


@pytest.mark.parametrize("login", [jwt(0), jwt("soon"), jwt(None), jwt(True), jwt(1e300), "Bearer a.b.c", "Bearer ..."])
async def test_a_token_that_says_odd_things_is_still_the_origins_to_judge(
    login: str, setup: Setup, private: FakeRegistry, image: Image
) -> None:
    take_away(private, login)
    proxy = setup.proxy(private)
    await pull(proxy, image, login)
    assert "miss from" not in await pull(proxy, image, login)
    await check_refused(proxy, image, BOB)


async def test_a_login_by_name_and_password_is_a_proof(setup: Setup, image: Image) -> None:
    origin = await setup.registry(auth=BasicAuth(Policy(users={"alice": "pw"})))
    origin.add(image, NAME)
    proxy = setup.proxy(origin)
    await pull(proxy, image, basic("alice", "pw"))
    assert await pull(proxy, image, basic("alice", "pw")) == {"hit"}
    await check_refused(proxy, image, basic("alice", "guess"))


async def test_who_is_known_to_be_private_is_not_asked_as_anybody(
    setup: Setup, private: FakeRegistry, mirror: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(private, mirror, clock=clock, settings={"private-ttl": "1m", "access-ttl": "1h"})
    await pull(proxy, image, ALICE)
    clock.now += 59
    asked, mirrored = len(questions(private)), len(mirror.requests)
    guarded(private).tokens["bobs"] = {NAME: {"pull"}}
    assert (await ask(proxy, TAG, BOB)).status == 200
    assert questions(private)[asked:] == [("HEAD manifest", BOB)]
    assert len(mirror.requests) == mirrored
    clock.now += 1
    asked = len(questions(private))
    guarded(private).tokens["carols"] = {NAME: {"pull"}}
    assert (await ask(proxy, TAG, "Bearer carols")).status == 200
    first, *_, last = [login for _, login in questions(private)[asked:]]
    assert (first in (ALICE, BOB, "Bearer carols"), last) == (False, "Bearer carols")
    assert len(mirror.requests) > mirrored


async def test_a_repository_that_was_private_becomes_public(
    setup: Setup, private: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(private, clock=clock)
    await pull(proxy, image, ALICE)
    await check_refused(proxy, image, None)
    guarded(private).policy.private.clear()
    # Whoever asks without a login asks the origin, each time.
    await pull(proxy, image, None)


async def test_a_digest_is_no_key_to_another_repository(setup: Setup, private: FakeRegistry, image: Image) -> None:
    """Bob may read team/other, which does not hold it."""
    proxy = setup.proxy(private)
    await pull(proxy, image, ALICE)
    private.content.put_blob("team/other", b"something else")
    guarded(private).policy.private["team/other"] = {"bob"}
    guarded(private).tokens["bobs"] = {"team/other": {"pull"}}
    for part in image.blobs:
        for method in ("get", "head"):
            got = await getattr(proxy, method)(blob(part.digest, "team/other"), Authorization=BOB)
            assert got.status == 404
            assert part.data[:100] not in got.data


async def test_a_tag_that_is_believed_is_not_for_everybody(setup: Setup, private: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(private, settings={"tag-ttl": "1h"})
    await pull(proxy, image, ALICE)
    asked = len(private.requests)
    assert (await ask(proxy, TAG, ALICE)).served.how == "hit"
    assert len(private.requests) == asked
    for login in (BOB, None):
        got = await ask(proxy, TAG, login)
        assert (got.status, image.manifest.data in got.data) == (401, False)
        head = await proxy.head(TAG, **({"Authorization": login} if login else {}))
        assert (head.status, head.headers.get("Docker-Content-Digest")) == (401, None)


async def test_two_who_ask_for_a_tag_at_once_are_told_each_their_own(
    setup: Setup, private: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(private)
    await check_refused(proxy, image, BOB)
    gate = asyncio.Event()
    private.inject(Held(gate), kind="manifest", method="HEAD")
    bob = asyncio.create_task(ask(proxy, TAG, BOB))
    await private.wait_for(lambda: ("HEAD manifest", BOB) in questions(private)[-1:])
    alice = asyncio.create_task(ask(proxy, TAG, ALICE))
    await private.wait_for(lambda: ("HEAD manifest", ALICE) in questions(private)[-1:])
    gate.set()
    assert (await bob).status == 401
    assert ((await alice).data, (await alice).served.how) == (image.manifest.data, "miss from")


# --- while the origin cannot be reached ---


async def test_what_is_public_is_not_served_for_a_repository_that_may_not_hold_it(
    setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    digest = origin.content.put_blob("team/other", b"something else")
    proxy = setup.proxy(origin, settings=dict(QUICK))
    await pull(proxy, image, None)
    assert (await proxy.get(blob(digest, "team/other"))).data == b"something else"
    origin.inject(Status(503))
    assert (await proxy.get(blob(digest, "team/other"))).data == b"something else"
    assert (await proxy.get(blob(image.config.digest, "team/other"))).status == 502


@pytest.mark.parametrize(
    ("grace", "later", "served"),
    [("0s", 299, True), ("0s", 301, False), ("1h", 3599, True), ("1h", 3601, False)],
)
async def test_private_content_needs_a_proof_that_still_counts(
    grace: str, later: float, served: bool, setup: Setup, private: FakeRegistry, image: Image, clock: Clock
) -> None:
    proxy = setup.proxy(private, clock=clock, settings={"access-grace": grace, "private-ttl": "1d", **QUICK})
    await pull(proxy, image, ALICE)
    private.inject(Status(503))
    clock.now += later
    if served:
        assert await pull(proxy, image, ALICE) <= {"stale", "hit"}
    else:
        await check_refused(proxy, image, ALICE, 502)
    await check_refused(proxy, image, None, 502)
    await check_refused(proxy, image, BOB, 502)


async def test_grace_is_not_for_who_is_refused(setup: Setup, private: FakeRegistry, image: Image, clock: Clock) -> None:
    proxy = setup.proxy(private, clock=clock, settings={"access-grace": "1h"})
    await pull(proxy, image, ALICE)
    clock.now += 600
    take_away(private)
    await check_refused(proxy, image, ALICE)


async def test_a_proof_survives_a_restart(setup: Setup, private: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(private)
    await pull(proxy, image, ALICE)
    asked = len(private.requests)
    proxy = await setup.restart(proxy)
    for target in list(parts(image))[1:]:
        assert (await ask(proxy, target, ALICE)).served.how == "hit"
    assert len(private.requests) == asked
    await check_refused(proxy, image, BOB)


async def test_a_lost_database_makes_nothing_public(setup: Setup, private: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(private, settings=dict(QUICK))
    await pull(proxy, image, ALICE)
    await proxy.close()
    for file in proxy.cache.glob("mirrortap.sqlite*"):
        file.unlink()
    private.inject(Status(503))
    proxy = setup.beside(proxy)
    for login in (None, ALICE, BOB):
        await check_refused(proxy, image, login, 502)


# --- open registries ---


async def test_what_is_open_is_for_everybody_once_it_is_here(setup: Setup, private: FakeRegistry, image: Image) -> None:
    proxy = setup.proxy(private, access="open", settings={"tag-ttl": "1h"})
    await check_refused(proxy, image, None)
    await pull(proxy, image, ALICE)
    asked = len(private.requests)
    for target, content in list(parts(image).items())[1:]:
        got = await proxy.get(target)
        assert (got.data, got.served.how) == (content, "hit")
    assert len(private.requests) == asked
    # What is not known to be in a repository is not served for it there either.
    assert (await proxy.get(blob(image.config.digest, "team/other"))).status != 200


# --- where the proxy logs in ---


PASSWORD = "proxys-own"


@pytest.fixture
async def paid(setup: Setup, image: Image) -> FakeRegistry:
    """A mirror that the proxy alone may read."""
    registry = await setup.registry(auth=BasicAuth(Policy(users={"proxy": PASSWORD})))
    registry.add(image, NAME)
    return registry


def logging_in(setup: Setup, folder: Path, origin: FakeRegistry, *mirrors: FakeRegistry, at: str, **auth: str) -> Proxy:
    """A proxy with a credential of its own for `at`."""
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    tables: dict[str, dict[str, Any]] = {each.endpoint: {"http": False, "ca": [setup.ca_file]} for each in mirrors}
    tables[REGISTRY] = {"mirrors": list(tables), "server": origin.url, "ca": [setup.ca_file]}
    tables[at]["auth"] = {"username": "proxy", "password-file": secret, **auth}
    return setup.start(toml(tables, {"prefetch": False}))


async def test_what_a_mirror_gives_the_proxy_alone_is_not_for_everybody(
    setup: Setup, private: FakeRegistry, paid: FakeRegistry, image: Image, tmp_path: Path
) -> None:
    proxy = logging_in(setup, tmp_path, private, paid, at=paid.endpoint)
    await check_refused(proxy, image, None)
    assert paid.requests == []
    await pull(proxy, image, ALICE)
    assert {seen.path for seen in paid.seen(method="GET")} >= {blob(part.digest) for part in image.blobs}
    assert {kind for kind, login in questions(private) if login == ALICE} == {"HEAD manifest"}
    await check_refused(proxy, image, None)
    await check_refused(proxy, image, BOB)


async def test_a_mirror_that_the_proxy_logs_in_to_serves_what_is_public(
    setup: Setup, origin: FakeRegistry, paid: FakeRegistry, image: Image, tmp_path: Path
) -> None:
    proxy = logging_in(setup, tmp_path, origin, paid, at=paid.endpoint)
    await pull(proxy, image, None)
    assert {kind for kind, _ in questions(origin)} == {"HEAD manifest"}
    assert await pull(proxy, image, None) == {"hit"}
    # A blob first: the mirror's word is not enough.
    proxy = logging_in(setup, tmp_path, origin, paid, at=paid.endpoint)
    asked = len(origin.requests)
    assert (await proxy.get(blob(image.config.digest))).data == image.config.data
    assert {kind for kind, _ in questions(origin)[asked:]} == {"HEAD blob"}


@pytest.mark.parametrize("use", ["always", "when-client-has-none"])
async def test_with_the_proxys_login_at_the_origin_everybody_may_read(
    use: str, setup: Setup, image: Image, tmp_path: Path
) -> None:
    origin = await setup.registry(auth=BasicAuth(Policy(users={"proxy": PASSWORD, "alice": "pw"})))
    origin.add(image, NAME)
    proxy = logging_in(setup, tmp_path, origin, at=REGISTRY, use=use)
    own, hers = basic("proxy", PASSWORD), basic("alice", "pw")
    await pull(proxy, image, hers)
    counted = [login for kind, login in questions(origin) if kind == "GET manifest"]
    assert counted == [own if use == "always" else hers]
    assert {login for kind, login in questions(origin) if kind != "GET manifest"} <= {own, None}
    assert await pull(proxy, image, None) == {"hit"}
    ping = await proxy.get("/v2/")
    assert ping.status == (200 if use == "always" else 401), "whether a client has to log in"


# --- whose credential pays ---


async def test_the_counted_request_is_the_clients_own(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    guarded(origin).tokens["alices"] = {NAME: {"pull"}}
    proxy = setup.proxy(origin)
    await pull(proxy, image, ALICE)
    paid = [kind for kind, login in questions(origin) if login == ALICE]
    assert paid == ["GET manifest"]


async def test_nobody_pays_for_what_may_be_private(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    guarded(origin).tokens["alices"] = {NAME: {"pull"}}
    proxy = setup.proxy(origin)
    assert (await ask(proxy, manifest(image.manifest.digest), ALICE)).data == image.manifest.data
    assert ALICE not in [login for _, login in questions(origin)]


async def test_nobody_pays_for_what_has_no_digest_yet(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """What is told to one is told to all who ask at the same time."""
    guarded(origin).tokens["alices"] = {NAME: {"pull"}}
    proxy = setup.proxy(origin)
    await pull(proxy, image, None)
    origin.inject(NoDigest())
    asked = len(origin.requests)
    assert (await ask(proxy, TAG, ALICE)).data == image.manifest.data
    assert "GET manifest" in [kind for kind, _ in questions(origin)[asked:]]
    assert ALICE not in [login for _, login in questions(origin)]


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_where_the_clients_own_does_not_do_the_proxys_does(
    status: int, setup: Setup, origin: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(origin)
    if status == 401:
        pass  # nobody has issued it
    else:
        guarded(origin).tokens["alices"] = {NAME: {"pull"}}
        origin.inject(Status(status), kind="manifest", method="GET", times=1)
    await pull(proxy, image, ALICE)
    counted = [login for kind, login in questions(origin) if kind == "GET manifest"]
    assert counted[0] == ALICE
    assert ALICE not in counted[1:]
    assert await pull(proxy, image, None) == {"hit"}


async def test_what_a_client_pays_for_says_nothing_of_what_is_public(
    setup: Setup, origin: FakeRegistry, image: Image, other: Image, clock: Clock
) -> None:
    origin.add(other, NAME, "2.0")
    proxy = setup.proxy(origin, clock=clock, settings={"public-ttl": "1h"})
    await pull(proxy, image, None)
    take_away(origin, ALICE)
    clock.now += 3500
    assert (await ask(proxy, manifest(other.manifest.digest), ALICE)).data == other.manifest.data
    assert questions(origin)[-1] == ("GET manifest", ALICE)
    clock.now += 101
    await check_refused(proxy, image, None)


# --- errors ---


async def test_a_credential_is_not_tried_where_it_would_change_nothing(setup: Setup, origin: FakeRegistry) -> None:
    proxy = setup.proxy(origin)
    origin.inject(Status(503))
    assert (await ask(proxy, TAG, ALICE)).status == 502
    assert questions(origin) == [("HEAD manifest", None)]


async def test_an_origin_that_is_gone_is_said_to_be(setup: Setup, image: Image) -> None:
    proxy = setup.proxy(closed_port(), settings=dict(QUICK))
    got = await ask(proxy, TAG, ALICE)
    assert got.status == 502
    assert b"Connection refused" in got.data
    assert b"alices" not in got.data
