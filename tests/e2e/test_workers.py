"""Several processes on one port: who answers, what a dead one costs, and how all of them end."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.config import toml
from support.images import sha256
from support.processes import connectable, run
from support.proxy import MIRROR, ROOT, TOLD_LATE, exchange, proxy_env, serve
from support.registry import FakeRegistry
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.proxy import Proxy
    from support.threads import LoopThread

HOST = "registry.example"
UP = r"worker {} is up, pid (\d+)$"
# More than the kernel and the layers hold of a transfer whose client does not read.
LARGE = 48 << 20


@pytest.fixture
def registry(loop_thread: LoopThread) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry())


def config(registry: FakeRegistry) -> str:
    return toml({HOST: {"server": registry.url}})


@pytest.fixture
def proxy(tmp_path: Path, registry: FakeRegistry) -> Iterator[Proxy]:
    with serve(tmp_path / "proxy", config(registry), workers=2) as proxy:
        for number in (1, 2):
            pid(proxy, number)
        yield proxy


def pid(proxy: Proxy, number: int, since: int = 0) -> int:
    """The process of this worker, as soon as it is up."""
    return int(proxy.log.wait_for(UP.format(number), since=since)[1])


def blob(registry: FakeRegistry, data: bytes) -> str:
    return f"/v2/app/blobs/{registry.content.put_blob('app', data)}"


def warm(proxy: Proxy, path: str) -> None:
    """Until the blob is in the cache for all of them: what is on its way to the disk, one process alone can serve."""
    stored = proxy.cache / "blobs" / path.rpartition("/")[2].replace(":", "/")
    proxy.client(HOST).get(path)
    until(stored.exists)
    proxy.client(HOST).get(path)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that does nothing at all meanwhile, and so cannot take a connection."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def gone(process: int) -> bool:
    """Whether it has ended; nobody may have taken notice of that yet."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def until_closed(proxy: Proxy) -> None:
    until(lambda: not connectable((proxy.host, proxy.port)))


