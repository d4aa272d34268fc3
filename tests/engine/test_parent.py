"""Behind a parent proxy: everything upstream goes through it, and nothing past it.

The names of these tests' servers end in .test, which nobody but the parent knows: what arrives, came through it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.config import toml
from support.faults import Status
from support.images import sha256
from support.parent import LOGIN, SECRETS, ParentProxy
from support.registry import FakeRegistry

from addon.parent import Parents
from engine.harness import NAME, REGISTRY, TAG, blob, closed_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.certificates import Authority
    from support.images import Image

    from engine.conftest import Setup


class Named(FakeRegistry):
    """A registry that is reached by its name."""

    @property
    def endpoint(self) -> str:
        return f"{self._names[0]}:{self._listener.port}"


@pytest.fixture
async def parent() -> AsyncIterator[ParentProxy]:
    async with ParentProxy() as parent:
        yield parent


async def named(setup: Setup, name: str, **kind: object) -> Named:
    kind.setdefault("tls", setup.authority)
    return await setup.enter(Named(names=(name,), **kind))  # type: ignore[arg-type]


def through(parent: ParentProxy, **more: str) -> Parents:
    return Parents.from_environment({"HTTPS_PROXY": parent.url, "HTTP_PROXY": parent.url, **more})


async def test_pulls_tokens_and_redirects_go_through_it(
    setup: Setup, parent: ParentProxy, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    origin = await named(setup, "origin.test", auth=BearerAuth(Policy()), cdn=True, cdn_name="cdn.test")
    origin.add(image, NAME, "1.0")
    proxy = setup.proxy(origin, parents=through(parent))
    assert (await proxy.get(TAG)).digest == image.top.digest
    for layer in image.layers:
        assert (await proxy.get(blob(layer.digest))).digest == layer.digest
    assert (await proxy.get(f"/v2/{NAME}/tags/list")).status == 401  # the client's own business
    assert {seen.kind for seen in origin.requests} >= {"token", "manifest", "blob", "cdn", "tags"}
    assert set(parent.tunnels()) == {origin.endpoint, origin.cdn_endpoint}
    assert {asked.method for asked in parent.asked} == {"CONNECT"}
    # What is for the parent goes no further, and what is for registries not to the parent.
    assert not any("Proxy-Authorization" in seen.headers for seen in origin.requests)
    for asked in parent.asked:
        assert asked.headers["proxy-authorization"] == LOGIN
        assert "mirrortap-" in asked.headers["via"]
        assert "authorization" not in asked.headers
        assert asked.headers["user-agent"].startswith("mirrortap/")
    for secret in SECRETS:
        assert secret not in caplog.text


async def test_plain_http_goes_through_it(setup: Setup, parent: ParentProxy, image: Image) -> None:
    mirror = await named(setup, "mirror.test", tls=None)
    mirror.add(image, NAME, "1.0")
    proxy = setup.start(plain(mirror), parents=through(parent))
    assert (await proxy.get(TAG)).digest == image.top.digest
    layer = image.layers[0]
    assert (await proxy.get(blob(layer.digest))).digest == layer.digest
    assert parent.asked
    for asked in parent.asked:
        assert asked.target.startswith(f"http://{mirror.endpoint}/v2/{NAME}/")
        assert asked.headers["proxy-authorization"] == LOGIN
    assert len(mirror.requests) == len(parent.asked)


def plain(mirror: FakeRegistry) -> str:
    """A configuration with that mirror alone, over plain http."""
    rule = {"mirrors": [mirror.endpoint], "fallback": False}
    return toml({REGISTRY: rule, mirror.endpoint: {"http": True}}, {"prefetch": False})


async def test_what_no_proxy_names_is_reached_past_it(
    setup: Setup, parent: ParentProxy, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    # These are on loopback by their address: always direct. The named one is, too, and so cannot be found.
    far = await named(setup, "origin.test")
    far.add(image, NAME, "1.0")
    mirror.add(image, NAME, "1.0")
    assert (await setup.proxy(origin, mirror, parents=through(parent)).get(TAG)).digest == image.top.digest
    got = await setup.proxy(far, parents=through(parent, NO_PROXY=".test")).get(TAG)
    assert (got.status, parent.asked, far.requests) == (502, [], [])
    assert "DNS: origin.test is not known" in got.error["message"]


FORBIDDEN = b"HTTP/1.1 403 Not For You\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("login", "answer", "said"),
    [
        ("Basic other", None, "answered 407 Who Are You: it does not take this user and password"),
        (LOGIN, FORBIDDEN, "answered 403 Not For You"),
        (LOGIN, None, "cannot be reached: Connection refused"),
    ],
)
async def test_a_refusal_is_said_to_be_the_parents(
    setup: Setup, login: str, answer: bytes | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    origin = await named(setup, "origin.test")
    other = await named(setup, "plain.test", tls=None)
    async with ParentProxy(login) as parent:
        if answer:
            parent.answers["origin.test"] = answer
        where = closed_port() if "refused" in said else parent.endpoint
        url = parent.url.replace(parent.endpoint, where)
        parents = Parents.from_environment({"HTTPS_PROXY": url, "HTTP_PROXY": url})
        got = [await setup.proxy(origin, parents=parents).get(TAG)]
        assert f"{origin.endpoint}: the parent proxy {where} ($HTTPS_PROXY) {said}" in got[0].error["message"]
        if not answer:
            got.append(await setup.start(plain(other), parents=parents).get(TAG))
            assert f"{other.endpoint}: the parent proxy {where} ($HTTP_PROXY) {said}" in got[1].error["message"]
    assert {each.status for each in got} == {502}
    assert origin.requests == other.requests == []
    for secret in SECRETS:
        assert not any(secret in each.data.decode() for each in got)
        assert secret not in caplog.text


async def test_what_only_the_parent_can_find_need_not_be_configured(
    setup: Setup, parent: ParentProxy, image: Image
) -> None:
    """The parent itself is on loopback here, and nothing of this redirect is in the configuration."""
    elsewhere = await named(setup, "elsewhere.test")
    elsewhere.add(image, NAME, "1.0")
    origin = await named(setup, "origin.test")
    path = blob(image.layers[0].digest)
    origin.inject(Status(307, {"Location": f"{elsewhere.url}{path}"}), kind="blob")
    assert (await setup.proxy(origin, parents=through(parent)).get(path)).digest == image.layers[0].digest
    assert parent.tunnels() == [origin.endpoint, elsewhere.endpoint]


@pytest.mark.parametrize("there", ["169.254.169.254", "0x7f.1:{port}", "[fd00:ec2::254]", "2852039166", "0:{port}"])
async def test_an_address_is_no_more_free_than_without_it(
    setup: Setup, parent: ParentProxy, image: Image, there: str
) -> None:
    """What the parent can reach is not for whoever redirects us."""
    secret = await named(setup, "secret.test", tls=None)
    where = there.format(port=secret.endpoint.partition(":")[2])
    origin = await named(setup, "origin.test")
    origin.add(image, NAME, "1.0")
    origin.inject(Status(307, {"Location": f"http://{where}/v2/"}), kind="blob")
    got = await setup.proxy(origin, parents=through(parent)).get(blob(image.layers[0].digest))
    assert got.status == 502
    assert "which is not configured" in got.error["message"]
    assert {asked.target for asked in parent.asked} == {origin.endpoint}
    assert secret.requests == []


async def test_an_address_that_is_configured_is_asked_for(setup: Setup, parent: ParentProxy) -> None:
    parent.answers["169.254.1.1"] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    text = toml({REGISTRY: {"mirrors": ["169.254.1.1"], "fallback": False}, "169.254.1.1": {"http": True}})
    got = await setup.start(text, parents=through(parent)).get(blob(sha256(b"hi")))
    assert parent.asked[0].target.startswith("http://169.254.1.1/v2/")
    assert got.data == b"hi"


async def test_the_certificate_is_the_registrys(setup: Setup, parent: ParentProxy, stranger: Authority) -> None:
    origin = await named(setup, "origin.test", tls=stranger)
    got = await setup.proxy(origin, parents=through(parent)).get(TAG)
    assert "TLS: " in got.error["message"]
    assert set(parent.tunnels()) == {origin.endpoint}
    assert origin.requests == []
