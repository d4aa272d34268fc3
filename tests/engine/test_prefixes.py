"""Rules for parts of registries and for families of them, as registries.conf has them: who is asked, and for what."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.config import toml
from support.together import Together

from addon.config.load import load
from engine.harness import NAME, REGISTRY, TAG, blob, manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.certificates import Authority
    from support.config import Table
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got, Proxy

ALICE = {"Authorization": basic("alice", "secret")}
HIDDEN = Policy(users={"alice": "secret"}, private={"hub/app": {"alice"}})


@dataclass
class Site:
    """Configures proxies with a registries.conf beside a file that says whom to trust."""

    setup: Setup
    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "registries.conf"

    def proxy(self, conf: str, *trusted: FakeRegistry, tables: Mapping[str, Table] | None = None) -> Proxy:
        self.conf.write_text(conf)
        trust = {each.endpoint: {"http": False, "ca": [self.setup.ca_file]} for each in trusted}
        own = self.folder / "own.toml"
        own.write_text(toml({**trust, **(tables or {})}, {"hedge-delay": "0s", "prefetch": False}))
        return self.setup.start("", tuned=lambda _: load([self.conf, own]))


@pytest.fixture
def site(setup: Setup, tmp_path: Path) -> Site:
    return Site(setup, tmp_path)


def table(prefix: str, location: str, *more: str) -> str:
    return "\n".join(["[[registry]]", f'prefix = "{prefix}"', f'location = "{location}"', *more, ""])


def mirrors(*tables: str) -> str:
    return "\n".join(f"[[registry.mirror]]\nlocation = {each}" for each in tables)


def paths(registry: FakeRegistry) -> list[str]:
    """What it was asked, each thing once."""
    return list(dict.fromkeys(seen.path for seen in registry.requests))


# --- where a part of a registry is ---


async def everything(proxy: Proxy, image: Image, name: str) -> dict[str, Got]:
    """One of each question about a repository."""
    return {
        "by tag": await proxy.get(manifest("1.0", name)),
        "head": await proxy.head(manifest("1.0", name)),
        "by digest": await proxy.get(manifest(image.manifest.digest, name)),
        "blob": await proxy.get(blob(image.config.digest, name)),
        "tags": await proxy.get(f"/v2/{name}/tags/list?n=5"),
        "referrers": await proxy.get(f"/v2/{name}/referrers/{image.manifest.digest}?artifactType=a%2Fb"),
    }


@pytest.mark.parametrize(
    ("prefix", "path", "name", "there"),
    [
        (REGISTRY, "/hub", NAME, "hub/library/app"),
        (f"{REGISTRY}/library", "/hub", NAME, "hub/app"),
        (f"{REGISTRY}/library", "/a/b", "library/deep/app", "a/b/deep/app"),
        (f"{REGISTRY}/library", "", NAME, "app"),
        (f"{REGISTRY}/library/app", "/hub/other", NAME, "hub/other"),
        (f"{REGISTRY}/library", "/library", NAME, NAME),
        ("*.test", "/hub", NAME, "hub/library/app"),
    ],
)
async def test_every_question_is_asked_at_the_location(
    prefix: str, path: str, name: str, there: str, site: Site, image: Image, origin: FakeRegistry
) -> None:
    origin.add(image, there)
    got = await everything(site.proxy(table(prefix, f"{origin.endpoint}{path}"), origin), image, name)
    assert {what: each.status for what, each in got.items()} == dict.fromkeys(got, 200)
    for what, digest in {"by tag": image.manifest.digest, "blob": image.config.digest}.items():
        assert got[what].digest == digest
    assert json.loads(got["tags"].data) == {"name": there, "tags": ["1.0"]}
    assert paths(origin) == [
        f"/v2/{there}/{rest}"
        for rest in (
            "manifests/1.0",
            f"manifests/{image.manifest.digest}",
            f"blobs/{image.config.digest}",
            "tags/list",
            f"referrers/{image.manifest.digest}",
        )
    ]
    assert [seen.query for seen in origin.seen("tags") + origin.seen("referrers")] == [
        {"n": "5"},
        {"artifactType": "a/b"},
    ]


async def test_a_mirror_of_a_part(site: Site, image: Image, origin: FakeRegistry, mirror: FakeRegistry) -> None:
    mirror.add(image, "hub/app")
    conf = table(f"{REGISTRY}/library", f"{origin.endpoint}/up", mirrors(f'"{mirror.endpoint}/hub"'))
    got = await everything(site.proxy(conf, origin, mirror), image, NAME)
    assert {what: each.status for what, each in got.items()} == {**dict.fromkeys(got, 200)}
    assert got["blob"].digest == image.config.digest
    assert all(seen.path.startswith("/v2/hub/app/") and not seen.query for seen in mirror.requests)
    # Whatever no mirror is said to know is the origin's business.
    assert [(seen.kind, seen.path.split("/app/")[0]) for seen in origin.requests] == [
        ("tags", "/v2/up"),
        ("referrers", "/v2/up"),
    ]


async def test_the_longest_prefix_decides(site: Site, image: Image, setup: Setup) -> None:
    whole, part, one = [await setup.registry() for _ in range(3)]
    conf = table(REGISTRY, f"{whole.endpoint}/w") + table(f"{REGISTRY}/library", f"{part.endpoint}/p")
    proxy = site.proxy(conf + table(f"{REGISTRY}/library/app", f"{one.endpoint}/o"), whole, part, one)
    for name in ("library/app", "library/app/x", "library/apple", "library-x/app", "other"):
        await proxy.get(manifest("1.0", name))
    assert (await proxy.get("/v2/")).status == 200
    asked = [list(dict.fromkeys(seen.path for seen in each.requests)) for each in (whole, part, one)]
    assert asked == [
        ["/v2/w/library-x/app/manifests/1.0", "/v2/w/other/manifests/1.0", "/v2/"],
        ["/v2/p/apple/manifests/1.0"],
        ["/v2/o/manifests/1.0", "/v2/o/x/manifests/1.0"],
    ]


async def test_hosts_of_a_wildcard_are_several_registries(site: Site, image: Image, origin: FakeRegistry) -> None:
    origin.add(image, "corp/app")
    proxy = site.proxy(table("*.corp.test", f"{origin.endpoint}/corp"), origin)
    for host in ("a.corp.test", "b.c.corp.test"):
        before = len(origin.requests)
        got = await proxy.get(blob(image.config.digest, "app"), registry=host)
        assert (got.status, got.digest) == (200, image.config.digest)
        # What one has says nothing of what the other has.
        assert len(origin.requests) > before
        before = len(origin.requests)
        assert (await proxy.get(blob(image.config.digest, "app"), registry=host)).served.how == "hit"
        assert len(origin.requests) == before
    assert proxy.config.rule("corp.test", 443) is None


async def test_pushes_to_a_part_that_is_elsewhere(site: Site, image: Image, origin: FakeRegistry) -> None:
    """The answers would name paths there, which clients would then ask us for; and the client itself would not."""
    same = table(f"{REGISTRY}/same", f"{origin.endpoint}/same")
    proxy = site.proxy(table(f"{REGISTRY}/library", f"{origin.endpoint}/hub") + same, origin)
    for method, target in (
        ("POST", f"/v2/{NAME}/blobs/uploads/"),
        ("PUT", manifest("1.0")),
        ("DELETE", manifest(image.manifest.digest)),
        ("POST", "/v2/same/app/blobs/uploads/"),
    ):
        got = await proxy.fetch(method, target, ALICE)
        assert (got.status, got.error["code"]) == (405, "UNSUPPORTED")
        assert f"is served from {origin.endpoint}/" in got.error["message"]
    assert not origin.requests


# --- what is blocked ---


async def test_nothing_is_given_of_what_is_blocked(
    site: Site, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    origin.add(image, NAME)
    proxy = site.proxy(table(REGISTRY, origin.endpoint), origin)
    assert (await proxy.get(blob(image.config.digest))).status == 200
    before = len(origin.requests)
    # Nor of what is cached of it.
    site.conf.write_text(table(REGISTRY, origin.endpoint, "blocked = true"))
    blocking = site.setup.beside(proxy, tuned=lambda _: load([site.conf]))
    for method, target in (
        ("GET", TAG),
        ("GET", blob(image.config.digest)),
        ("HEAD", manifest(image.manifest.digest)),
        ("GET", f"/v2/{NAME}/tags/list"),
        ("POST", f"/v2/{NAME}/blobs/uploads/"),
        ("GET", "/v2/"),
    ):
        got = await blocking.fetch(method, target, ALICE)
        assert got.status == 403
        if method != "HEAD":
            assert got.error["code"] == "DENIED"
            assert f"{REGISTRY} is blocked here (blocked = true in {site.conf}: registry[0])" in got.error["message"]
    assert len(origin.requests) == before


async def test_a_part_of_what_is_blocked(site: Site, image: Image, origin: FakeRegistry) -> None:
    """Clients that may have the part must find out how to log in."""
    origin.add(image, "app")
    conf = table(REGISTRY, REGISTRY, "blocked = true") + table(f"{REGISTRY}/library", origin.endpoint)
    proxy = site.proxy(conf, origin)
    assert (await proxy.get(TAG)).digest == image.manifest.digest
    assert (await proxy.get(manifest("1.0", "other/app"))).status == 403
    # There is no such host to ask, so this is for want of its own answer.
    assert (await proxy.get("/v2/")).served.how == "in place of"


async def test_a_part_that_is_blocked(site: Site, image: Image, origin: FakeRegistry) -> None:
    origin.add(image, NAME)
    origin.add(image, "secret/app")
    conf = table(REGISTRY, origin.endpoint) + table(f"{REGISTRY}/secret", f"{REGISTRY}/secret", "blocked = true")
    proxy = site.proxy(conf, origin)
    assert (await proxy.get(blob(image.config.digest))).status == 200
    got = await proxy.get(blob(image.config.digest, "secret/app"))
    assert (got.status, got.error["code"]) == (403, "DENIED")
    assert f"{REGISTRY}/secret is blocked here" in got.error["message"]
    for way in "library/../secret/app", "library/%2e%2e/secret/app", "/secret/app", "sec%72et/app", "./secret/app":
        for method, what in ("GET", "tags/list"), ("POST", "blobs/uploads/"), ("PUT", "manifests/1.0"):
            got = await proxy.fetch(method, f"/v2/{way}/{what}")
            assert got.status == 403, (method, way)
    got = await proxy.get("/v2/secret/../library/app/tags/list")
    assert (got.status, got.error["code"]) == (400, "NAME_INVALID")
    assert "secret" not in str(paths(origin))


async def test_from_mirrors_or_not_at_all(
    site: Site, image: Image, other: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    """OpenShift's NeverContactSource."""
    mirror.add(image, NAME)
    origin.add(other, NAME)
    conf = table(REGISTRY, origin.endpoint, "blocked = true", mirrors(f'"{mirror.endpoint}"'))
    proxy = site.proxy(conf, origin, mirror)
    assert (await proxy.get(TAG)).digest == image.manifest.digest
    assert (await proxy.get(blob(other.config.digest))).status == 404
    assert not origin.requests


