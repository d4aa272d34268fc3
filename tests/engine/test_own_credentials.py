"""The proxy's own credentials: shown to their own endpoint, and to the token server that it names; to nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.config import toml
from support.faults import Answer, Challenge, Seen, Status
from support.helper import NOT_FOUND, CredentialHelper

from addon.config.current import Current
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.upstream import credentials
from addon.upstream.client import Upstream
from engine.harness import NAME, REGISTRY, TAG, Proxy, RawServer, blob, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import RawExchange

PASSWORD = "s3cret-password"
BASIC = basic("proxy", PASSWORD)


def policy() -> Policy:
    return Policy(users={"proxy": PASSWORD}, private={NAME: {"proxy"}})


class To:
    """Every answer is a redirect to another server's same path."""

    def __init__(self, elsewhere: FakeRegistry) -> None:
        self._elsewhere = elsewhere

    def apply(self, answer: Answer, request: Seen) -> None:
        answer.status, answer.body = 307, b""
        answer.headers["Location"] = f"{self._elsewhere.url}{request.path}"


class Own:
    """Configures credentials; their files are in the test's folder."""

    def __init__(self, folder: Path, authority: Authority, setup: Setup) -> None:
        self.folder = folder
        self._ca = authority.file
        self._setup = setup

    def secret(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        path.chmod(0o600)
        return path

    def password(self, content: str = PASSWORD) -> dict[str, Any]:
        return {"username": "proxy", "password-file": self.secret("password", content)}

    def docker(self, registry: str, **entry: str) -> dict[str, Any]:
        config = {"auths": {registry: entry}}
        return {"docker-config": self.secret(f"{registry}.json", json.dumps(config))}

    def proxy(
        self, mirror: FakeRegistry, auth: dict[str, Any], *others: FakeRegistry, leads_to: Sequence[str] = ()
    ) -> Proxy:
        """A proxy with mirrors alone, the first of which has a credential."""
        tables: dict[str, Any] = {each.endpoint: {"http": False, "ca": [self._ca]} for each in (mirror, *others)}
        # Open: what such a mirror gives shows nothing of what others may read.
        tables[REGISTRY] = {"mirrors": list(tables), "fallback": False, "access": "open"}
        tables[mirror.endpoint]["auth"] = auth
        return self._setup.start(toml(tables | self._leads_to(mirror, *others, at=leads_to), {"prefetch": False}))

    def proxy_of(self, origin: FakeRegistry, auth: dict[str, Any]) -> Proxy:
        """A proxy with an origin alone, which has a credential."""
        tables = {REGISTRY: {"server": origin.url, "ca": [self._ca], "auth": auth}}
        return self._setup.start(toml(tables | self._leads_to(origin), {"prefetch": False}))

    def _leads_to(self, *registries: FakeRegistry, at: Sequence[str] = ()) -> dict[str, Any]:
        """Names their CDNs, and where else they lead, without tables of their own."""
        elsewhere = [*at, *(each.cdn_endpoint for each in registries if each.cdn_endpoint)]
        return {"elsewhere.test": {"mirrors": elsewhere}} if elsewhere else {}


@pytest.fixture
def own(tmp_path: Path, authority: Authority, setup: Setup) -> Own:
    return Own(tmp_path, authority, setup)


@pytest.fixture
async def private(setup: Setup, image: Image) -> FakeRegistry:
    """A mirror that shows NAME to the proxy's user alone, with tokens; its blobs are on a CDN."""
    registry = await setup.registry(auth=BearerAuth(policy(), identities={"identity-token": "proxy"}), cdn=True)
    registry.add(image, NAME)
    return registry


@pytest.fixture
async def plain(setup: Setup, image: Image) -> FakeRegistry:
    """The same with Basic."""
    registry = await setup.registry(auth=BasicAuth(policy()), cdn=True)
    registry.add(image, NAME)
    return registry


@pytest.fixture
def helper(own: Own, monkeypatch: pytest.MonkeyPatch) -> CredentialHelper:
    helper = CredentialHelper(own.folder / "bin")
    helper.on_path(monkeypatch)
    return helper


def helped(own: Own, helper: CredentialHelper, mirror: FakeRegistry) -> dict[str, Any]:
    return {"docker-config": helper.config(own.folder / "config.json", mirror.endpoint)}


def shown(registry: FakeRegistry, kind: str = "*") -> set[str]:
    """What was said of the proxy in any request of that kind."""
    return {seen.authorization for seen in registry.seen(kind) if seen.authorization}


async def pull(proxy: Proxy, image: Image) -> None:
    assert (await proxy.get(TAG)).data == image.manifest.data
    for part in image.blobs:
        assert (await proxy.get(blob(part.digest))).data == part.data


# --- what is shown, and to whom ---


async def test_a_password_buys_one_token_for_an_image(own: Own, private: FakeRegistry, image: Image) -> None:
    await pull(own.proxy(private, own.password()), image)
    (exchange,) = private.seen("token")
    assert exchange.authorization == BASIC
    assert exchange.query == {"service": "fake", "scope": f"repository:{NAME}:pull"}
    assert isinstance(private.auth, BearerAuth)
    (token,) = private.auth.tokens
    assert shown(private, "manifest") | shown(private, "blob") == {f"Bearer {token}"}
    assert shown(private, "cdn") == set()


async def test_a_password_is_shown_at_once_where_it_was_asked_for(own: Own, plain: FakeRegistry, image: Image) -> None:
    await pull(own.proxy(plain, own.password()), image)
    assert [seen.status for seen in plain.requests].count(401) == 1
    assert shown(plain, "manifest") == shown(plain, "blob") == {BASIC}
    assert plain.seen("cdn")
    assert shown(plain, "cdn") == set()


async def test_a_token_is_sent_as_it_is(own: Own, private: FakeRegistry, image: Image) -> None:
    assert isinstance(private.auth, BearerAuth)
    private.auth.tokens["token-as-it-is"] = {NAME: {"pull"}}
    for auth in (
        {"token-file": own.secret("token", "token-as-it-is\n")},
        own.docker(private.endpoint, registrytoken="token-as-it-is", auth="bm90OnRoaXM="),
    ):
        await pull(own.proxy(private, auth), image)
    assert shown(private) == {"Bearer token-as-it-is"}
    assert private.seen("token") == []
    assert 401 not in {seen.status for seen in private.requests}


async def test_an_identity_token_is_posted_to_the_token_server_alone(
    own: Own, private: FakeRegistry, image: Image
) -> None:
    await pull(own.proxy(private, own.docker(private.endpoint, identitytoken="identity-token")), image)
    (exchange,) = private.seen("token")
    assert (exchange.method, exchange.query, exchange.authorization) == ("POST", {}, None)
    assert isinstance(private.auth, BearerAuth)
    (token,) = private.auth.tokens
    assert shown(private) == {f"Bearer {token}"}


async def test_what_docker_login_wrote(own: Own, plain: FakeRegistry, image: Image) -> None:
    await pull(own.proxy(plain, own.docker(plain.endpoint, auth=BASIC.split()[1])), image)
    assert shown(plain) == {BASIC}


async def test_an_origin_too(own: Own, private: FakeRegistry, image: Image) -> None:
    await pull(own.proxy_of(private, own.password() | {"use": "always"}), image)
    assert {seen.authorization for seen in private.seen("token")} == {BASIC}


async def test_each_endpoint_its_own(own: Own, setup: Setup, private: FakeRegistry, image: Image) -> None:
    """What is anonymous stays so, and gets no token that was bought with the credential."""
    other = await setup.registry(auth=private.auth)
    got = await own.proxy(private, own.password(), other).get(manifest("2.0"))
    assert got.status == 403
    assert (private.seen("manifest")[-1].status, other.seen("manifest")[-1].status) == (404, 401)
    assert [seen.authorization for seen in other.seen("token")] == [None]
    assert isinstance(private.auth, BearerAuth)
    bought = next(iter(private.auth.tokens))
    assert f"Bearer {bought}" in shown(private)
    assert f"Bearer {bought}" not in shown(other)


@pytest.mark.parametrize("how", ["password", "docker"])
@pytest.mark.parametrize("kind", [BasicAuth, BearerAuth])
async def test_who_is_redirected_to_gets_nothing(
    kind: Any, how: str, own: Own, setup: Setup, plain: FakeRegistry, image: Image
) -> None:
    """However it asks: with a challenge of its own, even by the same host name at another port."""
    elsewhere = await setup.registry(auth=kind(policy()))
    elsewhere.add(image, NAME)
    auth = own.password() if how == "password" else own.docker(plain.endpoint, registrytoken="its-token")
    proxy = own.proxy(plain, auth, leads_to=[elsewhere.endpoint])
    plain.auth = None
    plain.inject(To(elsewhere), kind="manifest")
    assert (await proxy.get(TAG)).status == 403
    plain.auth = kind(policy())
    await proxy.get(TAG)
    assert elsewhere.requests
    secrets = {BASIC, "Bearer its-token"}
    assert not secrets & shown(elsewhere)


async def test_what_the_credential_buys_is_not_for_anybody(own: Own, private: FakeRegistry, image: Image) -> None:
    """The same endpoint asked as anybody, before and after: that must say what anybody may have."""
    config = own.proxy(private, own.password()).config
    (endpoint,) = config.rules[REGISTRY].mirrors
    upstream = Upstream(Current(config), Via(Fingerprints(b"tests")))
    try:
        for auth, status in (None, 401), (endpoint.auth, 200), (None, 401), (endpoint.auth, 200):
            asked = replace(endpoint, auth=auth)
            response = await upstream.pull(asked, "HEAD", NAME, "manifests/1.0", [], registry=REGISTRY)
            await response.close()
            assert response.status == status
    finally:
        await upstream.close()
    assert [seen.authorization for seen in private.seen("token")].count(BASIC) == 1


async def test_a_token_server_elsewhere_is_the_endpoints_word(
    own: Own, authority: Authority, private: FakeRegistry, image: Image
) -> None:
    """As auth.docker.io is for registry-1.docker.io: it gets the password, and the token goes back to the endpoint."""

    async def give(exchange: RawExchange) -> None:
        await exchange.answer("200 OK", body=b'{"token": "from-elsewhere"}')

    assert isinstance(private.auth, BearerAuth)
    private.auth.tokens["from-elsewhere"] = {NAME: {"pull"}}
    async with RawServer(authority, give) as elsewhere:
        private.inject(Challenge(f'Bearer realm="https://{elsewhere.endpoint}/auth",service="a"'))
        await pull(own.proxy(private, own.password(), leads_to=[elsewhere.endpoint]), image)
    (head,) = elsewhere.heads
    assert f"Authorization: {BASIC}".encode() in head
    assert shown(private) == {"Bearer from-elsewhere"}


async def test_a_token_server_in_the_clear_gets_nothing(own: Own, setup: Setup, private: FakeRegistry) -> None:
    listening = await setup.registry(tls=None, auth=private.auth)
    private.inject(Challenge(f'Bearer realm="{listening.url}/token",service="fake"'))
    got = await own.proxy(private, own.password()).get(TAG)
    assert got.status == 502
    assert "names a token server without https, to which a credential must not be shown" in got.error["message"]
    assert listening.requests == []


# --- what is refused, or cannot be had ---


async def test_a_wrong_password_is_tried_once_and_the_next_endpoint_answers(
    own: Own, private: FakeRegistry, mirror: FakeRegistry, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(image, NAME)
    proxy = own.proxy(private, own.password("wrong"), mirror)
    await pull(proxy, image)
    assert len(private.seen("token")) == 1
    was_refused = f"the credential for {private.endpoint} (from {own.folder}/password) was refused"
    assert [message for message in caplog.messages if was_refused in message]
    mirror.inject(Status(404))
    got = await proxy.get(manifest("2.0"))
    assert got.status == 403
    assert f"{private.endpoint}: {was_refused}" in got.error["message"]
    # What it should have been is taken at once.
    own.password()
    private.content.repositories[NAME].tags["3.0"] = image.manifest.digest
    assert (await proxy.get(manifest("3.0"))).data == image.manifest.data
    assert [seen.status for seen in private.seen("token")] == [401, 200]


async def test_a_wrong_password_without_tokens(own: Own, plain: FakeRegistry) -> None:
    proxy = own.proxy(plain, own.password("wrong"))
    for _ in range(3):
        got = await proxy.get(TAG)
        assert (got.status, "was refused" in got.error["message"]) == (403, True)
    assert [seen.authorization for seen in plain.requests] == [None, basic("proxy", "wrong")]


async def test_a_token_that_is_refused(own: Own, private: FakeRegistry) -> None:
    proxy = own.proxy(private, {"token-file": own.secret("token", "no-good")})
    for _ in range(3):
        assert "was refused" in (await proxy.get(TAG)).error["message"]
    assert [seen.authorization for seen in private.requests] == ["Bearer no-good"]


async def test_an_identity_token_that_is_refused_or_not_taken(own: Own, private: FakeRegistry, setup: Setup) -> None:
    proxy = own.proxy(private, own.docker(private.endpoint, identitytoken="no-good"))
    for _ in range(2):
        assert "was refused" in (await proxy.get(TAG)).error["message"]
    assert len(private.seen("token")) == 1
    assert isinstance(private.auth, BearerAuth)
    private.auth.identities.clear()
    got = await own.proxy(private, own.docker(private.endpoint, identitytoken="identity-token")).get(TAG)
    host = private.endpoint
    assert f"the token server at {host} does not take identity tokens (HTTP 405): use a password" in str(got.error)
    basic_alone = await setup.registry(auth=BasicAuth(Policy()))
    got = await own.proxy(basic_alone, own.docker(basic_alone.endpoint, identitytoken="identity-token")).get(TAG)
    assert "asks for a name and a password" in str(got.error)
    assert shown(basic_alone) == set()


async def test_a_repository_that_the_credential_may_not_read(
    own: Own, private: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    """That is no reason to think less of the credential, nor of the endpoint."""
    mirror.add(image, NAME)
    denied = private.inject(Status(403), kind="token")
    proxy = own.proxy(private, own.password(), mirror)
    assert (await proxy.get(TAG)).served.endpoint == mirror.endpoint
    denied.times = denied.hits
    got = await proxy.get(blob(image.layers[0].digest))
    assert (got.data, got.served.endpoint) == (image.layers[0].data, private.endpoint)


@pytest.mark.parametrize("answer", [b"{}", b"[", b'{"token": "a b"}'])
async def test_a_token_server_that_gives_no_token(answer: bytes, own: Own, private: FakeRegistry) -> None:
    private.inject(Status(200, body=answer), kind="token")
    got = await own.proxy(private, own.password()).get(TAG)
    assert got.status == 502
    assert f"the token server at {private.endpoint} answered HTTP 200 without a token" in got.error["message"]


async def test_a_token_server_that_fails(own: Own, private: FakeRegistry) -> None:
    private.inject(Status(503), kind="token")
    got = await own.proxy(private, own.password()).get(TAG)
    assert (got.status, "answered HTTP 503" in got.error["message"]) == (502, True)


async def test_a_credential_that_cannot_be_had_is_not_replaced_by_none(
    own: Own, private: FakeRegistry, mirror: FakeRegistry, image: Image, helper: CredentialHelper
) -> None:
    """Not even at a mirror that would show this to everybody."""
    private.auth = BearerAuth(Policy())
    mirror.add(image, NAME)
    proxy = own.proxy(private, helped(own, helper, private), mirror)
    helper.says(f"{PASSWORD} {NOT_FOUND}", 1)
    assert (await proxy.get(TAG)).served.endpoint == mirror.endpoint
    assert private.requests == []
    mirror.inject(Status(404))
    got = await proxy.get(manifest("2.0"))
    assert got.status == 502
    told = f"(from {own.folder}/config.json) cannot be had: docker-credential-test ended with exit code 1"
    assert told in got.error["message"]
    assert PASSWORD not in str(got)
    assert private.requests == []


async def test_a_helpers_secret_that_has_run_out_is_renewed(
    own: Own, plain: FakeRegistry, image: Image, helper: CredentialHelper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ECR's do after 12 hours: what was held is refused, and the helper has another."""
    monkeypatch.setattr(credentials, "_LIFE_MIN", 0)
    helper.gives("proxy", PASSWORD)
    proxy = own.proxy(plain, helped(own, helper, plain))
    assert (await proxy.get(TAG)).data == image.manifest.data
    plain.auth = BasicAuth(Policy(users={"proxy": "n3xt-password"}))
    helper.gives("proxy", "n3xt-password")
    replies = await asyncio.gather(*(proxy.get(blob(part.digest)) for part in image.blobs))
    assert [got.data for got in replies] == [part.data for part in image.blobs]
    assert len(helper.runs) == 2


# --- where it must not show ---


async def test_no_secret_is_written_down_or_told(
    own: Own,
    setup: Setup,
    private: FakeRegistry,
    plain: FakeRegistry,
    image: Image,
    helper: CredentialHelper,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passwords, tokens, what helpers say, what is exchanged for them, and what clients log in with."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    monkeypatch.setenv("THE_TOKEN", "token-from-env")
    helper.gives("proxy", PASSWORD)
    assert isinstance(private.auth, BearerAuth)
    private.auth.tokens["token-from-file"] = {NAME: {"pull"}}
    proxies = [
        own.proxy(private, own.password()),
        own.proxy(private, {"token-file": own.secret("token", "token-from-file")}),
        own.proxy(private, {"token-env": "THE_TOKEN"}),
        own.proxy(plain, helped(own, helper, plain)),
        own.proxy_of(private, own.docker(REGISTRY, identitytoken="no-such-identity")),
    ]
    for proxy in proxies:
        for target in TAG, manifest("absent"), *(blob(part.digest) for part in image.blobs):
            told.append(str(await proxy.get(target)))

    async def body() -> AsyncIterator[bytes]:
        yield b"pushed"

    clients = {"Authorization": "Bearer the-clients-own"}
    private.auth.tokens["the-clients-own"] = {NAME: {"pull", "push"}}
    origin = setup.proxy(private)
    for method, target in ("GET", TAG), ("POST", f"/v2/{NAME}/blobs/uploads/"), ("PUT", manifest("pushed")):
        got = await origin.fetch(method, target, clients, body=body() if method != "GET" else None)
        told.append(str(got))
        assert got.status < 400 or method == "PUT"
    assert (await origin.get(TAG, **clients)).data == image.manifest.data

    for proxy in proxies:
        upstream = proxy.engine._upstream
        objects = [proxy.config, *vars(upstream).values(), *vars(upstream._credentials).values()]
        objects += vars(upstream._authorizations).values()
        objects += vars(upstream._authorizations._tokens).values()
        told += map(repr, objects)
    secrets = {PASSWORD, BASIC.split()[1], "token-from-file", "token-from-env", "the-clients-own", "no-such-identity"}
    secrets |= private.auth.tokens.keys()
    assert any(PASSWORD in str(seen.headers) or BASIC in str(seen.headers) for seen in private.requests)
    for each in (*proxies, origin):
        await each.close()
    files = [path for proxy in (*proxies, origin) for path in proxy.cache.parent.rglob("*") if path.is_file()]
    assert files
    for secret in secrets:
        assert secret not in caplog.text
        assert not [text for text in told if secret in text]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
