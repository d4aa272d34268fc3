"""Connections that were redirected, and those that speak SOCKS5: ours are answered, others led on as they are."""

from __future__ import annotations

import fcntl
import http.client
import ipaddress
import re
import socket
import ssl
import struct
import termios
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.config import Table, toml
from support.images import sha256
from support.networks import Network, socket_of
from support.proxy import ROOT, mitmdump, serve
from support.registry import FakeRegistry
from support.threads import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.certificates import Authority
    from support.proxy import Proxy

HOST = "registry.example"
# Where HOST is for its clients, and nothing is; and a machine that is really there.
NOWHERE, ELSEWHERE = "198.51.100.7", "10.77.0.2"
STRANGER = 65534
# Where it listens, and besides them one where nobody does.
PORTS, CLOSED = (80, 443, 5000), 8080
# More than the kernel holds of what is not read.
LARGE = 64 << 20
DENIED = bytes.fromhex("15 03 03 00 02 02 31")
# As `htpasswd -nbBC 4 ann s3cret` writes it.
ANN = "ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L."


class Elsewhere:
    """A machine that sends back whatever it gets, and at the end its signature."""

    def __init__(self, network: Network) -> None:
        self.connections = 0
        with network.inside():
            self._listeners = [socket.create_server((ELSEWHERE, port)) for port in PORTS]
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while piece := connection.recv(65536):
                connection.sendall(piece)
            connection.sendall(b"(elsewhere)")


@dataclass
class Lan:
    here: Network
    elsewhere: Elsewhere
    origin: FakeRegistry
    config: dict[str, Table]
    blob: str


@dataclass
class Door:
    proxy: Proxy
    dial: Callable[[str, int], socket.socket]
    """A client's connection to an address."""


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Lan]:
    with make_lan(tmp_path_factory.mktemp("lan"), authority) as made:
        yield made


@pytest.fixture(scope="module")
def other_lan(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Lan]:
    """For tests that redirect to a proxy of their own."""
    with make_lan(tmp_path_factory.mktemp("lan"), authority) as made:
        yield made


@contextmanager
def make_lan(folder: Path, authority: Authority) -> Iterator[Lan]:
    with Network(folder) as here, Network(folder) as there:
        here.connect("10.77.0.1/24", there, f"{ELSEWHERE}/24")
        here.run("ip", "route", "add", "default", "via", ELSEWHERE)
        with ExitStack() as stack:
            with here.inside():
                loop = stack.enter_context(LoopThread())
            origin = loop.enter(FakeRegistry(tls=authority))
            blob = f"/v2/app/blobs/{origin.content.put_blob('app', b'content' * 10_000)}"
            tables: dict[str, Table] = {HOST: {"server": origin.url, "ca": [authority.file]}}
            yield Lan(here, Elsewhere(there), origin, tables, blob)


