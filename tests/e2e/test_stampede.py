"""Many clients, two workers, one cold blob: one download, that all of them see coming.

LARGE_MIB=256 makes it larger.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from support.bulk import Bulk
from support.config import toml
from support.proxy import serve
from support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from support.proxy import Proxy
    from support.threads import LoopThread

CLIENTS = 32
MIB = 1 << 20
LARGE = int(os.environ.get("LARGE_MIB", "32")) * MIB
HEAD = 2000  # bytes of an answer that are not its body


def pull(proxy: Proxy, digest: str, all_have_begun: threading.Barrier) -> str:
    """The sha256 of what came. Nobody reads on before everybody has had a first byte."""
    with closing(proxy.client("registry-1.docker.io").connect()) as connection:
        connection.request("GET", f"/v2/library/app/blobs/{digest}")
        answer = connection.getresponse()
        assert answer.status == 200
        found = hashlib.sha256(answer.read(1))
        all_have_begun.wait(timeout=60)
        while piece := answer.read(MIB):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"


def test_a_stampede_is_one_download(loop_thread: LoopThread, tmp_path: Path) -> None:
    bulk = loop_thread.enter(Bulk(count=1, size=LARGE))
    # The download stops in its middle until every client has had its first byte.
    half, everybody = LARGE // 2, threading.Event()
    wire = loop_thread.enter(Wire(bulk.endpoint))
    wire.hold_at(half)
    (digest,) = bulk.digests
    config = toml({"docker.io": {"mirrors": [wire.endpoint], "fallback": False}, wire.endpoint: {"http": True}})

    def go_on() -> None:
        assert wire.carried <= half
        everybody.set()
        loop_thread.call(wire.release)

    barrier = threading.Barrier(CLIENTS, action=go_on)
    with serve(tmp_path / "proxy", config, workers=2) as proxy:
        with ThreadPoolExecutor(CLIENTS) as pool:
            got = list(pool.map(lambda _: pull(proxy, digest, barrier), range(CLIENTS)))
        lines = proxy.wait_answered(CLIENTS)
        workers = {match[1] for match in proxy.log.matching(r"worker (\d+) .*GET docker.io/library/app blob")}
    assert everybody.is_set()
    assert got == [digest] * CLIENTS
    assert sorted(line.cache for line in lines) == ["joined"] * (CLIENTS - 1) + ["miss"]
    assert workers == {"1", "2"}
    assert bulk.size <= wire.carried <= bulk.size + HEAD
