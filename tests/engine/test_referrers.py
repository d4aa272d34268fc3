"""Signatures and the like: a mirror is asked for them where it is said to know, else that is the origin's business."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth
from support.faults import Status

from addon.oci import Digest
from engine.harness import NAME, REGISTRY

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy

SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"


def sign(registry: FakeRegistry, image: Image, by: str) -> str:
    """Adds a manifest that refers to the image; its digest."""
    document = {"schemaVersion": 2, "subject": {"digest": image.manifest.digest}, "annotations": {"by": by}}
    data = json.dumps(document).encode()
    digest = str(Digest.of(data))
    registry.content.repositories[NAME].manifests[digest] = (SIGNATURE, data)
    return digest


def listed(got: Got) -> list[str]:
    assert got.status == 200, got.data
    return [each["digest"] for each in json.loads(got.data)["manifests"]]


def target(image: Image, query: str = "") -> str:
    return f"/v2/{NAME}/referrers/{image.manifest.digest}{query}"


@pytest.fixture
async def knowing(setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry) -> Proxy:
    """In front of a mirror that is said to know of referrers; it and the origin know of one each, of different ones."""
    for registry in origin, mirror:
        registry.add(image, NAME)
    return setup.proxy(origin, _asked(mirror, setup, "pull", "referrers"))


def _asked(mirror: FakeRegistry, setup: Setup, *can: str, **more: object) -> dict[str, object]:
    return {"url": mirror.url, "ca": [setup.ca_file], "capabilities": list(can), **more}


async def test_a_mirror_that_knows_answers(
    knowing: Proxy, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    ours, _ = sign(mirror, image, "mirror"), sign(origin, image, "origin")
    got = await knowing.get(target(image, "?artifactType=a%2Fb"), Accept="application/json")
    assert listed(got) == [ours]
    assert got.headers["OCI-Namespace"] == REGISTRY
    assert not origin.seen("referrers")
    (seen,) = mirror.seen("referrers")
    said = seen.query["artifactType"], seen.query["ns"], seen.headers["Accept"]
    assert said == ("a/b", REGISTRY, "application/json")
    assert (await knowing.head(target(image))).status == 200


async def test_lists_grow_and_are_never_remembered(knowing: Proxy, image: Image, mirror: FakeRegistry) -> None:
    first = sign(mirror, image, "one")
    assert listed(await knowing.get(target(image))) == [first]
    second = sign(mirror, image, "two")
    assert listed(await knowing.get(target(image))) == [first, second]


async def test_when_it_does_not_the_origin_does_with_the_clients_own_credential(
    knowing: Proxy, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    theirs = sign(origin, image, "origin")
    mirror.inject(Status(404), kind="referrers")
    assert listed(await knowing.get(target(image), Authorization=basic("a", "b"))) == [theirs]
    (seen,) = origin.seen("referrers")
    assert seen.authorization == basic("a", "b")
    assert all(seen.authorization is None for seen in mirror.requests)


async def test_a_mirror_of_which_that_is_not_said_is_not_asked(
    setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    """Its empty list would say that nothing is signed."""
    for registry in origin, mirror:
        registry.add(image, NAME)
    theirs = sign(origin, image, "origin")
    assert listed(await setup.proxy(origin, mirror).get(target(image))) == [theirs]
    assert not mirror.requests


async def test_a_list_shows_nothing_of_who_may_read(
    setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    """A registry may list what refers to content that it does not have."""
    origin.auth = BasicAuth(Policy(users={"alice": "secret"}, private={NAME: {"alice"}}))
    for registry in origin, mirror:
        registry.add(image, NAME)
    proxy = setup.proxy(origin, _asked(mirror, setup, "referrers"))
    blob = f"/v2/{NAME}/blobs/{image.config.digest}"
    assert (await proxy.get(blob, Authorization=basic("alice", "secret"))).status == 200
    assert (await proxy.get(target(image))).status == 200
    assert (await proxy.get(blob)).status == 401


async def test_a_mirror_that_knows_the_proxy_is_asked_for_those_who_may_read(
    setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    origin.auth = BasicAuth(Policy(users={"alice": "secret"}, private={NAME: {"alice"}}))
    for registry in origin, mirror:
        registry.add(image, NAME)
    ours = sign(mirror, image, "mirror")
    asked = _asked(mirror, setup, "referrers", headers={"X-Key": "k"})
    proxy = setup.proxy(origin, asked)
    alice = {"Authorization": basic("alice", "secret")}
    refused = await proxy.get(target(image))
    assert (refused.status, refused.headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert not mirror.requests
    assert (await proxy.get(f"/v2/{NAME}/manifests/{image.manifest.digest}", **alice)).status == 200
    assert listed(await proxy.get(target(image), **alice)) == [ours]
    assert [seen.headers["X-Key"] for seen in mirror.requests] == ["k"]
