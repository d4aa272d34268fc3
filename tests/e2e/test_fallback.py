"""Mirrors are tried in order: whatever is wrong with the first, the pull succeeds from the next."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.config import Table, toml
from support.faults import Close, Corrupt, Fault, Hang, Status, Truncate
from support.processes import needs
from support.registry import FakeRegistry

from e2e.conftest import APP

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.images import Image
    from support.programs import RealRegistry
    from support.threads import LoopThread

    from e2e.conftest import Builder, Serve

pytestmark = needs("skopeo", "docker-registry")


def mirrors(first: str, second: RealRegistry, settings: Table | None = None, /, **first_table: object) -> str:
    registries: dict[str, Table] = {
        "docker.io": {"mirrors": [first, second.endpoint], "fallback": False},
        first: first_table,
        second.endpoint: {"http": True},
    }
    return toml(registries, settings)


def assert_pulled_from_second(start_proxy: Serve, builder: Builder, config: str, app: Image, second: str) -> None:
    proxy = start_proxy(config)
    pulled = builder(proxy).pull(APP)
    assert pulled.digest == app.manifest.digest
    assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}
    answered = proxy.wait_answered(1 + len(app.blobs))
    # Blobs may have been here before they were asked for.
    assert {each.cache for each in answered if each.kind == "manifest"} == {"miss"}
    assert {each.endpoint for each in answered if each.cache == "miss"} == {second}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Close(), id="closes"),
        pytest.param(Status(500), id="500"),
        pytest.param(Status(503), id="503"),
        pytest.param(Status(429, {"Retry-After": "60"}), id="429"),
        pytest.param(Status(404), id="404"),
        pytest.param(Status(403), id="403"),
        pytest.param(Status(401, {"WWW-Authenticate": 'Basic realm="no"'}), id="401"),
    ],
)
def test_a_mirror_that_fails(
    fault: Fault,
    app: Image,
    mirror: RealRegistry,
    loop_thread: LoopThread,
    start_proxy: Serve,
    builder: Builder,
) -> None:
    broken = loop_thread.enter(FakeRegistry())
    broken.add(app, "library/app")
    injection = broken.inject(fault)
    config = mirrors(broken.endpoint, mirror, http=True)
    assert_pulled_from_second(start_proxy, builder, config, app, mirror.endpoint)
    assert injection.hits


def test_a_mirror_that_hangs(
    app: Image, mirror: RealRegistry, loop_thread: LoopThread, start_proxy: Serve, builder: Builder
) -> None:
    """It costs a pull one timeout: after that it is asked last, and by then the others have answered."""
    broken = loop_thread.enter(FakeRegistry())
    hang = broken.inject(Hang())
    quick = {"connect-timeout": "10s", "first-byte-timeout": "3s", "hedge-delay": "0s"}
    config = mirrors(broken.endpoint, mirror, quick, http=True)
    assert_pulled_from_second(start_proxy, builder, config, app, mirror.endpoint)
    # Twice where the pull takes longer than a mirror that failed is let rest.
    assert 1 <= hang.hits <= 2


def test_a_mirror_whose_port_is_closed(app: Image, mirror: RealRegistry, start_proxy: Serve, builder: Builder) -> None:
    # Bound and not listening: connections are refused, and nobody else gets the port meanwhile.
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{bound.getsockname()[1]}"
        assert_pulled_from_second(start_proxy, builder, mirrors(closed, mirror, http=True), app, mirror.endpoint)


def test_a_mirror_whose_certificate_is_not_trusted(
    app: Image,
    mirror: RealRegistry,
    stranger: Authority,
    authority: Authority,
    loop_thread: LoopThread,
    start_proxy: Serve,
    builder: Builder,
) -> None:
    broken = loop_thread.enter(FakeRegistry(tls=stranger))
    broken.add(app, "library/app")
    config = mirrors(broken.endpoint, mirror, ca=[authority.file])
    assert_pulled_from_second(start_proxy, builder, config, app, mirror.endpoint)
    assert broken.requests == []


def test_a_mirror_that_asks_for_a_token_it_does_not_give(
    app: Image, mirror: RealRegistry, loop_thread: LoopThread, start_proxy: Serve, builder: Builder
) -> None:
    broken = loop_thread.enter(FakeRegistry())
    realm = f'Bearer realm="{broken.url}/token",service="fake",scope="repository:library/app:pull"'
    broken.inject(Status(401, {"WWW-Authenticate": realm}), kind="[!t]*")
    broken.inject(Status(401), kind="token")
    config = mirrors(broken.endpoint, mirror, http=True)
    assert_pulled_from_second(start_proxy, builder, config, app, mirror.endpoint)
    assert broken.seen("token")


@pytest.mark.parametrize("fault", [Truncate(100_000), Corrupt()], ids=["truncates", "corrupts"])
def test_a_blob_that_breaks_is_never_taken_for_whole(
    fault: Fault,
    app: Image,
    loop_thread: LoopThread,
    mirror: RealRegistry,
    start_proxy: Serve,
    builder: Builder,
) -> None:
    """The first pull may fail (its bytes had begun to flow); nothing wrong is kept, the next is right."""
    large = app.layers[-1]
    broken = loop_thread.enter(FakeRegistry())
    broken.add(app, "library/app")
    injection = broken.inject(fault, kind="blob", path=f"*{large.digest}", times=1)
    proxy = start_proxy(mirrors(broken.endpoint, mirror, http=True))
    machine = builder(proxy)

    copied = machine.home / "first"
    machine.skopeo("copy", f"docker://{APP}", f"dir:{copied}", check=False)
    assert injection.hits == 1
    stored = proxy.cache / "blobs" / large.digest.replace(":", "/")
    assert not stored.exists() or stored.read_bytes() == large.data

    pulled = machine.pull(APP)
    assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}


def test_a_mirror_with_a_path(app: Image, loop_thread: LoopThread, start_proxy: Serve, builder: Builder) -> None:
    nested = loop_thread.enter(FakeRegistry())
    nested.add(app, "hub/cache/library/app")
    endpoint = f"{nested.endpoint}/hub/cache"
    docker_io = {"mirrors": [endpoint], "fallback": False}
    config = toml({"docker.io": docker_io, nested.endpoint: {"http": True}})
    pulled = builder(start_proxy(config)).pull(APP)
    assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}