@pytest.fixture(scope="module", params=["transparent", "socks5"])
def door(request: pytest.FixtureRequest, lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    config = toml(lan.config, {"header-timeout": "2s", "tunnel-ports": [80, 443, CLOSED]})
    with ExitStack() as stack:
        with lan.here.inside():
            folder = tmp_path_factory.mktemp(request.param)
            proxy = stack.enter_context(serve(folder, config, mode=request.param))
        if request.param == "transparent":
            # The kernel follows no connections where there is no rule for that: mitmproxy alone would hang up then.
            with straight(lan, proxy) as sock:
                assert fetch(sock, "/ca.crt").read() == proxy.ca.read_bytes()
            stack.enter_context(redirected(lan, proxy))
        yield Door(proxy, dialling(lan, proxy, request.param))


@contextmanager
def redirected(lan: Lan, proxy: Proxy, user: str = "root") -> Iterator[None]:
    """What everybody sends but this user."""
    script = ROOT / "scripts" / "redirect", "machine"
    ports = ",".join(map(str, (*PORTS, CLOSED)))
    lan.here.run(*script, "--user", user, "--to", str(proxy.port), "--ports", ports, "--apply")
    yield
    lan.here.run(*script, "--undo")


def dialling(lan: Lan, proxy: Proxy, mode: str) -> Callable[[str, int], socket.socket]:
    def by_redirect(address: str, port: int) -> socket.socket:
        with lan.here.inside():
            sock = socket_of(STRANGER)
        sock.settimeout(20)
        sock.connect((address, port))
        return sock

    def by_socks(address: str, port: int) -> socket.socket:
        sock = straight(lan, proxy)
        assert asked(sock, request_for(address, port)) == 0
        return sock

    return by_redirect if mode == "transparent" else by_socks


def straight(lan: Lan, proxy: Proxy) -> socket.socket:
    """To the proxy's own port."""
    with lan.here.inside():
        return socket.create_connection((proxy.host, proxy.port), timeout=20)


def request_for(host: str, port: int) -> bytes:
    try:
        where = b"\x01" + ipaddress.IPv4Address(host).packed
    except ValueError:
        where = b"\x03" + bytes([len(host)]) + host.encode("latin-1")
    return b"\x05\x01\x00" + where + struct.pack("!H", port)


def asked(sock: socket.socket, request: bytes, greeting: bytes = b"\x05\x01\x00") -> int:
    """The code of the reply."""
    sock.sendall(greeting)
    assert exactly(sock, 2) == b"\x05\x00"
    sock.sendall(request)
    return exactly(sock, 10)[1]


def exactly(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = sock.recv(count - len(got))
        assert piece, got
        got += piece
    return got


def rest(sock: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    got = b""
    try:
        while piece := sock.recv(65536):
            got += piece
    except ConnectionResetError:
        pass
    return got


def fetch(sock: socket.socket, path: str, host: str = HOST) -> http.client.HTTPResponse:
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    return answer


def hello(name: str | None) -> bytes:
    """A ClientHello."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def assert_answered(lan: Lan, door: Door) -> None:
    """As a registry, by the proxy, for an address that nobody has."""
    context = ssl.create_default_context(cafile=str(door.proxy.ca))
    with door.dial(NOWHERE, 443) as sock, context.wrap_socket(sock, server_hostname=HOST) as secured:
        assert secured.getpeercert()["subjectAltName"] == (("DNS", HOST),)  # type: ignore[index]
        for _ in range(2):
            assert sha256(fetch(secured, lan.blob).read()) == lan.blob.rpartition("/")[2]


def assert_led_on(door: Door, *pieces: bytes, port: int = 443) -> None:
    with door.dial(ELSEWHERE, port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i, piece in enumerate(pieces):
            sock.sendall(piece)
            if i < len(pieces) - 1:
                until_taken(sock)
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock) == b"".join(pieces) + b"(elsewhere)"


def until_taken(sock: socket.socket) -> None:
    """Until the other side has read, by all appearances, what was sent: it was acknowledged, and time has passed."""
    deadline = time.monotonic() + 20
    # SIOCOUTQ (tcp(7)).
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.02)


# --- both ---


def test_a_registry_is_answered_whatever_address_it_has(lan: Lan, door: Door) -> None:
    assert_answered(lan, door)
    with door.dial(NOWHERE, 80) as sock:
        for host in HOST, f"{HOST.upper()}:80":
            assert sha256(fetch(sock, lan.blob, host).read()) == lan.blob.rpartition("/")[2]


@pytest.mark.parametrize(
    "said",
    [
        hello(None),
        hello("elsewhere.example"),
        # A name that is an address, one of odd characters, and two.
        hello("registry.xy").replace(b"registry.xy", b"203.0.113.1"),
        hello(HOST).replace(HOST.encode(), b"reg\x00stry.\xc3\xa9\xff ple"),
        hello(HOST)[:43] + b"\xff" + hello(HOST)[44:],
        b"\x16\x03\x01\x00\x00 not a ClientHello",
        b"\x00\x01 neither TLS nor HTTP",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhOsT:  elsewhere.example\r\nx:y\r\n\r\n\x00",
        b"GET / HTTP/1.0\n\n",
        f"GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: elsewhere.example\r\n\r\n".encode(),
        b"\r\nGET / HTTP/1.1\r\n\r\n",
    ],
    ids=[
        *("no name", "another name", "an address", "odd characters", "a broken hello", "an empty record", "binary"),
        *("ssh", "http/2", "another host", "no host", "two hosts", "an empty line"),
    ],
)
def test_what_is_not_a_registrys_is_led_on_byte_for_byte(door: Door, said: bytes) -> None:
    assert_led_on(door, said)
    assert_led_on(door, said[:1], said[1:], port=80)


def test_much_may_be_said_before_it_is_led_on(door: Door) -> None:
    assert_led_on(door, b"\x00" + bytes(range(256)) * 20_000)


def test_what_may_not_be_reached_is_refused_in_the_clients_own_terms(lan: Lan, door: Door) -> None:
    before = lan.elsewhere.connections
    why = {
        (ELSEWHERE, 5000): "is at a port that is not one of tunnel-ports",
        ("169.254.169.254", 80): "is a link-local address",
        ("100.100.100.200", 443): "is a cloud's metadata service",
    }
    for place, because in why.items():
        with door.dial(*place) as sock:
            answer = fetch(sock, "/", "elsewhere.example")
            assert answer.status == 403
            assert because in answer.reason
            assert b"to allow it, write tunnel = " in answer.read()
        with door.dial(*place) as sock:
            sock.sendall(hello("elsewhere.example"))
            assert rest(sock) == DENIED
        with door.dial(*place) as sock:
            # Neither, and more than is read at once.
            with suppress(ConnectionError):
                sock.sendall(bytes(70_000))
            assert rest(sock) == b""
        door.proxy.log.wait_for(f"was refused a connection: {re.escape(place[0])}:{place[1]} {because}")
    assert lan.elsewhere.connections == before


def test_what_cannot_be_reached_ends(door: Door, request: pytest.FixtureRequest) -> None:
    for said in hello(None), b"\x00":
        with door.dial(ELSEWHERE, CLOSED) as sock:
            sock.sendall(said)
            assert rest(sock) == b""
    if "transparent" in request.node.name:
        door.proxy.log.wait_for(rf"cannot be connected to {ELSEWHERE}:{CLOSED}: .*Connect call failed", count=2)


def test_bad_beginnings(door: Door) -> None:
    with ExitStack() as stack:
        led_on = stack.enter_context(door.dial(ELSEWHERE, 443))
        led_on.sendall(b"\x00")
        assert exactly(led_on, 1) == b"\x00"
        silent, half_hello, half_head, no_more = (stack.enter_context(door.dial(NOWHERE, 443)) for _ in range(4))
        half_hello.sendall(hello(HOST)[:200])
        half_head.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n".encode())
        no_more.sendall(b"GE")
        no_more.shutdown(socket.SHUT_WR)
        endless, large = (stack.enter_context(door.dial(NOWHERE, 443)) for _ in range(2))
        with suppress(ConnectionError):
            endless.sendall(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03" + bytes(16384 - 6))
            for _ in range(5):
                endless.sendall(b"\x16\x03\x01\x40\x00" + bytes(16384))
        assert rest(endless) in (DENIED, b"")
        door.proxy.log.wait_for("was hung up on: more than 65536 bytes, and no end of a ClientHello")
        with suppress(ConnectionError):
            large.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX: ".encode() + b"x" * 70_000)
        assert rest(large)[:13] in (b"HTTP/1.1 431 ", b"")
        assert rest(no_more) == b""
        for late in silent, half_hello, half_head:
            assert rest(late) == b""
        # Where it is known where to, nobody is waited for.
        led_on.sendall(b"\x01")
        assert exactly(led_on, 1) == b"\x01"
    door.proxy.log.wait_for(r"was hung up on: .* within 2 s \(header-timeout\)", count=3)


def test_mitmproxys_own_program_does_the_same(other_lan: Lan, tmp_path: Path) -> None:
    lan = other_lan
    with ExitStack() as stack:
        with lan.here.inside():
            modes = "--mode", "transparent@3128", "--mode", "socks5@1080"
            proxy = stack.enter_context(mitmdump(tmp_path, toml(lan.config), *modes))
        for mode, proxy.port in ("transparent", 3128), ("socks5", 1080):
            proxy.program.out.wait_for(f"listening at 127.0.0.1:{proxy.port}")
            with redirected(lan, proxy):
                door = Door(proxy, dialling(lan, proxy, mode))
                assert_answered(lan, door)
                assert_led_on(door, hello("elsewhere.example"))


def test_mitmproxys_own_program_does_not_start_where_nobody_could_log_in(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(ANN)
    with (
        pytest.raises(AssertionError) as ended,
        mitmdump(tmp_path, toml({}, {"proxy-users": "users"}), "--mode", "transparent"),
    ):
        pass
    assert "nobody can be asked to log in with --mode transparent" in str(ended.value)


# --- the port itself ---


def test_the_port_itself_has_the_ca_and_nothing_else(lan: Lan, door: Door, request: pytest.FixtureRequest) -> None:
    with straight(lan, door.proxy) as sock:
        assert fetch(sock, "/ca.crt").read() == door.proxy.ca.read_bytes()
        assert fetch(sock, "/").status == 200
    why = {
        "transparent": "mirrortap takes redirected connections here: no HTTPS_PROXY",
        "socks5": "mirrortap speaks SOCKS5 here: use socks5:// in HTTPS_PROXY",
    }[request.node.callspec.params["door"]]
    for target in f"{HOST}:443", f"{ELSEWHERE}:443":
        with straight(lan, door.proxy) as sock:
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            assert rest(sock).startswith(f"HTTP/1.1 400 {why}\r\n".encode())
    with straight(lan, door.proxy) as sock:
        assert fetch(sock, f"http://{HOST}{lan.blob}").reason == why
    with straight(lan, door.proxy) as sock:
        sock.sendall(hello(HOST))
        assert rest(sock).startswith(b"HTTP/1.1 400 ")
    door.proxy.log.wait_for(f"speaks TLS to the proxy's port: {re.escape(why)}")


def test_a_proxy_that_is_led_to_itself_ends_that(other_lan: Lan, tmp_path: Path) -> None:
    lan, before = other_lan, other_lan.elsewhere.connections
    with ExitStack() as stack:
        with lan.here.inside():
            proxy = stack.enter_context(serve(tmp_path / "proxy", toml(lan.config), mode="transparent"))
        stack.enter_context(redirected(lan, proxy, user=str(STRANGER)))
        with lan.here.inside():
            sock = stack.enter_context(closing(socket.create_connection((ELSEWHERE, 443), timeout=20)))
        sock.sendall(hello("elsewhere.example"))
        assert rest(sock) in (DENIED, b"")
        proxy.log.wait_for("was hung up on: it is mirrortap's own connection: what the user that it runs as")
    assert lan.elsewhere.connections == before


# --- SOCKS5 alone ---


@pytest.fixture(scope="module")
def socks(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("socks")
    (folder / "users").write_text(ANN)
    config = toml(lan.config, {"proxy-users": "users", "tunnel": ["all", "localhost:5000"]})
    with ExitStack() as stack:
        with lan.here.inside():
            # There is no name server there.
            quick = "timeout:1 attempts:1"
            proxy = stack.enter_context(serve(folder, config, mode="socks5", RES_OPTIONS=quick))
        yield proxy


def logged_in(lan: Lan, proxy: Proxy, user: str = "ann", password: str = "s3cret") -> tuple[socket.socket, int]:
    """A connection, and what it was told of its login."""
    sock = straight(lan, proxy)
    sock.sendall(b"\x05\x02\x00\x02" + bytes([1, len(user)]) + user.encode())
    sock.sendall(bytes([len(password)]) + password.encode())
    assert exactly(sock, 2) == b"\x05\x02"
    version, code = exactly(sock, 2)
    assert version == 1
    return sock, code


def test_whoever_must_log_in_does_it_by_socks(lan: Lan, socks: Proxy) -> None:
    with straight(lan, socks) as sock:
        sock.sendall(b"\x05\x01\x00")
        assert rest(sock) == b"\x05\xff"
    for user, password in ("ann", "wr0ng"), ("nobody", "s3cret"), ("", ""):
        sock, code = logged_in(lan, socks, user, password)
        with sock:
            assert code == 1
            # Nothing more is heard of it.
            sock.sendall(request_for(HOST, 443))
            assert rest(sock) == b""
    sock, _ = logged_in(lan, socks)
    context = ssl.create_default_context(cafile=str(socks.ca))
    sock.sendall(request_for(HOST, 443))
    assert exactly(sock, 10)[1] == 0
    with context.wrap_socket(sock, server_hostname=HOST) as secured:
        assert sha256(fetch(secured, lan.blob).read()) == lan.blob.rpartition("/")[2]
    sock, _ = logged_in(lan, socks)
    with sock:
        sock.sendall(request_for(HOST, 80))
        assert exactly(sock, 10)[1] == 0
        assert sha256(fetch(sock, lan.blob).read()) == lan.blob.rpartition("/")[2]
    with straight(lan, socks) as sock:
        sock.sendall(b"\x05\x01\x02\x01\x03ann\x06s3c")
    written = "\n".join((*socks.log.all(), *socks.program.out.all()))
    assert written.count("tried to log in with a wrong user or password") == 3
    assert not any(secret in written for secret in ("s3cret", "s3c", "wr0ng"))


CONNECT = b"\x05\x01\x00"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\x05\x02\x00\x01" + bytes(6), 7),
        (b"\x05\x03\x00\x01" + bytes(6), 7),
        (b"\x04\x01\x00\x01" + bytes(6), 7),
        (CONNECT + b"\x05" + bytes(6), 8),
        (request_for("absent.invalid", 443), 4),
        (request_for("a\0b", 443), 4),
        (request_for("reg\u00efstry.example", 443), 4),
        (request_for("", 443), 4),
        (request_for("localhost", 443), 2),
        (request_for("mail.example", 25), 2),
        (CONNECT + b"\x04" + bytes(15) + b"\x01" + b"\x00\x19", 0),
        (request_for("localhost", 5000), 4),
    ],
)
def test_what_socks_cannot_or_may_not_have(lan: Lan, socks: Proxy, request_: bytes, code: int) -> None:
    sock, _ = logged_in(lan, socks)
    with sock:
        sock.sendall(request_)
        assert exactly(sock, 10) == bytes([5, code, 0, 1]) + bytes(6)
        if code:
            assert rest(sock) == b""


def test_what_nobody_takes_yet_stays_with_the_client(lan: Lan, socks: Proxy) -> None:
    """While a name is looked up."""
    sock, _ = logged_in(lan, socks)
    with sock:
        sock.sendall(request_for("slow.invalid", 443))
        sock.settimeout(0.3)
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            while sent < LARGE:
                sent += sock.send(bytes(65536))
        assert sent < LARGE


def test_socks_leads_a_name_on_byte_for_byte(lan: Lan, socks: Proxy) -> None:
    """One that is not looked into: a registry's hello is none of ours there."""
    with lan.here.inside():
        server = socket.create_server(("127.0.0.1", 5000))
    with server:
        sock, _ = logged_in(lan, socks)
        with sock:
            said = hello(HOST)
            sock.sendall(request_for("localhost", 5000) + said)
            far, _ = server.accept()
            with far:
                far.settimeout(20)
                assert exactly(far, len(said)) == said
                far.sendall(b"\xff answered")
                assert exactly(sock, 10 + 10)[10:] == b"\xff answered"
