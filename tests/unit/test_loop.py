"""The loop's own TLS, against asyncio's and against sockets that block."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from addon.loop import Loop, TlsTransport
from addon.threads import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_HOST = "localhost"
_MANY = 5 * (1 << 20) + 17


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def serving(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(_HOST).configure_cert(context)
    return context


@pytest.fixture
def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=Loop) as runner:
        yield runner


@asynccontextmanager
async def _server(serve: Serve, context: ssl.SSLContext) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert isinstance(writer.transport, TlsTransport)
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_all_of_it_comes_back_whichever_side_is_slow(
    runner: asyncio.Runner, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    content = os.urandom(_MANY)

    async def run() -> bytes:
        async with _server(_echo, serving) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=_HOST)
            assert isinstance(writer.transport, TlsTransport)
            writer.write(content)  # more than both sides' buffers
            received = await reader.readexactly(len(content))
            writer.close()
            await writer.wait_closed()
            return received

    assert runner.run(run()) == content


def test_a_file_is_written_as_far_as_the_other_side_takes_it(
    runner: asyncio.Runner, serving: ssl.SSLContext, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    content = os.urandom(_MANY)
    (tmp_path / "file").write_bytes(content)
    written = threading.Event()
    counts = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, TlsTransport)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        with (tmp_path / "file").open("rb") as file:
            at = 7
            while count := transport.write_file(file.fileno(), at, _MANY - at - 1):
                counts.append(count)
                at += count
                if transport.get_write_buffer_size():
                    # Nothing more of the file is read before that is gone.
                    assert transport.write_file(file.fileno(), at, 1) == 0
                    written.set()
                await writer.drain()
                while transport.get_write_buffer_size():  # noqa: ASYNC110 (turns of the loop, not a length of time)
                    await asyncio.sleep(0)
            assert transport.write_file(file.fileno(), _MANY, 1) == 0
        writer.close()

    async def run() -> bytes:
        async with _server(serve, serving) as port:
            return await finish(_read_all, port, trusting, written)

    assert runner.run(run()) == content[7:-1]
    assert sum(counts) == _MANY - 8


def _read_all(port: int, context: ssl.SSLContext, begin: threading.Event | None = None) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=_HOST, suppress_ragged_eofs=False) as connection,
    ):
        if begin:
            begin.wait()
        received = bytearray()
        while data := connection.recv(1 << 16):
            received += data
        return bytes(received)


def test_what_was_written_before_the_end_arrives_with_a_farewell(
    runner: asyncio.Runner, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * _MANY)
        writer.close()

    async def run() -> bytes:
        async with _server(serve, serving) as port:
            return await finish(_read_all, port, trusting)

    # Without close_notify the client would raise.
    assert runner.run(run()) == b"x" * _MANY


def test_an_aborted_connection_has_no_farewell(
    runner: asyncio.Runner, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"some")
        writer.transport.abort()

    async def run() -> None:
        async with _server(serve, serving) as port:
            await finish(_read_all, port, trusting)

    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        runner.run(run())


def test_who_does_not_trust_the_certificate_is_told_and_so_is_the_server(
    runner: asyncio.Runner, serving: ssl.SSLContext
) -> None:
    failures: list[BaseException] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            async def accept() -> None:
                accepted, _ = await loop.sock_accept(listener)
                try:
                    await loop.connect_accepted_socket(asyncio.Protocol, accepted, ssl=serving)
                except OSError as error:
                    failures.append(error)

            task = asyncio.create_task(accept())
            try:
                await asyncio.open_connection(*listener.getsockname(), ssl=ssl.create_default_context())
            finally:
                await task

    with pytest.raises(ssl.SSLCertVerificationError):
        runner.run(run())
    assert len(failures) == 1
    assert "CA" in str(failures[0]).upper()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_what_is_no_handshake_ends_with_an_error(runner: asyncio.Runner, serving: ssl.SSLContext, said: bytes) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = _pair()
        with theirs:
            theirs.sendall(said)
            theirs.shutdown(socket.SHUT_WR)
            await loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=serving)

    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        runner.run(run())


def test_a_handshake_that_never_ends_is_given_up(runner: asyncio.Runner, serving: ssl.SSLContext) -> None:
    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = _pair()
        with theirs:
            with pytest.raises(ConnectionAbortedError):
                await loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=serving, ssl_handshake_timeout=0.01)
            return theirs.recv(1)

    assert runner.run(run()) == b""


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


def test_a_taken_connection_is_read_where_the_loop_had_come_to(
    runner: asyncio.Runner, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    content = os.urandom(_MANY)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        writer.close()

    def rest(connection: ssl.SSLSocket) -> bytes:
        received = bytearray()
        with connection:
            connection.settimeout(30)
            while data := connection.recv(1 << 20):
                received += data
        return bytes(received)

    async def run() -> bytes:
        async with _server(serve, serving) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=_HOST)
            first = await reader.read(1)
            transport = writer.transport
            assert isinstance(transport, TlsTransport)
            taken = transport.take()
            first += bytes(reader._buffer)  # type: ignore[attr-defined]
            transport.close()  # which is not its business any more
            return first + await finish(rest, taken)

    assert runner.run(run()) == content


def test_a_paused_connection_gets_nothing_until_it_is_resumed(
    runner: asyncio.Runner, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    class Counting(asyncio.Protocol):
        def __init__(self) -> None:
            self.received = 0
            self.ended = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.received += len(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.ended.set_result(exc)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * _MANY)
        writer.close()

    async def run() -> int:
        async with _server(serve, serving) as port:
            loop = asyncio.get_running_loop()
            transport, counting = await loop.create_connection(
                Counting, "127.0.0.1", port, ssl=trusting, server_hostname=_HOST
            )
            transport.pause_reading()
            before = counting.received
            for _ in range(10):
                await asyncio.sleep(0)
            assert (counting.received, transport.is_reading()) == (before, False)
            transport.resume_reading()
            assert await counting.ended is None
            return counting.received

    assert runner.run(run()) == _MANY
