"""Pushes go to the origin untouched, and a cache never makes one skip a blob (by each client: test_client_table.py)."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPSConnection
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.certificates import write_bundle
from support.config import toml
from support.images import Image, make_image
from support.processes import needs
from support.proxy import exchange
from support.registry import FakeRegistry
from support.token_server import TokenServer

from e2e.conftest import APP, fill

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority
    from support.clients import Sandbox
    from support.programs import RealRegistry
    from support.proxy import Proxy
    from support.threads import LoopThread

    from e2e.conftest import Builder, Registries, Serve

pytestmark = needs("skopeo", "docker-registry")

TEAM_APP = "registry.example/team/app"


@pytest.fixture
def target(registries: Registries, authority: Authority) -> RealRegistry:
    """Where pushes to registry.example and to docker.io end up."""
    return registries("target", tls=authority.pair())


@pytest.fixture
def proxy(target: RealRegistry, mirror: RealRegistry, authority: Authority, start_proxy: Serve) -> Proxy:
    """Pulls of docker.io come from the shared mirror; pushes go to the target."""
    reached = {"server": target.url, "ca": [authority.file]}
    return start_proxy(
        toml(
            {
                "docker.io": {"mirrors": [mirror.endpoint], **reached},
                "registry.example": reached,
                mirror.endpoint: {"http": True},
            }
        )
    )


def assert_holds(direct: Sandbox, registry: RealRegistry, name: str, image: Image) -> None:
    """Looked at past the proxy."""
    held = direct.pull(f"{registry.endpoint}/{name}")
    assert held.digest == image.manifest.digest
    assert held.blobs() == {blob.digest: blob.size for blob in image.blobs}


def test_a_moved_tag_is_seen_by_the_next_pull(proxy: Proxy, builder: Builder, tmp_path: Path) -> None:
    machine = builder(proxy)
    for seed in 1, 2:
        image = make_image(tmp_path / f"layout-{seed}", seed=seed)
        machine.push(image.reference, f"{TEAM_APP}:latest")
        assert machine.pull(f"{TEAM_APP}:latest").digest == image.manifest.digest


@pytest.mark.parametrize("name", ["registry.example/team/copy", "docker.io/team/copy"])
def test_blobs_cached_from_another_repository_are_uploaded_all_the_same(
    name: str,
    app: Image,
    target: RealRegistry,
    proxy: Proxy,
    builder: Builder,
    direct: Sandbox,
    tmp_path: Path,
) -> None:
    """Also to a repository of which the proxy knows that everybody may read it."""
    fill(direct, target, make_image(tmp_path / "layouts", seed=8), "team/copy:before")
    machine = builder(proxy)
    machine.pull(f"{name}:before")
    pulled = machine.pull(APP)
    machine.push(f"dir:{pulled.folder}", f"{name}:1.0")
    assert_holds(direct, target, "team/copy:1.0", app)


def test_blobs_cached_from_a_private_repository_are_uploaded_all_the_same(
    registries: Registries, authority: Authority, start_proxy: Serve, builder: Builder, tmp_path: Path
) -> None:
    """By somebody who may not read that one, and by somebody who may; each blob is then asked for at the registry."""
    users = {"alice": "wonder-land", "bob": "builder"}
    policy = Policy(users, {"team/secret": {"alice"}, "team/alices": {"alice"}, "team/bobs": {"bob"}})
    image = make_image(tmp_path / "layouts", seed=7)
    with TokenServer(policy, tmp_path, authority.server_context()) as tokens:
        registry = registries("private", tls=authority.pair(), token_auth=tokens)
        ca = {"ca": [authority.file]}
        proxy = start_proxy(toml({"registry.example": {"server": registry.url, **ca}, tokens.endpoint: ca}))
        bundle = write_bundle(tmp_path / "bundle.pem", proxy.ca, authority.file)
        alice, bob = (builder(proxy, name, bundle) for name in users)
        secret = "registry.example/team/secret:1.0"
        alice.push(image.reference, secret, "--dest-creds=alice:wonder-land")
        mark = len(proxy.log)
        alice.pull(secret, "--src-creds=alice:wonder-land")
        proxy.wait_answered(1 + len(image.blobs), mark)
        mark = len(proxy.log)
        pulled = alice.pull(secret, "--src-creds=alice:wonder-land")
        assert {each.cache for each in proxy.wait_answered(1 + len(image.blobs), mark)} == {"hit"}

        bob.push(image.reference, "registry.example/team/bobs:1.0", "--dest-creds=bob:builder")
        alice.push(f"dir:{pulled.folder}", "registry.example/team/alices:1.0", "--dest-creds=alice:wonder-land")
        with closing(HTTPSConnection(registry.endpoint, context=authority.client_context())) as direct:
            for user in users:
                login = f"Bearer {tokens.issue(user, [f'repository:team/{user}s:pull'])}"
                for blob in image.blobs:
                    path = f"/v2/team/{user}s/blobs/{blob.digest}"
                    answer = exchange(direct, "GET", path, {"Authorization": login})
                    assert (answer.status, answer.body) == (200, blob.data), path
        registry.stop()
    uploads = [access for access in registry.accesses("/v2/team/bobs/blobs/uploads/") if access.status == 201]
    assert [access.method for access in uploads] == ["PUT"] * len(image.blobs)


def test_a_push_with_a_login_reaches_the_origin_header_by_header(
    authority: Authority, loop_thread: LoopThread, start_proxy: Serve, builder: Builder, tmp_path: Path
) -> None:
    policy = Policy(users={"alice": "wonder-land"}, private={"team/app": {"alice"}})
    origin = loop_thread.enter(FakeRegistry(tls=authority, auth=BearerAuth(policy)))
    image = make_image(tmp_path / "layouts", seed=6)
    proxy = start_proxy(toml({"registry.example": {"server": origin.url, "ca": [authority.file]}}))
    machine = builder(proxy, ca=write_bundle(tmp_path / "bundle.pem", proxy.ca, authority.file))

    machine.push(image.reference, f"{TEAM_APP}:1.0", "--dest-creds=alice:wonder-land")
    held = origin.content.repositories["team/app"]
    assert held.tags == {"1.0": image.manifest.digest}
    assert held.blobs == {blob.digest: blob.data for blob in image.blobs}
    uploaded = sum(request.body_bytes for request in origin.seen("upload") if request.status in (201, 202))
    assert uploaded == sum(blob.size for blob in image.blobs)
    # The client itself asks for tokens.
    (via,) = {request.headers["Via"] for request in origin.requests if request.kind != "token"}
    assert via.startswith("1.1 mirrortap-")


def test_upload_answers_are_the_origins_own(authority: Authority, loop_thread: LoopThread, start_proxy: Serve) -> None:
    """Statuses, headers and bodies of what is not the engine's business, also of refusals."""
    origin = loop_thread.enter(FakeRegistry(tls=authority))
    proxy = start_proxy(toml({"registry.example": {"server": origin.url, "ca": [authority.file]}}))
    client = proxy.client("registry.example")

    started = client.request("POST", "/v2/team/app/blobs/uploads/")
    assert started.status == 202
    location = started.headers["Location"].removeprefix("https://registry.example")
    assert location.startswith("/v2/"), "it leads past the proxy"
    assert started.headers["Docker-Upload-UUID"] in location
    part = client.request("PATCH", location, {"Content-Type": "application/octet-stream"}, b"x" * 70_000)
    assert (part.status, part.headers["Range"]) == (202, "0-69999")
    refused = client.request("PUT", f"{location}?digest=sha256:{'0' * 64}")
    assert refused.status == 400
    assert json.loads(refused.body)["errors"][0]["code"] == "DIGEST_INVALID"
    for answer in started, part, refused:
        assert answer.headers["Cache-Status"] is None
        assert answer.headers["OCI-Namespace"] is None
    assert [(request.method, request.body_bytes) for request in origin.requests] == [
        ("POST", 0),
        ("PATCH", 70_000),
        ("PUT", 0),
    ]


def test_a_deleted_tag_is_gone(
    target: RealRegistry, proxy: Proxy, builder: Builder, direct: Sandbox, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "layouts", seed=9)
    fill(direct, target, image, "team/app:old")
    machine = builder(proxy)
    machine.pull(f"{TEAM_APP}:old")
    machine.skopeo("delete", f"docker://{TEAM_APP}:old")
    said, got = machine.pull_refused(f"{TEAM_APP}:old")
    assert "manifest unknown" in said
    assert got.blobs() == {}
