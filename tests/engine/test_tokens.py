"""The proxy's own anonymous tokens: per endpoint and repository, reused, renewed, and never a reason to hang."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.access import Policy
from support.auth import BasicAuth, BearerAuth
from support.config import QUICK
from support.faults import Answer, Challenge, Hang, Seen, Status

from addon.upstream import tokens
from engine.harness import NAME, TAG, RawServer, blob, manifest

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.faults import Fault
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import RawExchange


class TokenAnswer:
    """The token endpoint's answer, changed: `change(good answer)` gives a new one, or raw bytes."""

    def __init__(self, change: Any) -> None:
        self._change = change

    def apply(self, answer: Answer, request: Seen) -> None:
        changed = self._change(json.loads(answer.body))
        answer.body = changed if isinstance(changed, bytes) else json.dumps(changed).encode()


@pytest.fixture
async def guarded(setup: Setup) -> FakeRegistry:
    """A mirror that gives anybody a token, and nobody anything without."""
    return await setup.registry(auth=BearerAuth(Policy()))


async def test_one_exchange_serves_a_whole_image(setup: Setup, guarded: FakeRegistry, image: Image) -> None:
    guarded.add(image, NAME)
    proxy = setup.proxy(None, guarded)
    assert (await proxy.get(TAG)).data == image.manifest.data
    for part in image.blobs:
        assert (await proxy.get(blob(part.digest))).data == part.data
    (exchange,) = guarded.seen("token")
    assert exchange.query == {"service": "fake", "scope": f"repository:{NAME}:pull"}
    assert exchange.authorization is None
    refused = [request for request in guarded.requests if request.status == 401]
    assert len(refused) == 1, "the token is known, and yet it was left out"


async def test_many_first_asks_at_once_are_one_exchange(setup: Setup, guarded: FakeRegistry) -> None:
    digests = [guarded.content.put_blob(NAME, bytes([number]) * 100) for number in range(20)]
    proxy = setup.proxy(None, guarded)
    replies = await asyncio.gather(*(proxy.get(blob(digest)) for digest in digests))
    assert [got.digest for got in replies] == digests
    assert len(guarded.seen("token")) == 1


async def test_each_repository_and_each_endpoint_has_its_own(setup: Setup, guarded: FakeRegistry, image: Image) -> None:
    origin = await setup.registry(auth=BearerAuth(Policy()))
    for registry, name in (guarded, "library/one"), (guarded, "library/two"), (origin, "library/three"):
        registry.add(image, name)
    proxy = setup.proxy(origin, guarded)
    for name in "library/one", "library/two", "library/three":
        assert (await proxy.get(manifest("1.0", name))).status == 200
    assert [seen.query["scope"].split(":")[1] for seen in guarded.seen("token")] == [
        "library/one",
        "library/two",
        "library/three",
    ]
    assert len(origin.seen("token")) == 1
    auth = origin.auth, guarded.auth
    given = [set(each.tokens) for each in auth if isinstance(each, BearerAuth)]
    for registry, issued in zip((origin, guarded), given, strict=True):
        used = {seen.authorization.removeprefix("Bearer ") for seen in registry.requests if seen.authorization}
        assert used <= issued, "a token of one endpoint was shown to another"
        refused = [seen.authorization for seen in registry.requests if seen.status == 401]
        assert set(refused) == {None}, "a token of one repository was shown for another"


