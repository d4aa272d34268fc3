"""What upstream/takeover.py takes for granted of aiohttp and asyncio, and what it makes of a connection."""

from __future__ import annotations

import asyncio
import asyncio.selector_events as selector_events
import hashlib
import inspect
import socket
import sys
import threading
from asyncio.trsock import TransportSocket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import base_protocol, client_proto, client_reqrep, connector, streams

from addon.upstream.takeover import Taken, take_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# Typeshed does not know them.
_Transport = vars(selector_events)["_SelectorTransport"]
_SocketTransport = vars(selector_events)["_SelectorSocketTransport"]
read_timeout = vars(client_proto.ResponseHandler)["read_timeout"].fget

# As in test_streaming_contract.py.
READ_AND_UNDERSTOOD: dict[Callable[..., object], str] = {
    # All that has come of a body is counted, can be had at once, and reading it brings what was held back.
    streams.StreamReader.feed_data: "7548cdda3ea70bf8",
    streams.StreamReader.read_nowait: "e340a15bd631cecb",
    streams.StreamReader._read_nowait: "05fc75740b9d4d63",
    streams.StreamReader._read_nowait_chunk: "672849652cf250d3",
    base_protocol.BaseProtocol.resume_reading: "21dee847a31af724",
    read_timeout: "3cf800bdf0b41a0a",
    # Closing a response closes the transport, and nothing else is done with that.
    client_reqrep.ClientResponse.close: "a59643900f3b11eb",
    connector.Connection.close: "1544c015301a4643",
    connector.BaseConnector._release: "105426e5b03d8213",
    client_proto.ResponseHandler.close: "beb58bdbd119f3e5",
    # A transport that is closed does not shut the connection down, only its own descriptor.
    TransportSocket.dup: "d74a1e6ac83e64df",
    _Transport.pause_reading: "b74c237ea3876917",
    _Transport.close: "92ff882936b07fb4",
    # Python 3.12's tells the server no more than that there is one less.
    _Transport._call_connection_lost: "f8ed8284eea9e63d" if sys.version_info >= (3, 13) else "91868ead8a460788",
    _SocketTransport._read_ready__data_received: "5102515807516a67",
}

MIB = 1 << 20
BODY = bytes(number % 251 for number in range(5 * MIB + 17))


@pytest.mark.parametrize("function", READ_AND_UNDERSTOOD, ids=lambda function: function.__qualname__)
def test_the_code_that_is_built_upon_is_the_code_that_was_read(function: Callable[..., object]) -> None:
    source = inspect.getsource(function)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    assert digest == READ_AND_UNDERSTOOD[function], source


@asynccontextmanager
async def answered(head: str, body: bytes = BODY) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer, of which aiohttp has read what it reads ahead."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(send, "127.0.0.1", 0)
    timeout = aiohttp.ClientTimeout(sock_read=7.0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        aiohttp.ClientSession(timeout=timeout, read_bufsize=MIB) as session,
        session.get(f"http://127.0.0.1:{port}/") as response,
    ):
        while response.content.total_bytes < min(MIB, len(body)):  # noqa: ASYNC110 (turns of the loop)
            await asyncio.sleep(0)
        yield response


def drained(rest: Taken, size: int) -> bytes:
    data, buffer = bytearray(), memoryview(bytearray(size))
    while rest.left:
        if count := rest.fill(buffer):
            data += buffer[:count]
        else:
            rest.wait()
    return bytes(data)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_the_whole_body_comes(size: int) -> None:
    async with answered(f"Content-Length: {len(BODY)}") as response:
        assert response.connection
        transport = response.connection.transport
        rest = take_over(response)
        assert rest
        assert rest.left == len(BODY)
        assert transport
        assert transport.is_closing()
        assert await asyncio.to_thread(drained, rest, size) == BODY
        rest.close()


@pytest.mark.parametrize("coding", ["chunked", "gzip"])
async def test_a_length_that_is_not_the_bodys_is_refused_by_aiohttp(coding: str) -> None:
    """Two ways to tell where it ends: RFC 9112, 6.3."""
    with pytest.raises(aiohttp.ClientResponseError):
        async with answered(f"Transfer-Encoding: {coding}\r\nContent-Length: {len(BODY)}"):
            pass


@pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", "Connection: close"])
async def test_a_body_whose_length_is_not_told_is_left_to_aiohttp(head: str) -> None:
    body = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n" if "chunked" in head else BODY
    async with answered(head, body) as response:
        assert take_over(response) is None
        assert await response.read() == BODY


async def test_a_short_body_is_left_to_aiohttp() -> None:
    async with answered(f"Content-Length: {MIB}", BODY[:MIB]) as response:
        assert take_over(response) is None
        assert await response.read() == BODY[:MIB]


@pytest.fixture
def ends() -> Iterator[tuple[Taken, socket.socket]]:
    """A body of which 10 bytes are to come, and who sends it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        rest = Taken(ours, b"", 10, 0.2)
        yield rest, theirs
        rest.close()


def test_the_end_comes_too_early(ends: tuple[Taken, socket.socket]) -> None:
    rest, theirs = ends
    theirs.sendall(b"12345")
    theirs.close()
    buffer = memoryview(bytearray(100))
    assert (rest.fill(buffer), rest.left, bytes(buffer[:5])) == (5, 5, b"12345")
    with pytest.raises(aiohttp.ClientPayloadError):
        rest.fill(buffer)


def test_nothing_is_read_that_is_not_of_the_body(ends: tuple[Taken, socket.socket]) -> None:
    rest, theirs = ends
    theirs.sendall(b"0123456789more")
    buffer = memoryview(bytearray(100))
    assert (rest.fill(buffer), rest.left) == (10, 0)


def test_silence_has_an_end(ends: tuple[Taken, socket.socket]) -> None:
    rest, theirs = ends
    theirs.sendall(b"12345")
    with pytest.raises(aiohttp.SocketTimeoutError):
        drained(rest, 100)
    assert rest.left == 5


def test_who_waits_can_be_stopped() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    rest = Taken(ours, b"", 10, None)
    ended = threading.Event()

    def work() -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            drained(rest, 100)
        ended.set()

    with theirs:
        threading.Thread(target=work, daemon=True).start()
        rest.stop()
        assert ended.wait(10)
        rest.close()
