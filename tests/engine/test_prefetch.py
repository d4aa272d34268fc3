"""The layers of a manifest that was served are fetched before the client asks; for nobody else, and not for nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.clock import Clock
from support.faults import Corrupt, Held, Slow, Status
from support.images import LAYER, MANIFEST, make_image, sha256

from engine.harness import NAME, TAG, blob, committed, manifest, read
from engine.test_access import ALICE, BOB, guarded, take_away
from engine.test_shared_fills import started as reader_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.images import Image, MultiArch
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

ON = {"prefetch": True}
PATIENCE = 11.0


@pytest.fixture(scope="session")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of more layers than are fetched at a time."""
    return make_image(tmp_path_factory.mktemp("layered"), seed=7, layer_sizes=(20_000,) * 7)


@pytest.fixture
async def gate(mirror: FakeRegistry, layered: Image) -> asyncio.Event:
    """The mirror has the image, and sends of each of its blobs no more than half until this is set."""
    mirror.add(layered, NAME, "1.0")
    gate = asyncio.Event()
    mirror.inject(Slow(gate, after=10_000), kind="blob")
    return gate


def asked(registry: FakeRegistry) -> list[str]:
    return [seen.path.rpartition("/")[2] for seen in registry.seen("blob", method="GET")]


def digests(image: Image) -> list[str]:
    return [part.digest for part in image.blobs]


async def fetched(*digests: str) -> None:
    for digest in digests:
        await committed(digest)


def fetching() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith(("fill sha", "prefetch"))]


async def over() -> None:
    """Until nothing is fetched any more."""
    async with asyncio.timeout(20):
        while tasks := fetching():
            await asyncio.wait(tasks)


@pytest.mark.parametrize("by", ["tag", "digest", "tag, without a digest"])
@pytest.mark.parametrize("warm", [False, True], ids=["a miss", "a hit"])
async def test_layers_are_on_their_way_before_they_are_asked_for(
    by: str, warm: bool, setup: Setup, mirror: FakeRegistry, layered: Image
) -> None:
    mirror.add(layered, NAME, "1.0")
    target = manifest(layered.manifest.digest) if by == "digest" else TAG
    if by == "tag, without a digest":
        mirror.inject(Status(405), kind="manifest", method="HEAD")
    proxy = setup.proxy(None, mirror, settings={"prefetch": not warm})
    if warm:
        assert (await proxy.get(target)).digest == layered.manifest.digest
        proxy.current.replace(replace(proxy.config, rules=_prefetching(proxy)))
    got = await proxy.get(target)
    assert got.data == layered.manifest.data
    await mirror.wait_for(lambda: sorted(asked(mirror)) == sorted(digests(layered)))
    for part in layered.blobs:
        assert (await proxy.get(blob(part.digest))).data == part.data
    assert sorted(asked(mirror)) == sorted(digests(layered)), "a blob was fetched twice"


def _prefetching(proxy: Proxy) -> dict[str, Any]:
    return {pattern: replace(rule, prefetch=True) for pattern, rule in proxy.config.rules.items()}


