"""A running proxy is replaced by a newer one: no pull fails, and nothing happens when the newer one cannot start."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import sys
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.faults import Slow
from support.images import sha256
from support.processes import connectable, run
from support.proxy import MIRROR, ROOT, exchange, proxy_env, serve
from support.registry import FakeRegistry
from support.waiting import until

from addon import __version__, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

    from support.proxy import Proxy
    from support.threads import LoopThread

HOST = "registry.example"
NEWER = f"{__version__}.post20"
# More than the kernel and the layers hold of a transfer whose client does not read.
LARGE = 48 << 20


@pytest.fixture
def registry(loop_thread: LoopThread) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry())


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An installation of its own, to be upgraded."""
    folder = tmp_path / "installed"
    for package in "addon", "ca":
        shutil.copytree(ROOT / package, folder / package)
    return folder


@pytest.fixture(autouse=True)
def ended(tmp_path: Path) -> Iterator[None]:
    """Whatever has taken over ends with the test."""
    yield
    end(tmp_path / "proxy" / "data")


def end(data: Path) -> None:
    if found := running.find(data):
        process = os.pidfd_open(found.pid)
        signal.pidfd_send_signal(process, signal.SIGTERM)
        over, _, _ = select.select([process], [], [], 20)
        os.close(process)
        assert over


def changed(installed: Path, file: str, old: str, new: str) -> None:
    path = installed / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def newer(installed: Path) -> None:
    """What is installed now says so in its answers."""
    changed(installed, "addon/__init__.py", __version__, NEWER)
    changed(installed, "addon/doors/visitors.py", 'SERVER = "mirrortap"', f'SERVER = "mirrortap {NEWER}"')


def config(registry: FakeRegistry) -> str:
    return toml({HOST: {"server": registry.url}}, {"tunnel": [registry.endpoint]})


def restart(proxy: Proxy, *, fails: bool = False, program: Path = ROOT) -> CompletedProcess[str]:
    argv: list[str | Path] = [sys.executable, "-m", "addon.cli", "restart", "--data", proxy.data]
    ended = run(argv, env=proxy_env(proxy.data.parent), cwd=program, check=False)
    assert ended.returncode == (1 if fails else 0), f"{ended.stderr}\n{proxy.program.output()}"
    assert "Traceback" not in ended.stderr
    return ended


def blob(registry: FakeRegistry, data: bytes) -> str:
    return f"/v2/app/blobs/{registry.content.put_blob('app', data)}"


def opened(process: int) -> set[Path]:
    found = set()
    for fd in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(fd.readlink())
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


class Pulling:
    """Somebody who pulls again and again, with a new connection each time."""

    def __init__(self, pull: Callable[[], bytes], wanted: bytes) -> None:
        self.count = 0
        self.failures: list[object] = []
        self._pull, self._wanted = pull, wanted
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._enough.wait(0.05):  # not so often that nothing else gets on
            try:
                got = self._pull()
                if got != self._wanted:
                    self.failures.append(got)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
            self.count += 1

    def more(self) -> None:
        """Waits for some that begin now."""
        seen = self.count
        until(lambda: self.count > seen + 3)

    def __enter__(self) -> Pulling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


@contextmanager
def begun(connection: http.client.HTTPConnection, path: str) -> Iterator[Callable[[], bytes]]:
    """A transfer under way, which goes on when the rest is asked for."""
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        first = answer.read(1000)

        def rest() -> bytes:
            with closing(connection):
                return first + answer.read()

        yield rest


