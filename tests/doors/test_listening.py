"""The port: how it is bound, how mitmproxy serves it, and what is taken for granted of mitmproxy for that."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import socket
import struct
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from mitmproxy.addons.proxyserver import Proxyserver, Servers
from mitmproxy.proxy.mode_servers import AsyncioServerInstance, RegularInstance, ServerInstance
from mitmproxy.test import taddons
from support.processes import connectable

from addon.doors import listening
from addon.doors.listening import QUEUE, Listener, ListenError, bind, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

listen_addrs = vars(AsyncioServerInstance)["listen_addrs"].fget

# As in test_streaming_contract.py: the code that `listen` takes the place of, or relies upon.
READ_AND_UNDERSTOOD: dict[Callable[..., object], str] = {
    Servers.__init__: "4eaedd29c3488ef9",
    Servers.update: "e653c1bdfa8cf352",
    Proxyserver.setup_servers: "0fd0fa70117642a0",
    ServerInstance.__init__: "65eb0f9aa2e393ed",
    ServerInstance.stop: "9cbc64edbed13119",
    ServerInstance.handle_stream: "21eea06f208c752e",
    AsyncioServerInstance.__init__: "096080e95eacd116",
    AsyncioServerInstance._start: "f96507081fa6236b",
    AsyncioServerInstance._stop: "73df3f7e7fb2d941",
    AsyncioServerInstance.listen: "7670a9038b44170d",
    RegularInstance.make_top_layer: "85b8c941042003e1",
    listen_addrs: "1396fd19311682b5",
}


@pytest.mark.parametrize("function", READ_AND_UNDERSTOOD, ids=lambda function: function.__qualname__)
def test_the_code_that_is_built_upon_is_the_code_that_was_read(function: Callable[..., object]) -> None:
    source = inspect.getsource(function)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    assert digest == READ_AND_UNDERSTOOD[function], source


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(stack: ExitStack, host: str, port: int = 0) -> list[Listener]:
    return [stack.enter_context(listener) for listener in bind(host, port)]


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def queue(listener: socket.socket) -> int:
    """How many connections may wait: tcpi_sacked of a listening socket (linux/tcp.h, struct tcp_info)."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 28)[0])


@pytest.mark.parametrize("port", [0, 1])
def test_no_host_is_every_interface_on_one_port(stack: ExitStack, port: int) -> None:
    if port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    listeners = bound(stack, "", port)
    assert {listener.getsockname()[1] for listener in listeners} == {port or listeners[0].getsockname()[1]}
    families = {listener.family for listener in listeners}
    assert families == ({socket.AF_INET, socket.AF_INET6} if ipv6() else {socket.AF_INET})
    for listener in listeners:
        address = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
        socket.create_connection((address, listener.getsockname()[1]), timeout=5).close()


def test_an_address_is_itself_alone(stack: ExitStack) -> None:
    (listener,) = bound(stack, "127.0.0.1")
    host, port = listener.getsockname()
    assert host == "127.0.0.1"
    assert connectable((host, port))
    assert not connectable(("127.0.0.2", port))


def test_a_port_that_is_free_for_one_address_only_is_not_taken(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 0, when what the kernel gives the first address belongs to somebody on the second."""
    tried = []

    class Unlucky(Listener):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            super().bind(address)
            if address[1] == 0:
                tried.append(self.getsockname()[1])
                if len(tried) < 3:
                    stack.enter_context(socket.create_server(("127.0.0.2", tried[-1])))

    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(listening, "Listener", Unlucky)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
    assert [listener.getsockname() for listener in bound(stack, "two")] == [
        ("127.0.0.1", tried[2]),
        ("127.0.0.2", tried[2]),
    ]


async def test_small_bodies_do_not_wait_for_an_acknowledgement(stack: ExitStack) -> None:
    """Nagle's algorithm is off, as in asyncio's own sockets."""
    (listener,) = bound(stack, "127.0.0.1")
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(connected, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await accepted == 1
        writer.close()


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("absent.invalid", "there is no such address"),
        ("a..b", "there is no such address"),
        ("192.0.2.1", "Cannot assign requested address"),
        ("2001:db8::1", "Cannot assign requested address"),
    ],
)
def test_what_cannot_be_listened_on(host: str, why: str) -> None:
    where = f"[{host}]" if ":" in host else host
    with pytest.raises(ListenError) as error:
        bind(host, 3128)
    assert str(error.value) == f"{where}:3128: cannot be listened on: {why}; choose another address with --listen"


def test_a_port_that_is_taken(stack: ExitStack) -> None:
    (first,) = bound(stack, "127.0.0.1")
    with pytest.raises(ListenError, match="Address already in use"):
        bind(*first.getsockname())
    if ipv6():
        # What could be bound is let go of again.
        port = first.getsockname()[1]
        with pytest.raises(ListenError, match="Address already in use"):
            bind("", port)
        socket.create_server(("::", port), family=socket.AF_INET6).close()


async def test_mitmproxy_serves_what_is_bound(stack: ExitStack) -> None:
    listeners = bound(stack, "127.0.0.1")
    address = listeners[0].getsockname()
    server = Proxyserver()
    with taddons.context(server):
        await listen(server, listeners)
        assert server.listen_addrs() == [address]
        # mitmproxy's own start leaves it at that.
        assert await server.setup_servers()
        assert server.listen_addrs() == [address]
        assert connectable(address)
        await server.servers.update([])
        assert not connectable(address)


async def test_a_process_takes_few_of_those_that_wait_and_leaves_the_queue_long(stack: ExitStack) -> None:
    (listener,) = bound(stack, "127.0.0.1")
    assert queue(listener) == QUEUE
    for _ in range(20):
        stack.enter_context(closing(socket.create_connection(listener.getsockname())))
    server = Proxyserver()
    with taddons.context(server):
        await listen(server, [listener])
        assert queue(listener) == QUEUE
        for _ in range(3):
            await asyncio.sleep(0)
        left = 0
        while accepted := accept(listener):
            accepted.close()
            left += 1
        # One or two in each of these rounds of the loop, as Python's version has it.
        assert 10 <= left < 20
        await server.servers.update([])


def accept(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None
