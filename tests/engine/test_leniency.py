"""Mirrors in networks that go unverified, over TLS that nobody trusts."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from addon.config.model import Config, Tls
from engine.harness import NAME, REGISTRY, TAG, blob

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup


def lenient(network: str) -> Tls:
    return Tls(lenient=(ipaddress.ip_network(network),))


def with_mirrors(config: Config, tls: Tls) -> Config:
    rule = config.rules[REGISTRY]
    mirrors = tuple(replace(mirror, tls=tls) for mirror in rule.mirrors)
    return replace(config, rules={**config.rules, REGISTRY: replace(rule, mirrors=mirrors)})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(("network", "served"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
async def test_by_where_the_mirror_is(
    setup: Setup, stranger: Authority, origin: FakeRegistry, image: Image, host: str, network: str, served: bool
) -> None:
    mirror = await setup.registry(tls=stranger)
    for registry in mirror, origin:
        registry.add(image, NAME)
    where = mirror.endpoint.replace("127.0.0.1", host)
    proxy = setup.proxy(origin, where, tuned=lambda config: with_mirrors(config, lenient(network)))
    assert (await proxy.get(TAG)).data == image.manifest.data
    assert bool(mirror.requests) == served
    assert bool(origin.requests) == (not served)


async def test_where_a_mirror_leads_to_is_verified(
    setup: Setup, stranger: Authority, origin: FakeRegistry, image: Image
) -> None:
    """That is another host, whatever network it is in."""
    mirror = await setup.registry(tls=stranger, cdn=True)
    for registry in mirror, origin:
        registry.add(image, NAME)
    proxy = setup.proxy(origin, mirror, tuned=lambda config: with_mirrors(config, lenient("127.0.0.0/8")))
    layer = image.layers[0]
    assert (await proxy.get(blob(layer.digest))).data == layer.data
    assert mirror.seen("blob")
    assert not mirror.seen("cdn")
    assert origin.seen("blob")