@contextmanager
def manager(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """What stands where systemd would: the next thing that it is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(folder / "notify"))
        told.settimeout(20)
        yield lambda: told.recv(4096).decode().split("\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_no_pull_fails_when_a_newer_one_takes_over(
    tmp_path: Path, installed: Path, registry: FakeRegistry, loop_thread: LoopThread, workers: int
) -> None:
    small, stored, coming, tunnelled = (
        blob(registry, data)
        for data in (b"content" * 10_000, bytes(LARGE), b"coming" * 100_000, b"through a tunnel" * 9_999)
    )
    gate = asyncio.Event()
    slow = [registry.inject(Slow(gate, 5000), path=path) for path in (coming, tunnelled)]
    with ExitStack() as stack:
        told = stack.enter_context(manager(tmp_path))
        proxy = stack.enter_context(
            serve(
                tmp_path / "proxy",
                config(registry),
                *MIRROR,
                workers=workers,
                program=installed,
                NOTIFY_SOCKET=str(tmp_path / "notify"),
            )
        )
        assert told() == ["READY=1"]
        client, mirror, old = proxy.client(HOST), proxy.mirror, proxy.program.pid
        stack.callback(loop_thread.call, gate.set)
        client.get(stored)
        until((proxy.cache / "blobs" / stored.rpartition("/")[2].replace(":", "/")).exists)

        def from_mirror() -> bytes:
            with closing(http.client.HTTPConnection(mirror, timeout=30)) as connection:
                return exchange(connection, "GET", small.replace("/v2/", f"/v2/{HOST}/")).body

        kept = stack.enter_context(closing(client.connect()))
        assert exchange(kept, "GET", small).headers["Connection"] is None
        reading = stack.enter_context(begun(client.connect(), stored))
        filling = stack.enter_context(begun(client.connect(), coming))
        tunnel = http.client.HTTPConnection(proxy.host, proxy.port, timeout=30)
        name, _, port = registry.endpoint.partition(":")
        tunnel.set_tunnel(name, int(port))
        led_on = stack.enter_context(begun(tunnel, tunnelled))

        content = b"content" * 10_000
        with Pulling(lambda: client.get(small).body, content) as short, Pulling(from_mirror, content) as mirrored:
            short.more()
            newer(installed)
            said = restart(proxy, program=installed)
            # Within the time that it is let live on; the doors may be told a moment after the command.
            answer = exchange(kept, "GET", small)
            while answer.headers["Connection"] is None:
                answer = exchange(kept, "GET", small)
            new = running.find(proxy.data)
            assert new
            for pulling in short, mirrored:
                pulling.more()
                assert pulling.failures == []
        words = re.fullmatch(
            rf"pid {old} -> pid (\d+), version {re.escape(__version__)} -> {re.escape(NEWER)}; (\d+) transfers are"
            r" finishing in the old one\n",
            said.stdout,
        )
        assert words, said.stdout
        assert int(words[1]) == new.pid
        assert int(words[2]) >= 3
        assert told() == [f"MAINPID={new.pid}", "READY=1"]
        # systemd would kill another process's child without waiting for it to stop.
        assert parent(new.pid) != old

        # The old one still runs: for what it has begun, and for connections that had been made.
        assert proxy.program.running
        assert proxy.data / running.LOCK in opened(new.pid)
        assert proxy.data / running.LOCK not in opened(old)
        assert (answer.body, answer.headers["Server"], answer.headers["Connection"]) == (content, "mirrortap", "close")
        assert client.get(small).headers["Server"] == f"mirrortap {NEWER}"
        with begun(client.connect(), coming) as following:
            loop_thread.call(gate.set)
            assert sha256(following()) == sha256(filling()) == coming.rpartition("/")[2]
        assert len([seen for seen in registry.requests if (seen.method, seen.path) == ("GET", coming)]) == 1
        assert [injection.hits for injection in slow] == [1, 1]
        assert sha256(led_on()) == tunnelled.rpartition("/")[2]
        assert sha256(reading()) == stored.rpartition("/")[2]
        until(lambda: not proxy.program.running)
        assert "were cut" not in proxy.program.output()

        end(proxy.data)
        assert told() == ["STOPPING=1"]
        assert not connectable((proxy.host, proxy.port))
    assert not list(proxy.data.glob(".upgrade*"))
    assert running.find(proxy.data) is None


def test_what_cannot_start_changes_nothing(tmp_path: Path, installed: Path, registry: FakeRegistry) -> None:
    path = blob(registry, b"content" * 1000)
    with serve(tmp_path / "proxy", config(registry), workers=2, program=installed) as proxy:
        old = proxy.program.pid
        client = proxy.client(HOST)
        client.get(path)
        good = (tmp_path / "proxy" / "mirrortap.toml").read_text()

        (tmp_path / "proxy" / "mirrortap.toml").write_text("[registry]\nmirorrs = 1\n")
        said = restart(proxy, fails=True).stderr
        assert said.startswith(f"mirrortap: pid {old} goes on, no other process could take over: {tmp_path}")
        assert "mirorrs" in said
        (tmp_path / "proxy" / "mirrortap.toml").write_text(good)

        # One that has already made a newer format of the database, and then breaks.
        newer(installed)
        changed(
            installed, "addon/cache/database.py", "_VERSION =", '_STEPS += ("CREATE TABLE later (x);",)\n_VERSION ='
        )
        welcome = (installed / "addon" / "welcome.py").read_text()
        (installed / "addon" / "welcome.py").write_text(welcome.replace("def text(", "def other("))
        said = restart(proxy, fails=True).stderr
        assert "it ended before it was up" in said
        proxy.log.wait_for("no other process could take over, and this one goes on")
        found = running.find(proxy.data)
        assert found
        assert found.pid == old
        for number in 1, 2:
            worker = int(proxy.log.wait_for(rf"worker {number} is up, pid (\d+)")[1])
            seen = len(proxy.log)
            os.kill(worker, signal.SIGKILL)
            proxy.log.wait_for(rf"worker {number} is up", since=seen)
        answer = client.get(path)
        assert (answer.body, answer.headers["Cache-Status"]) == (b"content" * 1000, "mirrortap; hit")
        assert "damaged" not in proxy.program.output()

        (installed / "addon" / "welcome.py").write_text(welcome)
        assert f"-> {NEWER}; no transfer was running" in restart(proxy).stdout
        assert client.get(path).headers["Cache-Status"] == "mirrortap; hit"
        until(lambda: not proxy.program.running)
        end(proxy.data)


@pytest.mark.parametrize("workers", [1, 2])
def test_both_end_when_they_are_told_to_stop_meanwhile(
    tmp_path: Path, installed: Path, registry: FakeRegistry, workers: int
) -> None:
    with serve(tmp_path / "proxy", config(registry), workers=workers, program=installed) as proxy:
        hangs = 'import os, time\nprint("pid", os.getpid(), "hangs", flush=True)\ntime.sleep(1000)\n'
        (installed / "addon" / "cli.py").write_text(hangs)
        proxy.program.signal(signal.SIGUSR2)
        new = int(proxy.program.out.wait_for(r"pid (\d+) hangs")[1])
        proxy.program.signal(signal.SIGUSR2)
        proxy.log.wait_for("SIGUSR2 is ignored: another process is taking over already")
        assert proxy.program.stop() == 0
        until(lambda: not Path(f"/proc/{new}").exists())
        assert running.find(proxy.data) is None


def by_socks(proxy: Proxy) -> http.client.HTTPConnection:
    """RFC 1928: the host's name is the proxy's to look up."""
    sock = socket.create_connection((proxy.host, proxy.port), timeout=30)
    sock.sendall(b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(HOST)]) + HOST.encode() + struct.pack("!H", 443))
    answer = b""
    while len(answer) < 2 + 10:
        answer += sock.recv(12 - len(answer))
    assert answer[:4] == b"\x05\x00\x05\x00"
    connection = http.client.HTTPConnection(HOST)
    connection.sock = ssl.create_default_context(cafile=str(proxy.ca)).wrap_socket(sock, server_hostname=HOST)
    return connection


@contextmanager
def watched(place: str) -> Iterator[http.client.HTTPResponse]:
    """What keeps a status page up to date."""
    with closing(http.client.HTTPConnection(place, timeout=30)) as connection:
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.readline().startswith(b"retry:")
        yield answer


def test_connections_that_wait_end_and_a_second_word_ends_the_rest(tmp_path: Path, registry: FakeRegistry) -> None:
    small, large = blob(registry, b"content"), blob(registry, bytes(LARGE))
    settings = toml({HOST: {"server": registry.url}}, {"drain-timeout": "100ms"})
    with ExitStack() as stack:
        proxy = stack.enter_context(serve(tmp_path / "proxy", settings, *MIRROR, mode="socks5"))
        kept, idle = (stack.enter_context(closing(by_socks(proxy))) for _ in range(2))
        plain = stack.enter_context(closing(http.client.HTTPConnection(proxy.mirror, timeout=30)))
        for connection, path in (kept, small), (idle, small), (plain, small.replace("/v2/", f"/v2/{HOST}/")):
            assert exchange(connection, "GET", path).headers["Connection"] is None
        watching = [stack.enter_context(watched(place)) for place in (f"{proxy.host}:{proxy.port}", proxy.mirror)]
        stack.enter_context(begun(by_socks(proxy), large))
        assert "; 1 transfer is finishing in the old one" in restart(proxy).stdout
        for page in watching:
            page.read()  # a status page that is open comes back to the newer one
        answer = exchange(kept, "GET", small)
        assert (answer.body, answer.headers["Connection"]) == (b"content", "close")
        # Nothing is cut off in the middle: a connection that waits ends as such, and the transfer goes on.
        assert idle.sock.recv(1) == plain.sock.recv(1) == b""
        assert proxy.program.running
        assert exchange(stack.enter_context(closing(by_socks(proxy))), "GET", small).body == b"content"
        proxy.program.signal(signal.SIGTERM)
        until(lambda: not proxy.program.running)
        proxy.log.wait_for("1 transfers were cut")
        assert exchange(stack.enter_context(closing(by_socks(proxy))), "GET", small).body == b"content"
        end(proxy.data)