# --- what mirrors may be asked for ---


async def test_mirrors_for_tags_or_digests_alone(site: Site, image: Image, setup: Setup) -> None:
    together, found = Together(), {name: await setup.registry() for name in ("digests", "tags", "all", "origin")}
    for name, registry in found.items():
        together.note(name, registry)
    conf = table(
        REGISTRY,
        found["origin"].endpoint,
        mirrors(
            f'"{found["tags"].endpoint}"\npull-from-mirror = "tag-only"',
            f'"{found["digests"].endpoint}"\npull-from-mirror = "digest-only"',
            f'"{found["all"].endpoint}"\npull-from-mirror = "all"',
        ),
    )
    proxy = site.proxy(conf, *found.values())

    async def order(kind: str, reference: str) -> list[str]:
        assert (await proxy.get(f"/v2/{NAME}/{kind}s/{reference}")).status == 404
        return [each.split()[0] for each in together.asked_for(kind, reference)]

    assert await order("manifest", "1.0") == ["tags", "all", "origin"]
    # What an index by tag leads to is asked for like this, too.
    assert await order("manifest", image.manifest.digest) == ["digests", "all", "origin", "tags"]
    assert await order("blob", image.config.digest) == ["tags", "digests", "all", "origin"]


async def test_a_mirror_for_digests_has_what_the_origins_tag_points_at(
    site: Site, image: Image, other: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    """Its own tag may be an old one; the content is the same anywhere."""
    origin.add(image, NAME)
    mirror.add(image, NAME)
    mirror.add(other, NAME)
    conf = table(REGISTRY, origin.endpoint, "mirror-by-digest-only = true", mirrors(f'"{mirror.endpoint}"'))
    got = await site.proxy(conf, origin, mirror).get(TAG)
    assert (got.digest, got.served.endpoint) == (image.manifest.digest, mirror.endpoint)
    assert [seen.method for seen in origin.requests] == ["HEAD"]
    assert not mirror.seen("manifest", path="1.0")


async def test_nobody_may_be_asked_for_tags(site: Site, image: Image, mirror: FakeRegistry) -> None:
    mirror.add(image, NAME)
    conf = table(REGISTRY, REGISTRY, "mirror-by-digest-only = true", "blocked = true", mirrors(f'"{mirror.endpoint}"'))
    proxy = site.proxy(conf, mirror)
    got = await proxy.get(TAG)
    assert (got.status, got.error["code"]) == (404, "MANIFEST_UNKNOWN")
    assert "none of its mirrors may be asked for tags" in got.error["message"]
    assert f"{site.conf}: registry[0]" in got.error["message"]
    assert (await proxy.get(manifest(image.manifest.digest))).digest == image.manifest.digest


# --- insecure: with TLS that is not verified, else without any ---


async def test_insecure_is_either_and_one_endpoint(site: Site, image: Image, setup: Setup, stranger: Authority) -> None:
    """Who answers is not asked the other way, too; and who has it not is not taken for one that failed."""
    plain, strange = await setup.registry(tls=None), await setup.registry(tls=stranger)
    for registry in plain, strange:
        as_mirror = mirrors(f'"{registry.endpoint}"\ninsecure = true')
        missing = await site.proxy(table(REGISTRY, REGISTRY, "blocked = true", as_mirror)).get(TAG)
        assert (missing.status, missing.error["code"]) == (404, "MANIFEST_UNKNOWN")
        assert missing.error["detail"] == [{"endpoint": registry.endpoint, "reason": "HTTP 404"}]
        assert [seen.method for seen in registry.requests] == ["HEAD"]
        proxy = site.proxy(table(REGISTRY, registry.endpoint, "insecure = true"))
        assert (await proxy.get(TAG)).status == 404
        registry.add(image, NAME)
        assert (await proxy.get(TAG)).digest == image.manifest.digest
        assert (await proxy.get(blob(image.config.digest))).digest == image.config.digest
        assert (await proxy.get(f"/v2/{NAME}/tags/list")).status == 200
        assert (await proxy.get(blob(image.layers[0].digest, "absent"))).status == 404


async def test_what_is_not_insecure_is_verified(site: Site, image: Image, setup: Setup, stranger: Authority) -> None:
    plain, strange = await setup.registry(tls=None), await setup.registry(tls=stranger)
    for registry in plain, strange:
        registry.add(image, NAME)
        got = await site.proxy(table(REGISTRY, registry.endpoint)).get(TAG)
        assert (got.status, got.error["code"]) == (502, "UNAVAILABLE")
        assert not registry.requests


# --- what clients show of themselves ---


async def test_a_part_that_is_elsewhere_does_not_hear_clients(site: Site, image: Image, setup: Setup) -> None:
    """They have logged in to whoever answers /v2/: that is somebody else."""
    elsewhere = await setup.registry(auth=BasicAuth(HIDDEN))
    elsewhere.add(image, "hub/app")
    proxy = site.proxy(table(f"{REGISTRY}/library", f"{elsewhere.endpoint}/hub"), elsewhere)
    for target in (TAG, blob(image.config.digest), f"/v2/{NAME}/tags/list"):
        got = await proxy.get(target, **ALICE)
        assert (got.status, got.error["code"]) == (403, "DENIED")
        assert f"{elsewhere.endpoint}/hub" in got.error["message"]
        assert "WWW-Authenticate" not in got.headers
    assert elsewhere.requests
    assert all(seen.authorization is None for seen in elsewhere.requests)


async def test_but_the_proxy_may_log_in_there(site: Site, image: Image, setup: Setup, tmp_path: Path) -> None:
    elsewhere = await setup.registry(auth=BearerAuth(HIDDEN))
    elsewhere.add(image, "hub/app")
    elsewhere.add(image, "public/app")
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    conf = table(f"{REGISTRY}/library", f"{elsewhere.endpoint}/hub") + table(
        f"{REGISTRY}/public", f"{elsewhere.endpoint}/public"
    )
    # As anybody, with a token for anybody.
    proxy = site.proxy(conf, elsewhere)
    for target in (manifest("1.0", "public/app"), "/v2/public/app/tags/list"):
        assert (await proxy.get(target, **ALICE)).status == 200
    assert (await proxy.get(TAG, **ALICE)).status == 403
    login = {"username": "alice", "password-file": tmp_path / "password", "use": "always"}
    own = {elsewhere.endpoint: {"http": False, "ca": [setup.ca_file], "auth": login}}
    proxy = site.proxy(conf, tables=own)
    for target in (TAG, blob(image.config.digest), f"/v2/{NAME}/tags/list"):
        assert (await proxy.get(target)).status == 200
    assert all(seen.authorization != ALICE["Authorization"] for seen in elsewhere.requests if seen.kind != "token")


async def test_where_all_of_it_is_clients_log_in(site: Site, image: Image, setup: Setup) -> None:
    origin = await setup.registry(auth=BasicAuth(HIDDEN))
    origin.add(image, "hub/app")
    conf = table(REGISTRY, f"{origin.endpoint}/all") + table(f"{REGISTRY}/library", f"{origin.endpoint}/hub")
    proxy = site.proxy(conf, origin)
    challenge = await proxy.get("/v2/")
    assert (challenge.status, challenge.headers["WWW-Authenticate"]) == (401, 'Basic realm="fake"')
    assert (await proxy.get(TAG)).status == 401
    for target in (TAG, blob(image.config.digest), f"/v2/{NAME}/tags/list"):
        assert (await proxy.get(target, **ALICE)).status == 200


# --- what our own tables say of a mirror ---


def native(mirror: FakeRegistry | str, setup: Setup, **more: object) -> Table:
    url = mirror if isinstance(mirror, str) else mirror.url
    return {"url": url, "ca": [setup.ca_file], **more}


@pytest.mark.parametrize(
    ("mode", "path", "there"),
    [
        ("after-v2", "/hub", "/v2/hub/library/app"),
        ("before-v2", "/hub", "/hub/v2/library/app"),
        ("as-is", "/v2/hub", "/v2/hub/library/app"),
        ("as-is", "/hub", "/hub/library/app"),
        ("as-is", "", "/library/app"),
        ("replaced", "/hub", "/v2/hub/app"),
        ("replaced", "", "/v2/app"),
    ],
)
async def test_path_modes(
    mode: str, path: str, there: str, setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    origin.add(image, NAME)
    tables = {"mirrors": [native(f"{mirror.url}{path}", setup, **{"path-mode": mode})]}
    proxy = setup.proxy(origin, more=[toml({f"{REGISTRY}/library": tables}).replace("[mirrortap]\n", "")])
    await proxy.get(TAG)
    await proxy.get(blob(image.config.digest))
    assert paths(mirror)[0] == f"{there}/manifests/1.0"
    assert paths(mirror)[-1] == f"{there}/blobs/{image.config.digest}"


async def test_headers_go_to_that_mirror_alone(
    setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry
) -> None:
    """Not to the other endpoints, not to its token server or the hosts that it redirects to."""
    origin.add(image, NAME)
    mirror.add(image, NAME)
    redirecting = await setup.registry(cdn=True)
    redirecting.content = mirror.content
    headers = {"X-Key": "secret", "X-Other": "1"}
    first = native(redirecting, setup, headers=headers)
    assert redirecting.cdn_endpoint
    proxy = setup.proxy(origin, first, native(mirror, setup), leads_to=[redirecting.cdn_endpoint], access="open")
    assert (await proxy.get(TAG)).status == 200
    assert (await proxy.get(blob(image.config.digest))).digest == image.config.digest
    assert {seen.kind for seen in redirecting.requests} == {"manifest", "blob", "cdn"}
    for seen in redirecting.requests:
        expected = (None, None) if seen.kind == "cdn" else ("secret", "1")
        assert (seen.headers.get("X-Key"), seen.headers.get("X-Other")) == expected
    redirecting.content = type(redirecting.content)()
    assert (await proxy.get(blob(image.layers[0].digest))).digest == image.layers[0].digest
    assert mirror.requests
    assert not any("X-Key" in seen.headers for seen in (*mirror.requests, *origin.requests))


async def test_ns_is_told_or_not(setup: Setup, image: Image, origin: FakeRegistry, mirror: FakeRegistry) -> None:
    deaf = await setup.registry()
    origin.add(image, NAME)
    proxy = setup.proxy(origin, native(deaf, setup, ns=False), native(mirror, setup))
    assert (await proxy.get(TAG)).status == 200
    assert (await proxy.get(blob(image.config.digest))).status == 200
    assert deaf.requests
    assert mirror.requests
    assert all(seen.query == {} for seen in deaf.requests + origin.requests)
    assert all(seen.query == {"ns": REGISTRY} for seen in mirror.requests)


async def test_capabilities_are_kept(setup: Setup, image: Image, origin: FakeRegistry) -> None:
    sets = {"p": ["pull"], "r": ["resolve"], "f": ["referrers"]}
    registries = {name: await setup.registry() for name in sets}
    origin.add(image, NAME)
    tables = [native(registry, setup, capabilities=sets[name]) for name, registry in registries.items()]
    proxy = setup.proxy(origin, *tables)
    got = await everything(proxy, image, NAME)
    assert {each.status for each in got.values()} == {200}
    asked = {name: {seen.kind for seen in registry.requests} for name, registry in registries.items()}
    assert asked == {"p": {"manifest", "blob"}, "r": {"manifest", "blob"}, "f": {"referrers"}}
    assert not registries["p"].seen("manifest", path="1.0")
    assert registries["r"].seen("manifest", path="1.0")


async def test_a_dial_timeout_holds(setup: Setup, image: Image, origin: FakeRegistry) -> None:
    """The kernel accepts the connection, and nobody speaks; nothing else would end that within this test."""
    origin.add(image, NAME)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        patient = {"connect-timeout": "1h", "first-byte-timeout": "1h", "stall-timeout": "1h", "hedge-delay": "0s"}
        proxy = setup.proxy(origin, native(url, setup, **{"dial-timeout": "50ms"}), settings=patient)
        async with asyncio.timeout(20):
            got = await proxy.get(TAG)
    assert (got.digest, got.served.endpoint) == (image.manifest.digest, origin.endpoint)
