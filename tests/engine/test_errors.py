"""When no endpoint has it: the most telling failure, as an OCI error; and the origin's own word where it has one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.config import QUICK
from support.faults import Close, Gzip, Hang, Status

from engine.harness import NAME, REGISTRY, TAG, blob, closed_port, manifest

if TYPE_CHECKING:
    from support.faults import Fault
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Got

WAIT = {"Retry-After": "17"}


def check_error(got: Got, status: int, code: str) -> None:
    assert (got.status, got.error["code"]) == (status, code)
    assert got.headers["Content-Length"] == str(len(got.data))
    assert got.headers["OCI-Namespace"] == REGISTRY
    assert "Cache-Status" not in got.headers or "hit" not in got.headers["Cache-Status"]


@pytest.mark.parametrize(
    ("first", "second", "status", "code"),
    [
        pytest.param(404, 404, 404, "BLOB_UNKNOWN", id="nobody has it"),
        pytest.param(404, 403, 403, "DENIED", id="one may not say"),
        pytest.param(401, 404, 403, "DENIED", id="not 401: a challenge would bring a mirror the client's login"),
        pytest.param(404, 503, 502, "UNAVAILABLE", id="one may have it"),
        pytest.param(500, 404, 502, "UNAVAILABLE", id="the other may have it"),
        pytest.param(429, 404, 429, "TOOMANYREQUESTS", id="too many requests"),
        pytest.param(503, 429, 429, "TOOMANYREQUESTS", id="too many requests, at the second"),
    ],
)
async def test_the_most_telling_of_the_mirrors_answers(
    first: int, second: int, status: int, code: str, setup: Setup, image: Image
) -> None:
    mirrors = [await setup.registry() for _ in range(2)]
    for registry, fault in zip(mirrors, (first, second), strict=True):
        registry.inject(Status(fault, WAIT if fault == 429 else {}))
    proxy = setup.proxy(None, *mirrors)
    got = await proxy.get(blob(image.config.digest))
    check_error(got, status, code)
    assert got.headers.get("Retry-After") == (WAIT["Retry-After"] if status == 429 else None)
    for registry in mirrors:
        assert registry.endpoint in got.error["message"], "an operator wants to know which"
    assert [tried["endpoint"] for tried in got.error["detail"]] == [registry.endpoint for registry in mirrors]
    head = await proxy.head(blob(image.config.digest))
    assert head.status == status
    by_tag = await proxy.get(TAG)
    check_error(by_tag, status, code.replace("BLOB", "MANIFEST"))
    assert proxy.cached() == set()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        pytest.param(Close(), 502, "UNAVAILABLE", id="closes"),
        pytest.param(Hang(), 502, "UNAVAILABLE", id="hangs"),
        pytest.param(Gzip(always=True), 502, "UNAVAILABLE", id="gzip, unasked"),
        pytest.param(Status(500), 502, "UNAVAILABLE", id="500"),
        pytest.param(Status(503), 502, "UNAVAILABLE", id="503"),
        pytest.param(Status(307, {"Location": "ftp://x/y"}), 502, "UNAVAILABLE", id="redirects to nowhere"),
        pytest.param(Status(429, WAIT), 429, "TOOMANYREQUESTS", id="429"),
    ],
)
async def test_an_origin_that_fails_after_a_mirror_that_has_nothing(
    fault: Fault, status: int, code: str, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    origin.add(image, NAME)
    origin.inject(fault)
    proxy = setup.proxy(origin, mirror, settings=dict(QUICK))
    got = await proxy.get(blob(image.config.digest))
    check_error(got, status, code)
    assert got.headers.get("Retry-After") == ("17" if status == 429 else None)
    assert proxy.cached() == set()
    assert proxy.unfinished() == []
    origin.traffic.injections.clear()
    assert (await proxy.get(blob(image.config.digest))).data == image.config.data


async def test_an_origin_that_cannot_be_reached(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    gone = closed_port()
    proxy = setup.proxy(gone, mirror)
    for target in TAG, manifest(image.manifest.digest), blob(image.config.digest):
        got = await proxy.get(target)
        check_error(got, 502, "UNAVAILABLE")
        assert f"{gone}: " in got.error["message"]
        assert (await proxy.head(target)).status == 502


@pytest.mark.parametrize("status", [400, 403, 404, 410])
async def test_the_origins_no_is_the_answer_word_for_word(
    status: int, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    said = b'{"errors":[{"code":"FROM_THE_ORIGIN","message":"its own words"}]}'
    origin.inject(Status(status, {"X-Request-Id": "42"}, said))
    mirror.inject(Status(503))
    proxy = setup.proxy(origin, mirror)
    for target in TAG, manifest(image.manifest.digest), blob(image.config.digest):
        got = await proxy.get(target)
        assert (got.status, got.data, got.headers["X-Request-Id"]) == (status, said, "42")
        head = await proxy.head(target)
        assert head.status == status
    assert proxy.cached() == set()


async def test_what_is_not_there_is_not_remembered(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    proxy = setup.proxy(origin, mirror)
    assert (await proxy.get(TAG)).status == 404
    assert (await proxy.get(blob(image.config.digest))).status == 404
    origin.add(image, NAME)
    assert (await proxy.get(TAG)).data == image.manifest.data
    assert (await proxy.get(blob(image.config.digest))).data == image.config.data


async def test_many_who_ask_for_what_fails_all_hear_why(setup: Setup, mirror: FakeRegistry, image: Image) -> None:
    mirror.inject(Status(429, WAIT))
    proxy = setup.proxy(None, mirror)
    for got in await asyncio.gather(*(proxy.get(blob(image.config.digest)) for _ in range(10))):
        check_error(got, 429, "TOOMANYREQUESTS")
        assert got.headers["Retry-After"] == "17"
    assert len(mirror.requests) == 1
