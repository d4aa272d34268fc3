"""Private images: the origin sees the client's login, mirrors never do, and nobody else gets the bytes."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.certificates import write_bundle
from support.config import toml
from support.faults import Status
from support.images import Image, make_image
from support.processes import needs
from support.proxy import token_from
from support.registry import FakeRegistry
from support.token_server import TokenServer

from e2e.conftest import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.certificates import Authority
    from support.clients import Sandbox
    from support.config import Table
    from support.programs import RealRegistry
    from support.proxy import Proxy
    from support.threads import LoopThread

    from e2e.conftest import Builder, Registries, Serve

pytestmark = needs("skopeo", "docker-registry")

SECRET = "docker.io/team/secret:1.0"
LOGIN = "alice:wonder-land"


@dataclass(frozen=True)
class Origin:
    registry: RealRegistry
    tokens: TokenServer
    image: Image


@pytest.fixture
def origin(tmp_path: Path, authority: Authority, registries: Registries, direct: Sandbox) -> Iterator[Origin]:
    """A TLS registry with token auth; team/secret is alice's, and library/open everybody's."""
    policy = Policy(users={"alice": "wonder-land", "bob": "builder"}, private={"team/secret": {"alice"}})
    image = make_image(tmp_path / "layouts", seed=42)
    with TokenServer(policy, tmp_path, authority.server_context()) as tokens:
        registry = registries("origin", tls=authority.pair(), token_auth=tokens)
        for name in "team/secret:1.0", "library/open:1.0":
            fill(direct, registry, image, name, f"--dest-creds={LOGIN}")
        tokens.requests.clear()
        yield Origin(registry, tokens, image)


@pytest.fixture
def down(loop_thread: LoopThread) -> list[FakeRegistry]:
    """Mirrors that record what they are sent, and have nothing to give."""
    found = [loop_thread.enter(FakeRegistry()) for _ in range(3)]
    found[0].inject(Status(503))
    found[1].inject(Status(401, {"WWW-Authenticate": 'Basic realm="mirror"'}))
    return found


@pytest.fixture
def proxy(origin: Origin, down: list[FakeRegistry], authority: Authority, start_proxy: Serve) -> Proxy:
    table = {
        "mirrors": [mirror.endpoint for mirror in down],
        "server": origin.registry.url,
        "ca": [authority.file],
    }
    tables: dict[str, Table] = {"docker.io": table} | {mirror.endpoint: {"http": True} for mirror in down}
    # A token server on loopback is one that the operator must have named.
    tables[origin.tokens.endpoint] = {"ca": [authority.file]}
    # Tags are believed for long: one that is in the cache could be shown to anybody.
    return start_proxy(toml(tables, {"tag-ttl": "1h"}))


@pytest.fixture
def bundle(tmp_path: Path, proxy: Proxy, authority: Authority) -> Path:
    """Go programs reach loopback past any proxy, so clients meet the token server's own certificate."""
    return write_bundle(tmp_path / "bundle.pem", proxy.ca, authority.file)


def assert_no_credentials(mirrors: list[FakeRegistry]) -> None:
    for mirror in mirrors:
        assert mirror.requests, "the mirror was not asked at all"
        assert [request.authorization for request in mirror.requests if request.authorization] == []


def test_a_private_image_with_the_clients_own_login(
    origin: Origin, down: list[FakeRegistry], proxy: Proxy, builder: Builder, bundle: Path
) -> None:
    """The second time all of it is cached, also for the new token that the client gets for each pull."""
    alice = builder(proxy, "alice", bundle)
    # Blobs may have been here before they were asked for the first time.
    for manifest, caches in ("miss", {"hit", "miss"}), ("hit", {"hit"}):
        mark = len(proxy.log)
        pulled = alice.pull(SECRET, f"--src-creds={LOGIN}")
        assert pulled.digest == origin.image.manifest.digest
        assert pulled.blobs() == {blob.digest: blob.size for blob in origin.image.blobs}
        answered = proxy.wait_answered(1 + len(origin.image.blobs), mark)
        assert {each.cache for each in answered if each.kind == "manifest"} == {manifest}
        assert {each.cache for each in answered} <= caches
    assert basic("alice", "wonder-land") in [request.headers.get("Authorization") for request in origin.tokens.requests]
    assert_no_credentials(down)


