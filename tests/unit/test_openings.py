"""What a connection's first bytes say of the host that is meant."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.doors.openings import Opening, read


def hello(name: str | None, *protocols: str) -> bytes:
    """A ClientHello of OpenSSL's."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


HELLO = hello("registry.example", "h2", "http/1.1")
GET = b"GET /v2/ HTTP/1.1\r\nUser-Agent: x\r\nHost: registry.example:5000\r\n\r\n"


def in_records(message: bytes, size: int) -> bytes:
    """A ClientHello in records of that size at most (RFC 8446, 5.1)."""
    body = message[5:]
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


@pytest.mark.parametrize(
    ("said", "opening"),
    [
        (HELLO, Opening("tls", "registry.example")),
        (HELLO + b"and early data", Opening("tls", "registry.example")),
        (in_records(HELLO, 100), Opening("tls", "registry.example")),
        (hello("Registry.Example"), Opening("tls", "Registry.Example")),
        (hello(None), Opening("tls")),
        (HELLO.replace(b"registry.example", b"registry example"), Opening("tls")),
        (HELLO.replace(b"registry.example", b"registry\0example"), Opening("tls")),
        (HELLO.replace(b"registry.example", b"\xf0\x9f\x90\xb3registry.exa"), Opening("tls")),
        (HELLO[:-1], Opening("tls", complete=False)),
        (b"\x16\x03\x01\x00\x00", Opening("other")),
        (b"\x16\x03\x04\x00\x05hello", Opening("other")),
        (b"\x16\xfe\xfd\x00", Opening("other")),
        (GET, Opening("http", "registry.example")),
        (GET + b"body", Opening("http", "registry.example")),
        (GET.replace(b"\r\n", b"\n"), Opening("http", "registry.example")),
        (GET.replace(b"Host: ", b"hOST:\t"), Opening("http", "registry.example")),
        (b"M-SEARCH * HTTP/1.1\r\nHOST: [2001:db8::1]:80\r\n\r\n", Opening("http", "2001:db8::1")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Opening("http")),
        (b"GET / HTTP/1.1\r\nX-Host: a\r\n\r\nHost: b\r\n\r\n", Opening("http")),
        (b"GET / HTTP/1.0\r\n\r\n", Opening("http")),
        (b"GET / HTTP/1.1\r\nHost: registry.example\r\n", Opening("http", complete=False)),
        (b"G", Opening("http", complete=False)),
        (b"GET /", Opening("http", complete=False)),
        (b"GET / HTTP/2.0\r\n", Opening("other")),
        (b"get / HTTP/1.1\r\n", Opening("other")),
        (b"EHLO registry.example\r\n", Opening("other")),
        (b"SSH-2.0-x", Opening("other")),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", Opening("other")),
        (b"\x00", Opening("other")),
    ],
)
def test_an_opening(said: bytes, opening: Opening) -> None:
    assert read(said) == opening


@pytest.mark.parametrize(("said", "protocol"), [(HELLO, "tls"), (in_records(HELLO, 7), "tls"), (GET, "http")])
def test_it_is_known_for_what_it_is_before_it_is_complete(said: bytes, protocol: str) -> None:
    for size in range(1, len(said)):
        assert read(said[:size]) == Opening(protocol, complete=False)  # type: ignore[arg-type]


@given(st.binary(max_size=2000))
def test_anything_is_something(said: bytes) -> None:
    read(said)


@given(st.lists(st.tuples(st.integers(5, len(HELLO) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(HELLO)))
def test_a_hello_may_be_broken_in_any_way(changes: list[tuple[int, int]], size: int) -> None:
    said = bytearray(HELLO)
    for place, value in changes:
        said[place] = value
    opening = read(bytes(said[:size]))
    assert opening.complete or opening.host is None
