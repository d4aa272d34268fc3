"""What the proxy counts, says of its health and logs, held against what was done: over two workers and both doors."""

from __future__ import annotations

import http.client
import json
import re
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import bcrypt
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.access import basic
from support.config import toml
from support.images import Image, make_image
from support.proxy import MIRROR, exchange, serve
from support.registry import FakeRegistry
from support.waiting import until

from e2e.test_workers import pid, stopped

if TYPE_CHECKING:
    from pathlib import Path

    from support.proxy import Proxy, Response
    from support.threads import LoopThread

HOST, NAME = "registry.example", "library/app"
SETTINGS = {"tag-ttl": "1h", "prefetch": False}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def registry(loop_thread: LoopThread) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"), layer_sizes=(300_000, 2_000))


def page(address: str, path: str, **headers: str) -> Response:
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        return exchange(connection, "GET", path, headers)


def scraped(address: str) -> dict[str, Counter[tuple[str, ...]]]:
    """By metric, the samples by their labels' values, in the order of the labels' names."""
    answer = page(address, "/metrics")
    assert answer.status == 200
    found: dict[str, Counter[tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, Counter())[key] = int(sample.value)
    return found


class Run:
    """Requests, and what the proxy should count of them."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.requests: Counter[tuple[str, ...]] = Counter()
        self.sent: Counter[tuple[str, ...]] = Counter()
        self.seconds: Counter[tuple[str, ...]] = Counter()

    def ask(
        self,
        method: str,
        path: str,
        status: int,
        kind: str,
        outcome: str,
        size: int | None = None,
        door: bool = False,
        **headers: str,
    ) -> None:
        """`size` of the body, where it is known beforehand; `door`: by the mirror door instead of a tunnel."""
        if door:
            with closing(http.client.HTTPConnection(self._proxy.mirror, timeout=30)) as connection:
                answer = exchange(connection, method, path.replace("/v2/", f"/v2/{HOST}/"), headers)
        else:
            answer = self._proxy.client(HOST).request(method, path, headers)
        assert answer.status == status, (path, answer.body)
        assert size in (None, len(answer.body))
        self.requests[kind, outcome, HOST] += 1
        self.sent[outcome, HOST] += len(answer.body)
        self.seconds[kind, outcome] += 1

    def stored(self, *digests: str) -> None:
        """Until all of them are in the cache for all workers: one that has just got some has it before the disk has."""
        for digest in digests:
            until((self._proxy.cache / "blobs" / digest.replace(":", "/")).exists)


def test_the_counts_are_what_was_done(tmp_path: Path, registry: FakeRegistry, image: Image) -> None:
    registry.add(image, NAME, "1.0")
    top, (layer, small) = image.manifest, image.layers
    tag, manifest = f"/v2/{NAME}/manifests/1.0", f"/v2/{NAME}/manifests/{top.digest}"
    blobs = [f"/v2/{NAME}/blobs/{part.digest}" for part in (layer, small)]
    with serve(tmp_path / "proxy", toml({HOST: {"server": registry.url}}, SETTINGS), *MIRROR, workers=2) as proxy:
        run, workers = Run(proxy), [pid(proxy, number) for number in (1, 2)]
        # 3 misses, by one worker.
        with stopped(workers[0]):
            run.ask("GET", tag, 200, "manifest", "miss", len(top.data))
            for path, part in zip(blobs, (layer, small), strict=True):
                run.ask("GET", path, 200, "blob", "miss", len(part.data))
            run.stored(top.digest, layer.digest, small.digest)
        # 20 hits, 10 by each.
        for each in workers:
            with stopped(each):
                run.ask("HEAD", tag, 200, "manifest", "hit", 0)
                run.ask("GET", manifest, 200, "manifest", "hit", len(top.data))
                run.ask("HEAD", manifest, 200, "manifest", "hit", 0, door=True)
                run.ask("GET", tag, 200, "manifest", "hit", len(top.data), door=True)
                run.ask("HEAD", blobs[0], 200, "blob", "hit", 0)
                run.ask("GET", blobs[0], 200, "blob", "hit", len(layer.data))
                run.ask("GET", blobs[1], 200, "blob", "hit", len(small.data), door=True)
                run.ask("GET", blobs[0], 206, "blob", "hit", 1000, Range="bytes=500-1499")
                run.ask("GET", blobs[0], 206, "blob", "hit", 77, door=True, Range="bytes=-77")
                run.ask("GET", blobs[1], 416, "blob", "hit", 0, Range="bytes=999999-")
        # 9 for what nobody has: the origin's own answer, but for clients of a mirror ours.
        for path, kind in (
            (f"/v2/{NAME}/manifests/2.0", "manifest"),
            (f"/v2/{NAME}/blobs/sha256:{'0' * 64}", "blob"),
            (f"/v2/{NAME}/manifests/sha256:{'1' * 64}", "manifest"),
        ):
            run.ask("GET", path, 404, kind, "relayed")
            run.ask("HEAD", path, 404, kind, "relayed", 0)
            run.ask("GET", path, 404, kind, "refused", door=True)
        # 3 that the origin answers itself, and 15 hits by whoever is free.
        for path in "/v2/", f"/v2/{NAME}/tags/list", f"/v2/{NAME}/referrers/{top.digest}":
            run.ask("GET", path, 200, "referrers" if "referrers" in path else "other", "relayed")
        for number in range(15):
            run.ask("GET", blobs[number % 2], 200, "blob", "hit")
        assert sum(run.requests.values()) == 50

        for address in proxy.mirror, f"{proxy.host}:{proxy.port}":
            found = await_counted(address, 50)
            assert found["mirrortap_requests_total"] == run.requests
            assert found["mirrortap_sent_bytes_total"] == run.sent
            assert found["mirrortap_request_seconds_count"] == run.seconds
            assert found["mirrortap_workers"][()] == 2
            assert found["mirrortap_fills_total"] == {(HOST, "stored"): 3, (HOST, "failed"): 4}
            assert found["mirrortap_fill_seconds_count"] == {(HOST,): 3}
            assert found["mirrortap_fills_running"][()] == found["mirrortap_transfers_cut_total"][()] == 0
            there = registry.endpoint, HOST
            assert found["mirrortap_endpoint_up"][there] == 1
            asked = len(registry.seen("manifest")) + len(registry.seen("blob"))
            # Six times it was asked once more as the client itself, whose answer that is.
            assert found["mirrortap_endpoint_requests_total"] == Counter({there: asked - 6})
            size = len(top.data) + len(layer.data) + len(small.data)
            assert found["mirrortap_received_bytes_total"] == Counter({there: size})
            assert found["mirrortap_cache_bytes"][()] == size
            assert found["mirrortap_cache_files"][()] == 3
            assert found["mirrortap_endpoint_failures_total"] == Counter()
            assert json.loads(page(address, "/readyz", Accept="application/json").body)["ready"]


def await_counted(address: str, count: int) -> dict[str, Counter[tuple[str, ...]]]:
    """What is told when so many requests are counted. Workers hear of each other twice a second: another one that is
    asked next may not know of all of them yet."""
    told: list[dict[str, Counter[tuple[str, ...]]]] = []

    def counted() -> bool:
        told.append(scraped(address))
        return sum(told[-1].get("mirrortap_requests_total", {}).values()) >= count

    until(counted)
    return told[-1]


def test_probes_need_no_login_and_hear_of_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    folder, users = tmp_path / "proxy", "ann:" + bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    folder.mkdir()
    (folder / "users").write_text(users)
    (folder / "users").chmod(0o600)
    with serve(folder, toml({}, {"proxy-users": "users"}), *MIRROR) as proxy:
        addresses = proxy.mirror, f"{proxy.host}:{proxy.port}"
        for address in addresses:
            alive = page(address, "/healthz")
            assert (alive.status, alive.body) == (200, b"ok\n")
            assert page(address, "/metrics").status == 401
        aside = proxy.cache.rename(proxy.data / "aside")
        proxy.cache.write_text("in the way")
        ready = page(proxy.mirror, "/readyz")
        assert ready.status == 503
        assert b"NOT OK: store cannot be written: Not a directory" in ready.body
        assert b"ok: door listens\n" in ready.body
        assert page(proxy.mirror, "/healthz").status == 200
        proxy.cache.unlink()
        aside.rename(proxy.cache)
        for address in addresses:
            assert page(address, "/metrics", Authorization=basic("ann", "pw")).status == 200


def test_the_log_is_json_on_demand(tmp_path: Path, registry: FakeRegistry, image: Image) -> None:
    registry.add(image, NAME, "1.0")
    config = toml({HOST: {"server": registry.url}}, SETTINGS)
    with serve(tmp_path / "proxy", config, workers=2, MIRRORTAP_LOG_FORMAT="json") as proxy:
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "User-Agent": "a-client/1.0"}
        answer = proxy.client(HOST).get(f"/v2/{NAME}/manifests/1.0", headers)
        assert answer.status == 200
        proxy.log.wait_for('"method": "GET"')
        proxy.client(HOST).get("/v2/?secret", {"Authorization": "Bearer secret"})
        proxy.log.wait_for('"kind": "other"')
    lines = [json.loads(line) for line in proxy.log.all()]
    assert {frozenset(("time", "level", "message", "worker")) - set(line) for line in lines} == {frozenset()}
    pull, ping = [line for line in lines if "method" in line]
    assert pull["worker"] in (1, 2)
    assert (pull["registry"], pull["repository"], pull["reference"]) == (HOST, NAME, "1.0")
    assert (pull["outcome"], pull["endpoint"], pull["sent"]) == ("miss", registry.endpoint, len(image.manifest.data))
    assert (pull["client"], pull["trace"], pull["agent"]) == ("127.0.0.1", TRACE, "a-client/1.0")
    assert (ping["kind"], ping["outcome"], ping["trace"]) == ("other", "relayed", "")
    assert "secret" not in "".join(proxy.log.all())
    assert [line["worker"] for line in lines if re.search(r"^is up, pid \d+$", line["message"])] in ([1, 2], [2, 1])