async def test_a_token_that_has_run_out_is_renewed_before_it_is_used(
    setup: Setup, guarded: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(tokens, "time", SimpleNamespace(monotonic=lambda: now))
    digests = [guarded.content.put_blob(NAME, bytes([number]) * 100) for number in range(4)]
    guarded.inject(TokenAnswer(lambda good: {**good, "expires_in": 100}), kind="token")
    proxy = setup.proxy(None, guarded)
    # Not used in its last seconds either: it could run out on the way.
    for digest, later, exchanges in zip(digests, (0, 80, 15, 80), (1, 1, 2, 2), strict=True):
        now += later
        assert (await proxy.get(blob(digest))).digest == digest
        assert len(guarded.seen("token")) == exchanges
    shown = [seen.authorization for seen in guarded.seen("blob") if seen.status == 200]
    assert [shown.count(token) for token in sorted(set(shown), key=shown.index)] == [2, 2]


async def test_a_token_that_is_refused_early_is_renewed(setup: Setup, guarded: FakeRegistry) -> None:
    digests = [guarded.content.put_blob(NAME, bytes([number]) * 100) for number in range(6)]
    proxy = setup.proxy(None, guarded)
    assert (await proxy.get(blob(digests[0]))).status == 200
    assert isinstance(guarded.auth, BearerAuth)
    guarded.auth.tokens.clear()
    replies = await asyncio.gather(*(proxy.get(blob(digest)) for digest in digests[1:]))
    assert [got.digest for got in replies] == digests[1:]
    assert len(guarded.seen("token")) == 2, "one renewal for all of them"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda good: {"access_token": good["token"]}, id="access_token alone"),
        pytest.param(lambda good: {"token": good["token"]}, id="no expires_in"),
        pytest.param(lambda good: {**good, "expires_in": None}, id="expires_in null"),
        pytest.param(lambda good: {**good, "expires_in": "soon"}, id="expires_in no number"),
        pytest.param(lambda good: {**good, "expires_in": -1}, id="expires_in negative"),
        pytest.param(lambda good: {**good, "expires_in": 0}, id="expires_in zero"),
        pytest.param(lambda good: {**good, "expires_in": float("nan")}, id="expires_in NaN"),
        pytest.param(lambda good: {**good, "expires_in": float("inf")}, id="expires_in Infinity"),
        pytest.param(lambda good: {**good, "expires_in": 10**400}, id="expires_in beyond all floats"),
    ],
)
async def test_a_good_token_in_an_odd_answer_is_used(
    change: Any, setup: Setup, guarded: FakeRegistry, image: Image
) -> None:
    guarded.add(image, NAME)
    guarded.inject(TokenAnswer(change), kind="token")
    got = await setup.proxy(None, guarded).get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Status(500), id="500"),
        pytest.param(Status(401), id="401"),
        pytest.param(Status(429), id="429"),
        pytest.param(Status(302, {"Location": "https://127.0.0.1:1/"}), id="redirect"),
        pytest.param(Hang(), id="hangs"),
        pytest.param(TokenAnswer(lambda good: b""), id="empty"),
        pytest.param(TokenAnswer(lambda good: b"<html>"), id="a page"),
        pytest.param(TokenAnswer(lambda good: b"\xff\xfe"), id="no text"),
        pytest.param(TokenAnswer(lambda good: b"[" * 100_000), id="nested without end"),
        pytest.param(TokenAnswer(lambda good: b"9" * 10_000), id="a number without end"),
        pytest.param(TokenAnswer(lambda good: b" " * (2 << 20)), id="too long"),
        pytest.param(TokenAnswer(lambda good: [good]), id="a list"),
        pytest.param(TokenAnswer(lambda good: {}), id="no token"),
        pytest.param(TokenAnswer(lambda good: {"token": 5}), id="a token that is no text"),
        pytest.param(TokenAnswer(lambda good: {"token": ""}), id="an empty token"),
        pytest.param(TokenAnswer(lambda good: {"token": "a\r\nX-Injected: b"}), id="a token with a line break"),
        pytest.param(TokenAnswer(lambda good: {"token": "wrong"}), id="a token that is not good"),
    ],
)
async def test_no_token_to_be_had_means_the_next_endpoint(
    fault: Fault, setup: Setup, origin: FakeRegistry, guarded: FakeRegistry, image: Image
) -> None:
    for registry in origin, guarded:
        registry.add(image, NAME)
    injected = guarded.inject(fault, kind="token")
    proxy = setup.proxy(origin, guarded, settings=dict(QUICK))
    got = await proxy.get(blob(image.config.digest))
    assert (got.status, got.data) == (200, image.config.data)
    assert got.headers["Cache-Status"] == f'mirrortap; fwd=miss; detail="{origin.endpoint}"'
    assert injected.hits
    assert not any("X-Injected" in seen.headers for seen in guarded.requests)


@pytest.mark.parametrize(
    "challenge",
    [
        pytest.param('Bearer realm="http://127.0.0.1:1/token"', id="plain http"),
        pytest.param('Bearer realm=""', id="empty"),
        pytest.param('Bearer service="x"', id="no realm"),
        pytest.param("Bearer", id="no parameters"),
        pytest.param('Bearer realm="/token"', id="relative"),
        pytest.param('Bearer realm="https://"', id="no host"),
        pytest.param('Bearer realm="https://[::1/"', id="a broken address"),
        pytest.param('Bearer realm="https://127.0.0.1:99999/"', id="a port out of range"),
        pytest.param('Bearer realm="https://127.0.0.1:x/"', id="a port that is no number"),
        pytest.param('Bearer realm="file:///etc/passwd"', id="a file"),
        pytest.param("Negotiate", id="another scheme"),
        pytest.param("", id="empty header"),
    ],
)
async def test_a_challenge_that_leads_nowhere_means_the_next_endpoint(
    challenge: str, setup: Setup, origin: FakeRegistry, guarded: FakeRegistry, image: Image
) -> None:
    for registry in origin, guarded:
        registry.add(image, NAME)
    guarded.inject(Challenge(challenge))
    got = await setup.proxy(origin, guarded).get(blob(image.config.digest))
    assert (got.status, got.data) == (200, image.config.data)
    assert guarded.seen("token") == []


