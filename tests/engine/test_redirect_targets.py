"""What an endpoint's answer leads to is not connected to on this machine or in its cloud, unless it is configured."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pytest
from support.access import Policy
from support.auth import BearerAuth
from support.config import QUICK
from support.faults import Status

from addon.config.current import Current
from addon.config.model import Config, Endpoint
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.upstream.client import Upstream
from addon.upstream.response import EndpointError
from engine.harness import NAME, TAG, blob, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.faults import Answer, Fault, Seen
    from support.images import Image
    from support.registry import FakeRegistry

    from engine.conftest import Setup
    from engine.harness import Proxy

LOGIN = "Bearer the-clients-own"
HERE = "this machine itself"
LINK = "a link-local address, where clouds have their metadata services"
META = "a cloud's metadata service"


class Trap:
    """One port of loopback, IPv4 and IPv6, where nobody answers; it tells whether somebody connected."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._sockets = [self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        self.port = self._sockets[0].getsockname()[1]
        with suppress(OSError):  # a machine without IPv6
            v6 = socket.create_server(("::1", self.port), family=socket.AF_INET6)
            self._sockets.append(self._stack.enter_context(v6))
        for each in self._sockets:
            each.setblocking(False)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def sprung(self) -> bool:
        """Whether there was a connection; the kernel has them before anybody accepts."""
        for each in self._sockets:
            with suppress(BlockingIOError):
                each.accept()[0].close()
                return True
        return False


@pytest.fixture
def trap() -> Iterator[Trap]:
    with Trap() as trap:
        yield trap


