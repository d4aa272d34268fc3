"""What changes for clients when the configuration does, while the proxy runs."""

from __future__ import annotations

import asyncio
import base64
import http.client
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.faults import Slow
from support.images import sha256
from support.proxy import Proxy, exchange, mitmdump
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from support.config import Table
    from support.threads import LoopThread

    from doors.conftest import Serve

HOST = "registry.example"
# As `htpasswd -nbBC 4 ann s3cret` writes it.
ANN = "ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L."

LOGIN = f"Proxy-Authorization: Basic {base64.b64encode(b'ann:s3cret').decode()}"

Change = Callable[..., None]


@pytest.fixture
def registry(loop_thread: LoopThread) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry())


@pytest.fixture
def proxy(registry: FakeRegistry, start_proxy: Serve) -> Proxy:
    return start_proxy(toml({HOST: {"server": registry.url}}))


@pytest.fixture
def change(proxy: Proxy, registry: FakeRegistry, tmp_path: Path) -> Change:
    """change(settings, hosts): until that is in force."""

    def change(settings: Table | None = None, hosts: tuple[str, ...] = (HOST,)) -> None:
        seen = len(proxy.log)
        (tmp_path / "proxy" / "mirrortap.toml").write_text(
            toml({host: {"server": registry.url} for host in hosts}, settings)
        )
        proxy.program.signal(signal.SIGHUP)
        proxy.log.wait_for("the configuration has changed, and is in use", since=seen)

    return change


def blob(registry: FakeRegistry, data: bytes) -> str:
    return f"/v2/app/blobs/{registry.content.put_blob('app', data)}"


def connected(proxy: Proxy, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=20, source_address=(source, 0))


def status(sock: socket.socket, target: str, *headers: str) -> int | None:
    """What a CONNECT is answered with; None when the proxy hangs up."""
    try:
        sock.sendall("\r\n".join((f"CONNECT {target} HTTP/1.1", *headers, "", "")).encode())
        answer = http.client.HTTPResponse(sock, method="CONNECT")
        answer.begin()
    except (ConnectionError, http.client.BadStatusLine):
        return None
    return answer.status


def asked(proxy: Proxy, target: str = f"{HOST}:443", *headers: str, source: str = "127.0.0.1") -> int | None:
    with connected(proxy, source) as sock:
        return status(sock, target, *headers)


def test_who_may_use_it_and_for_what(proxy: Proxy, registry: FakeRegistry, change: Change, tmp_path: Path) -> None:
    assert asked(proxy) == 200
    change({"allow-clients": ["127.0.0.2/32"]})
    assert (asked(proxy), asked(proxy, source="127.0.0.2")) == (None, 200)

    for name, user, answer in ("users", "ann", 200), ("others", "bea", 407):
        (tmp_path / "proxy" / name).write_text(ANN.replace("ann:", f"{user}:"))
        (tmp_path / "proxy" / name).chmod(0o600)
        change({"proxy-users": name})
        assert asked(proxy) == 407
        assert asked(proxy, f"{HOST}:443", LOGIN) == answer
    change({"connections-per-client": 1})
    with connected(proxy) as first:
        assert status(first, f"{HOST}:443") == 200
        assert asked(proxy) is None
        change({"tunnel": []})
        assert asked(proxy) == 200

    elsewhere = registry.endpoint
    assert asked(proxy, elsewhere) == 403
    change({"tunnel": [elsewhere]})
    assert asked(proxy, elsewhere) == 200
    change({"tunnel": ["127.0.0.1"], "tunnel-ports": [int(elsewhere.partition(":")[2]) ^ 1]})
    assert asked(proxy, elsewhere) == 403

    change({"offline": True})
    assert (asked(proxy, "other.example:443"), asked(proxy)) == (504, 200)
    assert proxy.client(HOST).get("/v2/app/manifests/1").status == 504
    for setting, begun in ("header-timeout", b"CONN"), ("idle-timeout", b""):
        change({setting: "200ms"})
        with connected(proxy) as sock:
            sock.sendall(begun)
            # The default of either is longer than this connection's own patience.
            while sock.recv(4096):
                pass
    change()
    assert proxy.client(HOST).get("/v2/app/manifests/1").status == 404


def test_a_host_that_comes_and_goes(
    proxy: Proxy, registry: FakeRegistry, change: Change, loop_thread: LoopThread
) -> None:
    gate = asyncio.Event()
    content = bytes(3 << 20)
    path, other = blob(registry, content), blob(registry, b"other")
    registry.inject(Slow(gate, after=1 << 20), path=f"*{path}", method="GET")
    change(hosts=(HOST, "new.example"))
    client = proxy.client("new.example")
    with closing(client.connect()) as kept, closing(client.connect()) as busy:
        assert exchange(kept, "GET", other).body == b"other"
        busy.request("GET", path)
        answer = busy.getresponse()
        assert answer.read(100_000) == bytes(100_000)
        change()
        # It is a host like any other now, but not for those who have begun: whoever comes with what is blocked
        # or offline finds that out below.
        assert exchange(kept, "GET", other).body == b"other"
        loop_thread.run(opened(gate))
        assert sha256(bytes(100_000) + answer.read()) == sha256(content)
        change({"offline": True})
        assert exchange(kept, "GET", other).status == 504
        change()
        seen = len(registry.requests)
        assert asked(proxy, "new.example:443") == 502
        assert len(registry.requests) == seen
    assert not proxy.log.matching("a fault in mirrortap")


async def opened(gate: asyncio.Event) -> None:
    gate.set()


def test_mitmdump_watches_too(registry: FakeRegistry, loop_thread: LoopThread, tmp_path: Path) -> None:
    other = loop_thread.enter(FakeRegistry())
    paths = [blob(registry, b"one"), blob(other, b"other")]
    with mitmdump(tmp_path / "proxy", toml({HOST: {"server": registry.url}})) as proxy:
        assert proxy.client(HOST).get(paths[0]).body == b"one"
        assert proxy.client(HOST).get(paths[1]).status == 404
        (tmp_path / "proxy" / "mirrortap.toml").write_text(toml({HOST: {"server": other.url}}))
        proxy.program.out.wait_for(f"the configuration has changed, and is in use: changed {HOST}", timeout=30)
        assert proxy.client(HOST).get(paths[1]).body == b"other"