@pytest.mark.parametrize(
    "challenges",
    [
        pytest.param(('bearer realm="{realm}", scope="repository:library/app:pull"',), id="lower case"),
        pytest.param(('BEARER scope="repository:library/app:pull" , REALM="{realm}"',), id="in another order"),
        pytest.param(('Basic realm="x"', "{good}"), id="after a Basic one"),
        pytest.param(('Basic realm="x", {good}',), id="after a Basic one in the same header"),
    ],
)
async def test_a_challenge_in_another_form_is_understood(
    challenges: tuple[str, ...], setup: Setup, guarded: FakeRegistry, image: Image
) -> None:
    guarded.add(image, NAME)
    guarded.inject(Challenge(*challenges))
    got = await setup.proxy(None, guarded).get(TAG)
    assert (got.status, got.data) == (200, image.manifest.data)


async def test_a_token_server_elsewhere_gets_nothing_but_the_question(
    setup: Setup, authority: Authority, guarded: FakeRegistry, image: Image
) -> None:
    asked: list[bytes] = []

    async def give(exchange: RawExchange) -> None:
        asked.append(exchange.head)
        await exchange.answer("200 OK", body=b'{"token": "from-elsewhere"}')

    guarded.add(image, NAME)
    assert isinstance(guarded.auth, BearerAuth)
    guarded.auth.tokens["from-elsewhere"] = {NAME: {"pull"}}
    async with RawServer(authority, give) as elsewhere:
        realm = f"https://{elsewhere.endpoint}/auth?tenant=1"
        guarded.inject(Challenge(f'Bearer realm="{realm}",service="a b",scope="repository:{NAME}:pull"'))
        proxy = setup.proxy(None, guarded, leads_to=[elsewhere.endpoint])
        got = await proxy.get(TAG, Authorization="Bearer client-secret")
        assert got.data == image.manifest.data
    (head,) = asked
    line = head.partition(b"\r\n")[0].decode()
    assert line.startswith("GET /auth?tenant=1&")
    assert "service=a+b" in line or "service=a%20b" in line
    assert b"authorization" not in head.lower()
    assert b"client-secret" not in head


async def test_a_token_server_is_not_asked_in_the_clear(
    setup: Setup, origin: FakeRegistry, guarded: FakeRegistry, image: Image
) -> None:
    """Who listens on the way could give a token of his own, and learn what is pulled."""
    listening = await setup.registry(tls=None, auth=guarded.auth)
    for registry in origin, guarded:
        registry.add(image, NAME)
    guarded.inject(Challenge(f'Bearer realm="{listening.url}/token",service="fake",scope="repository:{NAME}:pull"'))
    got = await setup.proxy(origin, guarded, leads_to=[listening.endpoint]).get(TAG)
    assert (got.data, got.served.endpoint) == (image.manifest.data, origin.endpoint)
    assert listening.requests == []


async def test_basic_is_nothing_the_proxy_can_answer(setup: Setup, origin: FakeRegistry, image: Image) -> None:
    """An operator's login for a mirror is not the client's business, nor the client's login the mirror's."""
    mirror = await setup.registry(auth=BasicAuth(Policy(users={"alice": "pw"})))
    for registry in origin, mirror:
        registry.add(image, NAME)
    proxy = setup.proxy(origin, mirror)
    got = await proxy.get(TAG, Authorization="Basic YWxpY2U6cHc=")
    assert (got.data, got.served.endpoint) == (image.manifest.data, origin.endpoint)
    assert [seen.authorization for seen in mirror.requests] == [None] * len(mirror.requests)


async def test_a_head_is_answered_with_a_token_too(setup: Setup, guarded: FakeRegistry, image: Image) -> None:
    guarded.add(image, NAME)
    proxy = setup.proxy(None, guarded)
    for target in TAG, manifest(image.manifest.digest), blob(image.config.digest):
        assert (await proxy.head(target)).status == 200
    assert {seen.method for seen in guarded.seen("manifest") + guarded.seen("blob")} == {"HEAD"}
    assert len(guarded.seen("token")) == 1
