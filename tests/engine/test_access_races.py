"""Who may read a private blob and who may not ask for it at once: only the first are given any of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.faults import NoDigest, Slow

from addon.pulls import fill
from engine.harness import NAME, TAG, blob, read

if TYPE_CHECKING:
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup

ALICE = {"Authorization": "Bearer alices"}
OTHERS = [{}, {"Authorization": "Bearer bobs"}]


@pytest.fixture
async def private(setup: Setup, image: Image) -> FakeRegistry:
    """An origin that shows NAME to alice."""
    auth = BearerAuth(Policy(private={NAME: {"alice"}}))
    auth.tokens |= {"alices": {NAME: {"pull"}}, "bobs": {NAME: set()}}
    registry = await setup.registry(auth=auth)
    registry.add(image, NAME)
    return registry


@pytest.mark.parametrize("login", OTHERS, ids=["anonymous", "another"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_following_a_download_is_no_way_in(
    workers: int,
    login: dict[str, str],
    setup: Setup,
    private: FakeRegistry,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in its middle, and not in the moment when it is complete, which is drawn out here."""
    monkeypatch.setattr(fill, "_LOOK", 0.2)
    layer, gate = image.layers[1], asyncio.Event()
    private.inject(Slow(gate, after=1000), kind="blob", method="GET", times=1)
    one = setup.proxy(private)
    two = setup.beside(one) if workers == 2 else one
    alices = await one.ask("GET", blob(layer.digest), ALICE)
    refused = [await two.fetch("GET", blob(layer.digest), login) for _ in range(2)]
    reading = asyncio.create_task(read(alices))
    gate.set()
    while layer.digest not in one.cached():  # noqa: ASYNC110 (a turn of the loop, not a length of time)
        await asyncio.sleep(0)
    refused += [await two.fetch("GET", blob(layer.digest), login) for _ in range(3)]
    assert [(got.status, layer.digest in str(got.headers)) for got in refused] == [(401, False)] * 5
    assert not any(layer.data[:100] in got.data for got in refused)
    assert (await reading).data == layer.data
    assert (await two.fetch("GET", blob(layer.digest), ALICE)).data == layer.data


@pytest.mark.parametrize("login", OTHERS, ids=["anonymous", "another"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_who_may_not_and_asks_first_is_not_in_the_way(
    workers: int, login: dict[str, str], setup: Setup, private: FakeRegistry, image: Image
) -> None:
    layer, gate = image.layers[1], asyncio.Event()
    private.inject(Slow(gate), kind="blob", times=1)
    one = setup.proxy(private)
    two = setup.beside(one) if workers == 2 else one
    first = asyncio.create_task(one.fetch("GET", blob(layer.digest), login))
    await private.wait_for(lambda: bool(private.seen("blob")))
    second = asyncio.create_task(two.fetch("GET", blob(layer.digest), ALICE))
    await asyncio.sleep(0)
    gate.set()
    assert (await second).data == layer.data
    assert (await first).status == 401


async def test_a_tag_whose_bytes_alone_tell_is_told_to_each_for_itself(
    setup: Setup, private: FakeRegistry, image: Image
) -> None:
    private.inject(NoDigest(), kind="manifest")
    proxy = setup.proxy(private)
    logins = [ALICE, *OTHERS] * 4
    got = await asyncio.gather(*(proxy.fetch("GET", TAG, login) for login in logins))
    assert [each.status for each in got] == [200, 401, 401] * 4
    assert [image.manifest.data in each.data for each in got] == [True, False, False] * 4