def test_a_login_from_an_authfile(origin: Origin, proxy: Proxy, builder: Builder, bundle: Path, tmp_path: Path) -> None:
    auth_file = tmp_path / "config.json"
    auth_file.write_text(json.dumps({"auths": {"docker.io": {"auth": base64.b64encode(LOGIN.encode()).decode()}}}))
    pulled = builder(proxy, "alice", bundle).pull(SECRET, f"--src-authfile={auth_file}")
    assert pulled.digest == origin.image.manifest.digest


def test_nobody_else_gets_a_private_image_that_was_pulled(
    origin: Origin, down: list[FakeRegistry], proxy: Proxy, builder: Builder, bundle: Path
) -> None:
    builder(proxy, "alice", bundle).pull(SECRET, f"--src-creds={LOGIN}")

    said, got = builder(proxy, "anonymous", bundle).pull_refused(SECRET)
    assert got.blobs() == {}
    assert re.search(r"unauthorized|denied|authentication required", said)
    _, got = builder(proxy, "bob", bundle).pull_refused(SECRET, "--src-creds=bob:builder")
    assert got.blobs() == {}
    assert_no_credentials(down)


def test_each_part_of_a_private_image_is_refused_with_the_origins_challenge(
    origin: Origin, proxy: Proxy, builder: Builder, bundle: Path, authority: Authority
) -> None:
    builder(proxy, "alice", bundle).pull(SECRET, f"--src-creds={LOGIN}")
    hub = proxy.client("registry-1.docker.io")
    scope = "repository:team/secret:pull"
    tokens = {
        "none": None,
        "anonymous": token_from(origin.tokens.realm, scope, None, authority.file),
        "another user's": token_from(origin.tokens.realm, scope, basic("bob", "builder"), authority.file),
        "forged": "not.a.token",
    }
    image = origin.image
    parts = [
        "manifests/1.0",
        f"manifests/{image.manifest.digest}",
        *(f"blobs/{blob.digest}" for blob in image.blobs),
        "tags/list",
    ]
    for whose, token in tokens.items():
        headers = {"Accept": image.manifest.media_type} | ({"Authorization": f"Bearer {token}"} if token else {})
        for part in parts:
            for method in "GET", "HEAD":
                answer = hub.request(method, f"/v2/team/secret/{part}", headers)
                assert answer.status == 401, (whose, method, part)
                assert f'realm="{origin.tokens.realm}"' in answer.headers["WWW-Authenticate"]
                assert scope in answer.headers["WWW-Authenticate"]


def test_a_public_image_is_served_with_the_proxys_own_token(
    origin: Origin, down: list[FakeRegistry], proxy: Proxy, builder: Builder, bundle: Path
) -> None:
    """The client's login says nothing about a public image: what it pulled is cached for all."""
    wanted = {blob.digest: blob.size for blob in origin.image.blobs}
    mark = len(proxy.log)
    alice = builder(proxy, "alice", bundle).pull("docker.io/library/open:1.0", f"--src-creds={LOGIN}")
    assert alice.blobs() == wanted
    proxy.wait_answered(1 + len(wanted), mark)
    mark = len(proxy.log)
    assert builder(proxy, "anonymous", bundle).pull("docker.io/library/open:1.0").blobs() == wanted
    assert {each.cache for each in proxy.wait_answered(1 + len(wanted), mark)} == {"hit"}
    assert_no_credentials(down)


def test_no_credential_is_written_down(origin: Origin, proxy: Proxy, builder: Builder, bundle: Path) -> None:
    builder(proxy, "alice", bundle).pull(SECRET, f"--src-creds={LOGIN}")
    proxy.program.stop()
    password = LOGIN.partition(":")[2]
    encoded = basic("alice", password).split()[1]
    token = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.")
    assert not [line for line in proxy.log.all() if password in line or encoded in line or token.search(line)]
    for file in proxy.data.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert password.encode() not in data, file
            assert encoded.encode() not in data, file
            assert not re.search(token.pattern.encode(), data), file