async def test_in_the_order_of_the_manifest_and_a_few_at_a_time(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    """The config is small and comes at once, so that four layers wait half sent."""
    proxy = setup.proxy(None, mirror, settings=ON)
    await proxy.get(TAG)
    await mirror.wait_for(lambda: len(asked(mirror)) >= 5)
    config, *layers = digests(layered)
    await fetched(config)
    assert set(asked(mirror)) == {config, *layers[:4]}
    assert proxy.cached() == {layered.manifest.digest, config}
    gate.set()
    await over()
    assert set(asked(mirror)[5:]) == set(layers[4:])
    assert proxy.cached() == {layered.manifest.digest, *digests(layered)}


async def test_a_client_joins_what_is_on_its_way(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    proxy = setup.proxy(None, mirror, settings=ON)
    await proxy.get(TAG)
    first = layered.layers[0]
    await mirror.wait_for(lambda: first.digest in asked(mirror))
    other = setup.beside(proxy)
    replies = [await each.ask("GET", blob(first.digest)) for each in (other, other, proxy, proxy)]
    # By either worker, the first is the one whom it comes for.
    assert [reply.served.how for reply in replies] == ["miss from", "joined from"] * 2
    gate.set()
    for got in await asyncio.gather(*map(read, replies)):
        assert (got.data, got.cut) == (first.data, None)
    assert asked(mirror).count(first.digest) == 1


async def test_what_is_here_already_is_asked_of_nobody(
    setup: Setup, mirror: FakeRegistry, layered: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(layered, NAME, "1.0")
    proxy = setup.proxy(None, mirror)
    for part in layered.blobs[:-1]:
        await proxy.get(blob(part.digest))
    again = len(mirror.requests)
    beside = await _restarted(setup, proxy)
    with caplog.at_level(logging.INFO):
        await beside.get(manifest(layered.manifest.digest))
        await over()
    assert "prefetching 1 blobs of" in caplog.text
    assert [seen.path for seen in mirror.requests[again:]] == [
        manifest(layered.manifest.digest),
        blob(layered.layers[-1].digest),
    ]


async def _restarted(setup: Setup, proxy: Proxy) -> Proxy:
    """With prefetching on."""
    file = proxy.cache.parent / "mirrortap.toml"
    file.write_text(file.read_text().replace("prefetch = false", "prefetch = true"))
    return await setup.restart(proxy)


@pytest.mark.parametrize("what", ["HEAD", "index", "referrer", "off", "off for the registry", "a range"])
async def test_not_for(
    what: str, setup: Setup, mirror: FakeRegistry, layered: Image, multi: MultiArch, image: Image
) -> None:
    mirror.add(layered, NAME, "1.0")
    mirror.add(multi, NAME, "multi")
    signed = json.dumps({**json.loads(image.manifest.data), "subject": layered.manifest.as_json()}).encode()
    mirror.add(image, NAME, "other")
    mirror.content.repositories[NAME].manifests[sha256(signed)] = (MANIFEST, signed)
    own: dict[str, Any] = {"prefetch": False} if what == "off for the registry" else {}
    proxy = setup.proxy(None, mirror, settings={"prefetch": what != "off"}, **own)
    match what:
        case "HEAD":
            await proxy.head(TAG)
        case "index":
            await proxy.get(manifest("multi"))
        case "referrer":
            assert (await proxy.get(manifest(sha256(signed)))).data == signed
        case "a range":
            await proxy.get(blob(layered.layers[0].digest), Range="bytes=0-1")
            mirror.requests.clear()
        case _:
            await proxy.get(TAG)
    await over()
    assert asked(mirror) == []


async def test_who_asks_by_head_first_gets_it_with_the_get(setup: Setup, mirror: FakeRegistry, layered: Image) -> None:
    mirror.add(layered, NAME, "1.0")
    proxy = setup.proxy(None, mirror, settings=ON)
    for target in TAG, manifest(layered.manifest.digest):
        await proxy.head(target)
        assert asked(mirror) == []
    await proxy.get(manifest(layered.manifest.digest))
    await over()
    assert set(asked(mirror)) == set(digests(layered))


async def test_not_offline(setup: Setup, mirror: FakeRegistry, layered: Image) -> None:
    mirror.add(layered, NAME, "1.0")
    proxy = setup.proxy(None, mirror)
    await proxy.get(TAG)
    proxy.current.replace(replace(proxy.config, rules=_prefetching(proxy)).taken_offline())
    for target in TAG, manifest(layered.manifest.digest):
        assert (await proxy.get(target)).status == 200
        assert fetching() == []


async def test_a_registry_may_want_it_where_others_do_not(setup: Setup, mirror: FakeRegistry, layered: Image) -> None:
    mirror.add(layered, NAME, "1.0")
    proxy = setup.proxy(None, mirror, prefetch=True)
    await proxy.get(TAG)
    await over()
    assert set(asked(mirror)) == set(digests(layered))


async def test_nobody_comes(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Who only looks at the manifest, and at the config, costs that much, once."""
    clock = Clock()
    proxy = setup.proxy(None, mirror, settings=ON, waits=clock)
    with caplog.at_level(logging.INFO):
        await proxy.get(TAG)
        await mirror.wait_for(lambda: len(asked(mirror)) >= 5)
        part = proxy.cache / "partial" / layered.layers[0].digest.replace(":", "-")
        async with asyncio.timeout(20):
            # It stays, while the gate is closed.
            while not part.exists() or part.stat().st_size < 9_000:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0)
        clock.now += PATIENCE / 2
        assert (await proxy.get(blob(layered.config.digest))).data == layered.config.data
        clock.now += PATIENCE / 2
        await over()
    assert len(asked(mirror)) == 5
    assert proxy.cached() == {layered.manifest.digest, layered.config.digest}
    begun, dropped = [record.message for record in caplog.records if "prefetch" in record.message]
    assert begun == f"prefetching 8 blobs of registry.test/{NAME}@{layered.manifest.digest}"
    assert "no layer was asked for" in dropped
    clock.now += 500
    await proxy.get(TAG)
    await over()
    assert len(asked(mirror)) == 5, "it was begun again for who looked a second time"
    # What has come is kept.
    gate.set()
    first = layered.layers[0]
    assert (await proxy.get(blob(first.digest))).data == first.data
    assert mirror.seen("blob", path=blob(first.digest))[-1].headers["Range"].startswith("bytes=9")


async def test_much_that_has_come_does_not_make_it_go_on(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    clock = Clock()
    proxy = setup.proxy(None, mirror, settings={**ON, "keep-filling-from": "1%"}, waits=clock)
    await proxy.get(TAG)
    await mirror.wait_for(lambda: len(asked(mirror)) >= 5)
    clock.now += PATIENCE
    await over()
    assert proxy.cached() == {layered.manifest.digest, layered.config.digest}


async def test_a_client_that_asks_after_all_sets_it_going_again(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    """As a script does that looks at an image before it pulls it."""
    clock = Clock()
    proxy = setup.proxy(None, mirror, settings=ON, waits=clock)
    await proxy.get(TAG)
    await mirror.wait_for(lambda: len(asked(mirror)) >= 5)
    clock.now += PATIENCE
    await over()
    gate.set()
    await proxy.get(blob(layered.layers[0].digest))
    await over()
    assert proxy.cached() == {layered.manifest.digest, *digests(layered)}


async def test_it_goes_on_as_long_as_a_client_reads(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    clock = Clock()
    proxy = setup.proxy(None, mirror, settings=ON, waits=clock)
    await proxy.get(TAG)
    first, second = layered.layers[:2]
    await mirror.wait_for(lambda: second.digest in asked(mirror))
    reply = await proxy.ask("GET", blob(first.digest))
    assert not isinstance(reply.body, bytes)
    for _ in range(5):
        clock.now += PATIENCE
        await asyncio.sleep(0.02)  # two looks
    gate.set()
    await reply.body.close()
    await over()
    assert proxy.cached() == {layered.manifest.digest, *digests(layered)}
    assert len(asked(mirror)) == len(layered.blobs)


@pytest.fixture
async def private(setup: Setup, layered: Image) -> FakeRegistry:
    """An origin that has the image for Alice alone."""
    registry = await setup.registry(auth=BearerAuth(Policy()))
    registry.add(layered, NAME, "1.0")
    take_away(registry, ALICE)
    return registry


async def test_a_client_that_waits_for_its_first_byte_keeps_its_download(
    setup: Setup, mirror: FakeRegistry, layered: Image
) -> None:
    mirror.add(layered, NAME, "1.0")
    gate, clock = asyncio.Event(), Clock()
    mirror.inject(Held(gate), kind="blob")
    proxy = setup.proxy(None, mirror, settings=ON, waits=clock)
    await proxy.get(TAG)
    first, second = layered.layers[:2]
    await mirror.wait_for(lambda: second.digest in asked(mirror))
    waiting = asyncio.create_task(proxy.get(blob(first.digest)))
    await asyncio.sleep(0)
    clock.now += PATIENCE
    await committed(second.digest)
    assert proxy.cached() == {layered.manifest.digest}, "what nobody waits for was not dropped"
    gate.set()
    got = await waiting
    assert (got.data, got.cut) == (first.data, None)
    assert asked(mirror).count(first.digest) == 1


async def test_what_is_private_is_fetched_as_the_client_and_for_those_alone_who_may(
    setup: Setup, private: FakeRegistry, layered: Image
) -> None:
    proxy = setup.proxy(private, settings=ON)
    assert (await proxy.get(TAG, Authorization=ALICE)).data == layered.manifest.data
    await over()
    assert proxy.cached() == {layered.manifest.digest, *digests(layered)}
    assert {seen.authorization for seen in private.seen("blob")} == {ALICE}
    for target in TAG, blob(layered.layers[0].digest):
        assert (await proxy.get(target)).status == 401
        assert (await proxy.get(target, Authorization=BOB)).status == 401
    # Who may, too, shows it with a credential of its own.
    private.requests.clear()
    take_away(private, ALICE, BOB)
    assert (await proxy.get(TAG, Authorization=BOB)).data == layered.manifest.data
    await over()
    assert guarded(private).policy.private[NAME] == set()
    assert {seen.method for seen in private.requests if seen.authorization == ALICE} == set()


async def test_nobody_joins_what_was_begun_for_another(setup: Setup, private: FakeRegistry, layered: Image) -> None:
    gate = asyncio.Event()
    private.inject(Slow(gate, after=10_000), kind="blob", method="GET")
    proxy = setup.proxy(private, settings=ON)
    await proxy.get(TAG, Authorization=ALICE)
    first = layered.layers[0]
    await private.wait_for(lambda: first.digest in asked(private))
    assert (await proxy.get(blob(first.digest))).status == 401
    assert (await proxy.get(blob(first.digest), Authorization=BOB)).status == 401
    gate.set()
    assert (await proxy.get(blob(first.digest), Authorization=ALICE)).data == first.data


async def test_who_is_refused_the_manifest_starts_nothing(setup: Setup, private: FakeRegistry) -> None:
    proxy = setup.proxy(private, settings=ON)
    assert (await proxy.get(TAG, Authorization=BOB)).status == 401
    await over()
    assert asked(private) == []


@pytest.mark.parametrize("fault", [Status(404), Status(503), Corrupt()], ids=["404", "503", "wrong bytes"])
async def test_what_cannot_be_had_ends_it_quietly(
    fault: Any, setup: Setup, mirror: FakeRegistry, layered: Image, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.add(layered, NAME, "1.0")
    mirror.inject(fault, kind="blob")
    proxy = setup.proxy(None, mirror, settings=ON)
    await proxy.get(TAG)
    await over()
    assert proxy.cached() == {layered.manifest.digest}
    assert "fault in mirrortap" not in caplog.text
    assert len(asked(mirror)) <= 4, "whoever does not have one blob was asked for all"
    mirror.traffic.injections.clear()
    first = layered.layers[0]
    assert (await proxy.get(blob(first.digest))).data == first.data


async def test_another_configuration_ends_it(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    proxy = setup.proxy(None, mirror, settings=ON)
    await proxy.get(TAG)
    await mirror.wait_for(lambda: len(asked(mirror)) >= 5)
    proxy.current.replace(replace(proxy.config, rules={}))
    gate.set()
    await over()
    assert len(asked(mirror)) == 5


async def test_the_proxy_stops_meanwhile(
    setup: Setup, mirror: FakeRegistry, layered: Image, gate: asyncio.Event
) -> None:
    proxy = setup.proxy(None, mirror, settings=ON)
    await proxy.get(TAG)
    await mirror.wait_for(lambda: len(asked(mirror)) >= 5)
    await proxy.engine.close()
    assert fetching() == []


async def test_when_one_worker_drops_what_anothers_client_reads_that_one_goes_on(
    setup: Setup, mirror: FakeRegistry
) -> None:
    """The first does not see the second's clients; they notice nothing."""
    data = bytes(number % 251 for number in range(3_000_000))
    _served(mirror, [data])
    mirror.inject(Slow(asyncio.Event(), after=len(data) // 2), kind="blob", times=1)
    clock = Clock()
    one = setup.proxy(None, mirror, settings=ON, waits=clock)
    two = setup.beside(one)
    await one.get(TAG)
    await mirror.wait_for(lambda: bool(asked(mirror)))
    reading, begun = await reader_of(two, len(data) // 2 - 1)
    await begun.wait()
    clock.now += PATIENCE
    assert await reading == data
    (_, again) = mirror.seen("blob", method="GET")
    assert again.headers["Range"] == f"bytes={len(data) // 2 - 1}-"


def _served(mirror: FakeRegistry, layers: Iterable[bytes], *more: Any) -> bytes:
    """A manifest with these layers, and whatever else, by the tag."""
    described = []
    for data in layers:
        mirror.content.put_blob(NAME, data)
        described.append({"mediaType": LAYER, "digest": sha256(data), "size": len(data)})
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": [*more, *described]}
    content = json.dumps(document).encode()
    repository = mirror.content.repositories[NAME]
    repository.manifests[sha256(content)] = (MANIFEST, content)
    repository.tags["1.0"] = sha256(content)
    return content


async def test_rubbish_among_the_layers(setup: Setup, mirror: FakeRegistry) -> None:
    rubbish: list[Any] = [None, 1, [], {}, {"digest": None}, {"digest": "sha256:12"}, {"digest": "md5:" + "0" * 32}]
    foreign = {"digest": sha256(b"foreign"), "urls": ["https://elsewhere.test/layer"]}
    lying = {"digest": sha256(b"one"), "size": 10**30}
    content = _served(mirror, [b"one", b"two", b"one"], *rubbish, foreign, lying)
    proxy = setup.proxy(None, mirror, settings=ON)
    assert (await proxy.get(TAG)).data == content
    await over()
    assert sorted(asked(mirror)) == sorted([sha256(b"one"), sha256(b"two")])


async def test_ten_thousand_layers(setup: Setup, mirror: FakeRegistry, caplog: pytest.LogCaptureFixture) -> None:
    _served(mirror, (b"%d" % number for number in range(10_000)))
    mirror.inject(Slow(asyncio.Event()), kind="blob")
    proxy = setup.proxy(None, mirror, settings=ON)
    with caplog.at_level(logging.INFO):
        assert (await proxy.get(TAG)).status == 200
        await mirror.wait_for(lambda: len(asked(mirror)) >= 4)
    assert set(asked(mirror)) == {sha256(b"%d" % number) for number in range(4)}
    assert "prefetching 128 blobs of" in caplog.text


async def test_many_images_at_once_are_not_fetched_all_at_once(setup: Setup, mirror: FakeRegistry) -> None:
    targets = []
    for image in range(6):
        content = _served(mirror, (b"%d of %d" % (number, image) for number in range(5)))
        targets.append(manifest(sha256(content)))
    gate = asyncio.Event()
    mirror.inject(Slow(gate), kind="blob")
    proxy = setup.proxy(None, mirror, settings=ON)
    for target in targets:
        assert (await proxy.get(target)).status == 200
    await mirror.wait_for(lambda: len(asked(mirror)) == 8)
    # What a client asks for is begun beside.
    reading = asyncio.create_task(proxy.get(blob(sha256(b"4 of 5"))))
    await mirror.wait_for(lambda: len(asked(mirror)) == 9)
    assert asked(mirror)[-1] == sha256(b"4 of 5")
    gate.set()
    assert (await reading).data == b"4 of 5"
    await over()
    assert len(asked(mirror)) == len(set(asked(mirror))) == 30
