"""Attempts to use the proxy as a way to places that are none of its clients' business: each is refused and logged."""

from __future__ import annotations

import http.client
import socket
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.config import toml
from support.processes import needs
from support.proxy import mitmdump, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.proxy import Proxy

    Start = Callable[[Path, str], AbstractContextManager[Proxy]]

# Names and spellings of this machine, at whose loopback interface something listens.
HERE = (
    *("127.0.0.1", "localhost", "LocalHost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"),
)
METADATA = (
    *("169.254.169.254:80", "2852039166:80", "0xa9fea9fe:443", "[::ffff:a9fe:a9fe]:80", "100.100.100.200:80"),
    *("[fd00:ec2::254]:80", "[fe80::a9fe:a9fe]:80"),
)


@contextmanager
def two_workers(folder: Path, config: str) -> Iterator[Proxy]:
    with serve(folder, config, workers=2) as proxy:
        yield proxy


@pytest.fixture
def target() -> Iterator[list[socket.socket]]:
    """One port of both loopback addresses, which nobody must connect to."""
    with ExitStack() as stack:
        first = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        listening = [first]
        if socket.has_dualstack_ipv6():
            second = socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6)
            listening.append(stack.enter_context(closing(second)))
        for server in listening:
            server.setblocking(False)
        yield listening


def refused(proxy: Proxy, method: str, place: str) -> str:
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=20)) as connection:
        connection.request(method, place if method == "CONNECT" else f"http://{place}/latest/meta-data/")
        answer = connection.getresponse()
        told = answer.read().decode()
    assert answer.status == 403, (place, told)
    assert answer.reason.startswith("mirrortap does not connect to "), place
    assert "under [mirrortap]" in told or "itself" in told, place
    return answer.reason


@needs("skopeo")
@pytest.mark.parametrize("start", [two_workers, mitmdump], ids=["serve", "mitmdump"])
def test_relay_attempts(start: Start, target: list[socket.socket], tmp_path: Path) -> None:
    port = target[0].getsockname()[1]
    # As generous as it can be without naming a host.
    config = toml({}, {"tunnel": "all", "tunnel-ports": [80, 443, port], "allow-clients": ["127.0.0.1"]})
    with start(tmp_path / "proxy", config) as proxy:
        attempts = 0
        for method in "CONNECT", "GET":
            for place in [*(f"{host}:{port}" for host in HERE), *METADATA]:
                refused(proxy, method, place)
                attempts += 1
            assert "tunnel-ports" in refused(proxy, method, "mail.example.com:25")
            attempts += 1
        # Go programs tell people no more than the reason. To them 127.2 is no loopback address.
        told, _ = Sandbox(tmp_path / "home", proxy=proxy.url, ca=proxy.ca).pull_refused(f"127.2:{port}/app:1.0")
        assert f"mirrortap does not connect to 127.2:{port}: it is 127.0.0.2, this machine itself" in told
        with socket.create_connection((proxy.host, proxy.port), timeout=20, source_address=("127.0.0.2", 0)) as sock:
            try:
                sock.sendall(b"GET /ca.crt HTTP/1.1\r\n\r\n")
                assert sock.recv(1) == b""
            except ConnectionError:
                pass
    log = proxy.program.output().splitlines()
    refusals = [line for line in log if "127.0.0.1 was refused a connection: " in line]
    # Not skopeo's, which may try more than once.
    assert len([line for line in refusals if f" 127.2:{port} " not in line]) == attempts
    assert len([line for line in log if "127.0.0.2 was turned away: it is not in allow-clients" in line]) == 1
    assert not [line for line in log if "Traceback" in line]
    for server in target:
        with pytest.raises(BlockingIOError):
            server.accept()
