"""Whoever fails or limits us is asked last for a while, for what it fails at; and the log says so."""

from __future__ import annotations

import re
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from support.faults import Close, Fault, Headers, Status, Truncate

from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

IN_AN_HOUR = formatdate(4_000_000_000, usegmt=True)
# A rest that a registry has not asked for is no longer than this after one failure.
SHORT = 6


def rests(text: str, endpoint: str) -> list[tuple[str, int]]:
    """What the log says of an endpoint that is asked last: for what (all when empty), and for how many seconds."""
    found = re.findall(rf"{re.escape(endpoint)}: .+; asked last(?: for ([A-Z]+ \w+))? for (\d+) s", text)
    return [(kind, int(seconds)) for kind, seconds in found]


async def answers(proxy: Proxy, method: str, target: str) -> str:
    got = await proxy.fetch(method, target)
    assert got.status == 200
    return got.served.endpoint


@pytest.fixture
async def both(setup: Setup, image: Image) -> list[FakeRegistry]:
    """Two mirrors that have the image."""
    registries = [await setup.registry() for _ in range(2)]
    for registry in registries:
        registry.add(image, NAME)
    return registries


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Status(500), "HTTP 500"), (Status(503), "HTTP 503"), (Close(), "closed the connection without an answer")],
)
async def test_who_why_and_for_how_long(
    fault: Fault,
    reason: str,
    setup: Setup,
    both: list[FakeRegistry],
    image: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    both[0].inject(fault)
    proxy = setup.proxy(None, *both)
    assert await answers(proxy, "GET", blob(image.config.digest)) == both[1].endpoint
    assert f"{both[0].endpoint}: {reason} (GET blobs of registry.test/{NAME}); asked last for " in caplog.text
    assert [0 < seconds <= SHORT for _, seconds in rests(caplog.text, both[0].endpoint)] == [True]
    assert rests(caplog.text, both[1].endpoint) == []
    # For everything, not for blobs only.
    asked = len(both[0].requests)
    assert await answers(proxy, "GET", TAG) == both[1].endpoint
    assert len(both[0].requests) == asked


async def test_a_body_that_breaks_off(
    setup: Setup, both: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    both[0].inject(Truncate(1000), kind="blob")
    proxy = setup.proxy(None, *both)
    assert (await proxy.get(blob(image.layers[1].digest))).data == image.layers[1].data
    assert f"{both[0].endpoint}: a body broke off (GET blobs" in caplog.text
    assert len(rests(caplog.text, both[0].endpoint)) == 1


async def test_that_it_is_well_again_is_said_once(
    setup: Setup, both: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mirrortap")
    both[0].inject(Status(500), times=1)
    proxy = setup.proxy(None, *both)
    await answers(proxy, "GET", TAG)
    assert "answers again" not in caplog.text
    for content in b"only", b"here":
        only = both[0].content.put_blob(NAME, content)
        assert await answers(proxy, "GET", blob(only)) == both[0].endpoint
    assert caplog.text.count(f"{both[0].endpoint}: answers again") == 1
    assert [record.levelname for record in caplog.records if "answers again" in record.message] == ["INFO"]
    assert await answers(proxy, "GET", blob(image.config.digest)) == both[0].endpoint


@pytest.mark.parametrize("value", ["7200", IN_AN_HOUR], ids=["seconds", "date"])
async def test_unavailable_for_as_long_as_it_says(
    value: str, setup: Setup, both: list[FakeRegistry], image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    both[0].inject(Status(503, {"Retry-After": value}), times=1)
    proxy = setup.proxy(None, *both)
    assert await answers(proxy, "HEAD", TAG) == both[1].endpoint
    ((kind, seconds),) = rests(caplog.text, both[0].endpoint)
    assert (kind, 3000 <= seconds <= 3600) == ("", True)
    for target in TAG, blob(image.config.digest):
        assert await answers(proxy, "GET", target) == both[1].endpoint
    # Last is not never; and that it answers counts for more than what it said.
    only = both[0].content.put_blob(NAME, b"only here")
    assert await answers(proxy, "GET", blob(only)) == both[0].endpoint
    assert await answers(proxy, "GET", blob(image.layers[0].digest)) == both[0].endpoint


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "1800"}, 1800),
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}, 3000),
        ({"ratelimit-limit": "100;w=4000"}, 1000),
    ],
    ids=["Retry-After", "nothing left", "a window"],
)
async def test_a_limit_of_manifests_is_none_of_blobs_and_heads(
    headers: dict[str, str],
    least: int,
    setup: Setup,
    both: list[FakeRegistry],
    image: Image,
    other: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As at Docker Hub, where blobs must not go elsewhere because manifests are limited."""
    for registry in both:
        registry.add(other, NAME, "2.0")
    both[0].inject(Status(429, headers), kind="manifest", method="GET")
    proxy = setup.proxy(None, *both)
    assert await answers(proxy, "GET", manifest(image.manifest.digest)) == both[1].endpoint
    ((kind, seconds),) = rests(caplog.text, both[0].endpoint)
    assert kind == "GET manifests"
    assert least <= seconds <= 3600
    assert await answers(proxy, "HEAD", manifest("2.0")) == both[0].endpoint
    for part in image.blobs:
        assert await answers(proxy, "GET", blob(part.digest)) == both[0].endpoint
    # What they bring does not end the limit, nor does an answer that is no content.
    both[0].traffic.injections.clear()
    assert (await proxy.get(manifest("nowhere"))).status == 404
    assert (await proxy.get(manifest(f"sha256:{'0' * 64}"))).status == 404
    unlimited = len(both[0].seen("manifest", method="GET"))
    assert await answers(proxy, "GET", manifest("2.0")) == both[1].endpoint
    assert len(both[0].seen("manifest", method="GET")) == unlimited == 2


@pytest.mark.parametrize("headers", [{"Retry-After": "soon", "ratelimit-remaining": "many;w=x"}, {"Retry-After": "0"}])
async def test_nonsense_is_as_nothing(
    headers: dict[str, str],
    setup: Setup,
    both: list[FakeRegistry],
    image: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    both[0].inject(Status(429, headers))
    both[1].inject(Headers(headers))
    proxy = setup.proxy(None, *both)
    assert await answers(proxy, "GET", manifest(image.manifest.digest)) == both[1].endpoint
    ((_, seconds),) = rests(caplog.text, both[0].endpoint)
    assert 0 < seconds <= SHORT