@contextmanager
def half_read(proxy: Proxy, path: str) -> Iterator[Callable[[], bytes]]:
    """A transfer under way, which goes on when the rest is asked for."""
    with closing(proxy.client(HOST).connect()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        begun = answer.read(100_000)
        yield lambda: begun + answer.read()


def test_whichever_worker_is_free_answers_from_the_one_cache(proxy: Proxy, registry: FakeRegistry) -> None:
    path = blob(registry, b"content" * 1000)
    with stopped(pid(proxy, 1)):
        warm(proxy, path)
        proxy.log.wait_for(rf"worker 2 GET {HOST}/app blob \S+ 200 miss")
    for busy, free in ((2, 1), (1, 2)):
        with stopped(pid(proxy, busy)):
            answer = proxy.client(HOST).get(path)
            assert (answer.body, answer.headers["Cache-Status"]) == (b"content" * 1000, "mirrortap; hit")
            proxy.log.wait_for(rf"worker {free} GET {HOST}/app blob \S+ 200 hit")
    assert [seen.method for seen in registry.requests].count("GET") == 1


def test_connections_are_spread_over_the_workers(proxy: Proxy, registry: FakeRegistry) -> None:
    path = blob(registry, b"content")
    warm(proxy, path)
    seen = len(proxy.log)
    with ThreadPoolExecutor(10) as threads:
        assert {answer.body for answer in threads.map(proxy.client(HOST).get, [path] * 100)} == {b"content"}
    proxy.wait_answered(100, since=seen)
    lines = proxy.log.matching(rf"worker (\d) GET {HOST}/app blob", since=seen)
    share = [sum(line[1] == number for line in lines) for number in "12"]
    assert min(share) >= 10, share


def test_one_process_has_no_number(tmp_path: Path, registry: FakeRegistry) -> None:
    path = blob(registry, b"content")
    with serve(tmp_path / "proxy", config(registry)) as proxy:
        proxy.client(HOST).get(path)
        proxy.log.wait_for(rf"^\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d GET {HOST}/app blob")
        assert "worker" not in proxy.program.output()


def test_a_killed_worker_is_replaced_while_the_other_goes_on(proxy: Proxy, registry: FakeRegistry) -> None:
    path = blob(registry, bytes(LARGE))
    warm(proxy, path)
    first, second = pid(proxy, 1), pid(proxy, 2)
    with ExitStack() as stack:
        with stopped(first):
            rest = stack.enter_context(half_read(proxy, path))
        seen = len(proxy.log)
        os.kill(first, signal.SIGKILL)
        proxy.log.wait_for(rf"worker 1 \(pid {first}\) was ended by signal 9 \(Killed\); starting another", since=seen)
        replacement = pid(proxy, 1, since=seen)
        assert replacement != first
        with stopped(second):
            assert sha256(proxy.client(HOST).get(path).body) == path.rpartition("/")[2]
        assert sha256(rest()) == path.rpartition("/")[2]
    assert pid(proxy, 2) == second


def test_connections_that_wait_are_not_lost_with_a_worker(proxy: Proxy, registry: FakeRegistry) -> None:
    path = blob(registry, b"content")
    client = proxy.client(HOST)
    first = pid(proxy, 1)
    with stopped(pid(proxy, 2)), ThreadPoolExecutor(10) as threads:
        os.kill(first, signal.SIGSTOP)
        answers = [threads.submit(client.get, path) for _ in range(10)]
        until_waiting(proxy.port, 10)
        os.kill(first, signal.SIGKILL)
        assert {answer.result().body for answer in answers} == {b"content"}


def until_waiting(port: int, count: int) -> None:
    """Until so many connections are open at the port, as the kernel has it (proc(5), /proc/net/tcp)."""
    established = re.compile(rf" [0-9A-F]{{8}}:{port:04X} [0-9A-F]{{8}}:[0-9A-F]{{4}} 01 ")
    until(lambda: len(established.findall(Path("/proc/net/tcp").read_text())) >= count)


def test_a_worker_that_cannot_start_again_is_tried_until_it_can(proxy: Proxy, registry: FakeRegistry) -> None:
    path = blob(registry, b"content")
    database = proxy.cache / "mirrortap.sqlite"
    aside = database.rename(proxy.data / "aside")
    database.mkdir()
    seen = len(proxy.log)
    os.kill(pid(proxy, 1), signal.SIGKILL)
    told = rf"worker 1 \(pid \d+\) could not start: {re.escape(str(database))}: cannot be used .*; starting another in "
    proxy.log.wait_for(told, since=seen, count=2)
    assert proxy.client(HOST).get(path).body == b"content"
    database.rmdir()
    aside.rename(database)
    pid(proxy, 1, since=seen)
    with stopped(pid(proxy, 2)):
        assert proxy.client(HOST).get(path).body == b"content"


def test_workers_end_with_their_supervisor_and_leave_port_and_folder_free(
    tmp_path: Path, registry: FakeRegistry
) -> None:
    path = blob(registry, bytes(LARGE))
    with serve(tmp_path / "proxy", config(registry), workers=2, ends=-signal.SIGKILL) as proxy:
        workers = [pid(proxy, number) for number in (1, 2)]
        warm(proxy, path)
        with half_read(proxy, path) as rest:
            proxy.program.signal(signal.SIGKILL)
            until_closed(proxy)
            # A worker that still has its transfer is not in the way of a new start.
            assert not all(gone(worker) for worker in workers)
            with serve(tmp_path / "proxy", config(registry), port=proxy.port, workers=2) as again:
                assert again.port == proxy.port
                assert again.client(HOST).get(path).headers["Cache-Status"] == "mirrortap; hit"
                assert sha256(rest()) == path.rpartition("/")[2]
                until(lambda: all(map(gone, workers)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_transfers_are_finished_when_all_are_told_to_stop(
    proxy: Proxy, registry: FakeRegistry, number: signal.Signals
) -> None:
    path = blob(registry, bytes(LARGE))
    warm(proxy, path)
    workers = [pid(proxy, number) for number in (1, 2)]
    with half_read(proxy, path) as rest:
        proxy.program.signal(number)
        until_closed(proxy)
        proxy.program.signal(number)
        proxy.log.wait_for(r"worker \d stopping when 1 running transfers are through")
        assert sha256(rest()) == path.rpartition("/")[2]
    assert proxy.program.wait() == 0
    until(lambda: all(map(gone, workers)))
    assert "starting another" not in proxy.program.output()


def test_a_port_that_is_taken_is_told_once(proxy: Proxy, tmp_path: Path) -> None:
    address = f"{proxy.host}:{proxy.port}"
    options = ["--listen", address, "--data", str(tmp_path / "other"), "--workers", "2"]
    argv = [sys.executable, "-m", "addon.cli", "serve", *options]
    ended = run(argv, env=proxy_env(tmp_path), cwd=ROOT, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"mirrortap: {address}: cannot be listened on: Address already in use; choose another address with --listen\n"
    )


def test_a_folder_that_is_in_use_is_told_once(proxy: Proxy, tmp_path: Path) -> None:
    options = ["--listen", "127.0.0.1:0", "--data", str(proxy.data), "--workers", "2"]
    argv = [sys.executable, "-m", "addon.cli", "serve", *options]
    ended = run(argv, env=proxy_env(tmp_path), cwd=ROOT, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"mirrortap: {proxy.data}: is in use by another mirrortap; ")


def test_the_mirrors_port_is_shared_as_well(tmp_path: Path, registry: FakeRegistry) -> None:
    path = blob(registry, bytes(LARGE))
    mirrored = path.replace("/v2/", f"/v2/{HOST}/")
    with serve(tmp_path / "proxy", config(registry), *MIRROR, workers=2, PYTHONPATH=TOLD_LATE) as proxy:
        warm(proxy, path)
        for busy, free in ((2, 1), (1, 2)):
            with stopped(pid(proxy, busy)), closing(http.client.HTTPConnection(proxy.mirror, timeout=30)) as client:
                assert sha256(exchange(client, "GET", mirrored).body) == path.rpartition("/")[2]
                proxy.log.wait_for(rf"worker {free} GET {HOST}/app blob \S+ 200 hit")
        # Both doors have a transfer to finish.
        with half_read(proxy, path) as rest, closing(http.client.HTTPConnection(proxy.mirror, timeout=30)) as client:
            client.request("GET", mirrored)
            answer = client.getresponse()
            begun = answer.read(100_000)
            proxy.program.signal(signal.SIGTERM)
            until_closed(proxy)
            assert sha256(rest()) == path.rpartition("/")[2]
            assert sha256(begun + answer.read()) == path.rpartition("/")[2]