def resolve(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """A name that some DNS server, whoever's it is, gives these addresses."""
    known = socket.getaddrinfo

    def answer(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        hosts = addresses if host == name else (host,)
        return [found for each in hosts for found in known(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_the_trap_tells(trap: Trap) -> None:
    assert not trap.sprung()
    with socket.create_connection(("127.0.0.1", trap.port)):
        assert trap.sprung()
    assert not trap.sprung()


@dataclass(frozen=True)
class ToWhomLogsIn:
    """A fault for requests with the client's credential alone."""

    fault: Fault

    def apply(self, answer: Answer, request: Seen) -> None:
        if request.authorization == LOGIN:
            self.fault.apply(answer, request)


def redirect(url: str) -> Status:
    return Status(307, {"Location": url})


def refused(authority: str, why: str, at: str = "") -> str:
    """What is said of it."""
    where = f"{authority} at {at}" if at else authority
    return f'leads to {where} ({why}), which is not configured: add [registry."{authority}"] to the configuration'


TARGETS = [
    pytest.param("https://127.0.0.1:{port}", HERE, id="v4"),
    pytest.param("http://127.0.0.1:{port}", HERE, id="plain http"),
    pytest.param("https://user:pw@127.0.0.1:{port}", HERE, id="with a login"),
    pytest.param("https://127.9.9.9:{port}", HERE, id="another loopback address"),
    pytest.param("https://0.0.0.0:{port}", HERE, id="unspecified"),
    pytest.param("https://[::1]:{port}", HERE, id="v6"),
    pytest.param("https://[::]:{port}", HERE, id="v6 unspecified"),
    pytest.param("https://[::ffff:127.0.0.1]:{port}", HERE, id="mapped"),
    pytest.param("https://[64:ff9b::7f00:1]:{port}", HERE, id="NAT64"),
    pytest.param("https://169.254.169.254:{port}", LINK, id="metadata"),
    pytest.param("https://[::ffff:a9fe:a9fe]:{port}", LINK, id="metadata mapped"),
    pytest.param("https://[fd00:ec2::254]:{port}", META, id="metadata v6"),
    pytest.param("https://224.0.0.1:{port}", "not one machine's address", id="multicast"),
]


@pytest.mark.parametrize(("target", "why"), TARGETS)
async def test_a_mirror_that_redirects_to_an_address(
    target: str, why: str, setup: Setup, image: Image, trap: Trap, caplog: pytest.LogCaptureFixture
) -> None:
    origin, mirror = await setup.registry(), await setup.registry()
    origin.add(image, NAME)
    url = target.format(port=trap.port)
    mirror.inject(redirect(f"{url}/v2/?signature=secret"))
    proxy = setup.proxy(origin, mirror, settings=QUICK)
    got = await proxy.get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert not trap.sprung()
    assert f"{mirror.endpoint}: " + refused(url.partition("//")[2].rpartition("@")[2], why) in caplog.text
    assert "signature" not in caplog.text, "a signed URL is a secret"


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "localhost."])
async def test_a_mirror_that_redirects_to_a_name(
    name: str,
    setup: Setup,
    origin: FakeRegistry,
    mirror: FakeRegistry,
    image: Image,
    trap: Trap,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve(monkeypatch, "localhost.", "127.0.0.1")  # not every resolver knows it so
    origin.add(image, NAME)
    mirror.inject(redirect(f"https://{name}:{trap.port}/"))
    got = await setup.proxy(origin, mirror, settings=QUICK).get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert not trap.sprung()
    assert f"leads to localhost:{trap.port} at " in caplog.text
    assert f'add [registry."localhost:{trap.port}"]' in caplog.text


@pytest.mark.parametrize("number", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127。0。0。1"])
async def test_a_mirror_that_redirects_to_an_address_in_disguise(
    number: str, setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image, trap: Trap
) -> None:
    """What a resolver takes for an address is one of several spellings; whichever, nobody connects."""
    origin.add(image, NAME)
    mirror.inject(redirect(f"https://{number}:{trap.port}/"))
    got = await setup.proxy(origin, mirror, settings=QUICK).get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert not trap.sprung()


async def test_a_name_with_several_such_addresses(
    setup: Setup,
    origin: FakeRegistry,
    mirror: FakeRegistry,
    image: Image,
    trap: Trap,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fails for a reason of its own; one of them is told."""
    origin.add(image, NAME)
    addresses = {"169.254.169.254": LINK, "::1": HERE}
    resolve(monkeypatch, "cdn.test", *addresses)
    mirror.inject(redirect(f"https://cdn.test:{trap.port}/"))
    got = await setup.proxy(origin, mirror, settings=QUICK).get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert not trap.sprung()
    told = [refused(f"cdn.test:{trap.port}", why, at) for at, why in addresses.items()]
    assert any(each in caplog.text for each in told)


@pytest.mark.parametrize("kind", ["manifest", "blob"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_origin_that_redirects_there(
    kind: str, method: str, setup: Setup, origin: FakeRegistry, image: Image, trap: Trap
) -> None:
    origin.add(image, NAME)
    origin.inject(redirect(f"https://127.0.0.1:{trap.port}/?signature=secret"))
    proxy = setup.proxy(origin, settings=QUICK)
    target = blob(image.config.digest) if kind == "blob" else TAG
    got = await proxy.fetch(method, target)
    assert got.status == 502
    if method == "GET":
        assert refused(f"127.0.0.1:{trap.port}", HERE) in got.error["message"]
        assert b"signature" not in got.data
    assert not trap.sprung()


@pytest.mark.parametrize("kind", ["manifest", "blob"])
async def test_an_origin_that_redirects_a_client_with_a_login_there(
    kind: str, setup: Setup, image: Image, trap: Trap
) -> None:
    auth = BearerAuth(Policy(private={NAME: {"alice"}}))
    auth.tokens[LOGIN.removeprefix("Bearer ")] = {NAME: {"pull"}}
    origin = await setup.registry(auth=auth)
    origin.add(image, NAME)
    injected = origin.inject(ToWhomLogsIn(redirect(f"https://127.0.0.1:{trap.port}/")), kind=kind)
    target = blob(image.config.digest) if kind == "blob" else manifest(image.manifest.digest)
    got = await setup.proxy(origin, settings=QUICK).get(target, Authorization=LOGIN)
    assert injected.hits
    assert got.status == 502
    assert refused(f"127.0.0.1:{trap.port}", HERE) in got.error["message"]
    assert not trap.sprung()


async def test_a_token_server_that_is_there(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image, trap: Trap, caplog: pytest.LogCaptureFixture
) -> None:
    origin.add(image, NAME)
    realm = f'Bearer realm="https://localhost:{trap.port}/token?key=secret",service="x"'
    mirror.inject(Status(401, {"WWW-Authenticate": realm}))
    got = await setup.proxy(origin, mirror, settings=QUICK).get(blob(image.config.digest))
    assert (got.data, got.served.endpoint) == (image.config.data, origin.endpoint)
    assert not trap.sprung()
    assert f"{mirror.endpoint}: no token from its token server: leads to localhost:{trap.port} at " in caplog.text
    assert f'add [registry."localhost:{trap.port}"]' in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("connect", [None, 1.0], ids=["kept", "a connection of its own"])
async def test_an_origin_that_a_client_named(connect: float | None, trap: Trap) -> None:
    """Of the registries that are intercepted unconfigured, some have names that anybody can register."""
    origin = Endpoint("anybody.azurecr.io", f"https://localhost:{trap.port}", is_origin=True)
    upstream = Upstream(Current(Config({})), Via(Fingerprints(b"tests")))
    try:
        with pytest.raises(EndpointError, match="leads to localhost"):
            await upstream.relay(origin, "GET", "/v2/", [], connect=connect)
        with pytest.raises(EndpointError, match="leads to localhost"):
            await upstream.pull(origin, "GET", NAME, "tags/list", [], registry="anybody.azurecr.io")
    finally:
        await upstream.close()
    assert not trap.sprung()


async def test_what_a_client_hears_of_such_an_origin(
    setup: Setup, origin: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, "anybody.azurecr.io", "127.0.0.1")
    got = await setup.proxy(origin).get(TAG, registry="anybody.azurecr.io")
    assert got.status == 502
    assert "anybody.azurecr.io: " + refused("anybody.azurecr.io", HERE, at="127.0.0.1") in got.error["message"]


async def test_the_table_that_the_message_asks_for(
    setup: Setup, origin: FakeRegistry, mirror: FakeRegistry, image: Image
) -> None:
    elsewhere = await setup.registry()
    for registry in origin, elsewhere:
        registry.add(image, NAME)
    mirror.inject(redirect(f"{elsewhere.url}{blob(image.config.digest)}"))

    async def served_by(proxy: Proxy) -> str | None:
        got = await proxy.get(blob(image.config.digest))
        assert got.data == image.config.data
        return got.served.endpoint

    assert await served_by(setup.proxy(origin, mirror)) == origin.endpoint
    assert elsewhere.requests == []
    table = f'[registry."{elsewhere.endpoint}"]\nca = ["{setup.ca_file}"]\n'
    assert await served_by(setup.proxy(origin, mirror, more=[table])) == mirror.endpoint
    assert [seen.path for seen in elsewhere.requests] == [blob(image.config.digest)]
    # And nothing else on the same host.
    with Trap() as trap:
        mirror.inject(redirect(f"https://127.0.0.1:{trap.port}/"))
        proxy = setup.proxy(origin, mirror, more=[table], settings=QUICK)
        assert await served_by(proxy) == origin.endpoint
        assert not trap.sprung()
