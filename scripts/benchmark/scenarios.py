"""What is done with each server, and which figures that gives."""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmark.content import TAG, Content, Item
from benchmark.errors import BenchError
from benchmark.measure import cpu_seconds, forget_peaks, peak, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmark.clients import Clients
    from benchmark.servers import Server, Way

_MIB = 1 << 20


@dataclass(frozen=True)
class Metric:
    key: str
    header: str
    digits: int = 2
    ratio: bool = False  # also as a multiple of the scenario's base


RATE, SECONDS = Metric("rate", "MB/s", 0, ratio=True), Metric("seconds", "s", 2, ratio=True)
CPU, PEAK = Metric("cpu", "CPU-s/GB"), Metric("peak", "peak RSS, MiB", 0)
UPSTREAM, REQUESTS = Metric("upstream", "from the origin, x"), Metric("requests", "its requests", 0)
FIRST = Metric("first", "last first byte, s")


@dataclass(frozen=True)
class Stage:
    """A server that is ready, and all that a scenario needs besides."""

    server: Server
    clients: Clients
    content: Content
    folder: Path  # for what clients write
    profile: Callable[[Server], AbstractContextManager[None]] = lambda server: nullcontext()  # while it is measured


@dataclass(frozen=True)
class Scenario(ABC):
    name: str
    title: str
    targets: tuple[str, ...]
    base: str = "nginx"  # the target that ratios are to; "": there are none
    upstream: str | None = None  # the origin's port when it is cold: nothing is cached; None: all is
    programs: ClassVar[Mapping[str, str]] = {}  # that its clients are, and their packages

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]: ...

    @abstractmethod
    def items(self, content: Content) -> list[Item]:
        """What it pulls."""

    @abstractmethod
    def check(self, stage: Stage) -> None:
        """Raises BenchError when what clients get is not what was asked for. Not timed."""

    @abstractmethod
    def run(self, stage: Stage) -> dict[str, float]:
        """The figures that are its own."""

    def measure(self, stage: Stage) -> dict[str, float]:
        """`run`, with what it has cost the server and the origin."""
        server, items = stage.server, self.items(stage.content)
        with stage.profile(server):
            forget_peaks(server.pid)
            mark, before = server.origin.mark(), cpu_seconds(server.pid)
            values = self.run(stage)
            if self.upstream:
                settle(server.pid)
            used = cpu_seconds(server.pid) - before
        fetched = [server.origin.since(mark, server.upstream, item.where) for item in items]
        size, requests = sum(each.size for each in fetched), sum(each.requests for each in fetched)
        if requests and server.caches and not self.upstream:
            raise BenchError("it has fetched again what should be cached")
        if received := values.pop("received", 0.0):
            values["cpu"] = used / received * 1e9
        return {
            **values,
            "peak": peak(server.pid) / _MIB,
            "upstream": size / sum(item.size for item in items),
            "requests": requests,
        }


@dataclass(frozen=True)
class Blob(Scenario):
    """One blob, by some clients at once; `pick` says which."""

    pick: Callable[[Content], Item] = lambda content: content.big
    clients: int = 1
    plain: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        if not self.upstream:
            return (RATE, CPU, PEAK)
        return (SECONDS, *((FIRST,) if self.clients > 1 else ()), CPU, UPSTREAM, REQUESTS, PEAK)

    def items(self, content: Content) -> list[Item]:
        return [self.pick(content)]

    def check(self, stage: Stage) -> None:
        stage.clients.check(self._way(stage.server), self.pick(stage.content), self.clients)

    def run(self, stage: Stage) -> dict[str, float]:
        item = self.pick(stage.content)
        took = stage.clients.fetch(self._way(stage.server), item, self.clients)
        received = item.size * self.clients
        return {
            "seconds": took.seconds,
            "first": took.first,
            "rate": received / took.seconds / 1e6,
            "received": received,
        }

    def _way(self, server: Server) -> Way:
        way = server.plain if self.plain else server.way
        if way is None:
            raise BenchError(f"{server.name} has no door without TLS")
        return way


@dataclass(frozen=True)
class Requests(Scenario):
    """A manifest by its digest, again and again; and how soon a small blob begins."""

    seconds: float = 1.0

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("rate1", "req/s, 1 connection", 0, ratio=True),
            Metric("p50-1", "p50, ms"),
            Metric("p99-1", "p99, ms"),
            Metric("rate8", "req/s, 8 connections", 0, ratio=True),
            Metric("p50-8", "p50, ms"),
            Metric("p99-8", "p99, ms"),
            Metric("new", "new connections/s", 0, ratio=True),
            Metric("idle", "first byte of a hit, idle, ms"),
            Metric("work", "CPU-ms/request"),
        )

    def items(self, content: Content) -> list[Item]:
        return [content.manifest, content.small]

    def check(self, stage: Stage) -> None:
        for item in self.items(stage.content):
            stage.clients.check(stage.server.way, item)

    def run(self, stage: Stage) -> dict[str, float]:
        server, manifest = stage.server, stage.content.manifest
        idle = stage.clients.load(server.way, stage.content.small, "idle", 50, 0)
        one = stage.clients.load(server.way, manifest, "requests", 1, self.seconds)
        before = cpu_seconds(server.pid)
        eight = stage.clients.load(server.way, manifest, "requests", 8, self.seconds)
        used = cpu_seconds(server.pid) - before
        new = stage.clients.load(server.way, manifest, "connections", 4, self.seconds)
        return {
            "rate1": one["rate"],
            "p50-1": one["p50"],
            "p99-1": one["p99"],
            "rate8": eight["rate"],
            "p50-8": eight["p50"],
            "p99-8": eight["p99"],
            "new": new["rate"],
            "idle": idle["p50"],
            "work": used / (eight["rate"] * self.seconds) * 1000,
        }


@dataclass(frozen=True)
class Pull(Scenario):
    """An image of four layers, by a real program."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (SECONDS, CPU, *((UPSTREAM, REQUESTS) if self.upstream else ()), PEAK)

    def items(self, content: Content) -> list[Item]:
        return list(content.layers)

    def check(self, stage: Stage) -> None:
        try:
            self.pull(stage)
            for layer in stage.content.layers:
                with self.written(stage, layer).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if f"sha256:{digest}" != layer.digest:
                    raise BenchError(f"the client has wrong bytes: {digest} in place of {layer.digest}")
        finally:
            self.forget(stage)

    def run(self, stage: Stage) -> dict[str, float]:
        try:
            seconds = self.pull(stage)
        finally:
            self.forget(stage)
        return {"seconds": seconds, "received": sum(layer.size for layer in stage.content.layers)}

    @abstractmethod
    def pull(self, stage: Stage) -> float:
        """Seconds it took."""

    @abstractmethod
    def written(self, stage: Stage, layer: Item) -> Path:
        """Where the program has put it."""

    @abstractmethod
    def forget(self, stage: Stage) -> None:
        """So that it pulls anew."""


class Skopeo(Pull):
    programs: ClassVar = {"skopeo": "skopeo"}

    def pull(self, stage: Stage) -> float:
        way, folder = stage.server.way, self._folder(stage)
        return stage.clients.run(
            "skopeo", "--insecure-policy", "copy", f"docker://{way.reference}", f"dir:{folder}", way=way
        )

    def written(self, stage: Stage, layer: Item) -> Path:
        return self._folder(stage) / layer.digest.removeprefix("sha256:")

    def forget(self, stage: Stage) -> None:
        shutil.rmtree(self._folder(stage), ignore_errors=True)

    def _folder(self, stage: Stage) -> Path:
        return stage.folder / f"skopeo-{stage.server.name}"


class Ctr(Pull):
    """With a containerd of its own, started in `Stage.folder` by whoever runs the scenarios."""

    programs: ClassVar = {"ctr": "containerd", "containerd": "containerd"}

    def pull(self, stage: Stage) -> float:
        way = stage.server.way
        options = [] if way.proxy else ["--hosts-dir", str(self._hosts(stage, way))]
        return stage.clients.run(*self._ctr(stage, "content", "fetch", *options, way.reference), way=way)

    def written(self, stage: Stage, layer: Item) -> Path:
        content = stage.folder / "containerd" / "root" / "io.containerd.content.v1.content"
        return content / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")

    def forget(self, stage: Stage) -> None:
        way = stage.server.way
        stage.clients.run(*self._ctr(stage, "images", "rm", "--sync", way.reference), way=way)

    def _hosts(self, stage: Stage, way: Way) -> Path:
        """Where ctr is told to speak TLS also to a loopback address."""
        folder = stage.folder / "hosts.d"
        (folder / way.authority).mkdir(parents=True, exist_ok=True)
        told = f'[host."https://{way.authority}"]\nca = "{way.ca}"\n'
        (folder / way.authority / "hosts.toml").write_text(told)
        return folder

    def _ctr(self, stage: Stage, *command: str) -> list[str]:
        return ["ctr", "--address", str(stage.folder / "containerd" / "socket"), *command]


def _layer(content: Content) -> Item:
    return content.layers[0]


_WARM = ("nginx", "squid", "registry", "mitmproxy", "mirrortap", "mirrortap-2")
_COLD = ("nginx", "squid", "registry", "mirrortap")
_ALONE = ("mirrortap",)
_PULLED = ("registry-own", "mirrortap")
_FAST, _SLOW = "100 MB/s", "20 MB/s"

SCENARIOS: tuple[Scenario, ...] = (
    Blob("S1", "warm, 1 client", _WARM),
    Blob("S1H", "warm, 1 client, plain http: the mirror door", ("nginx", "mirrortap"), plain=True),
    Blob("S2", "warm, 8 clients, each a copy of one blob of a quarter", _WARM, pick=_layer, clients=8),
    Requests("S5", "warm manifest by digest", ("nginx", "squid", "registry", "mirrortap", "mirrortap-2")),
    Skopeo("S6", f"warm image of 4 layers, `skopeo copy` of :{TAG} to dir:", _PULLED, "registry-own"),
    Ctr("S6C", f"warm image of 4 layers, `ctr content fetch` of :{TAG}", _PULLED, "registry-own"),
    Blob("S3", "cold, origin unlimited, 1 client", _COLD, upstream="unlimited"),
    Blob(
        "S3L",
        "cold, origin 100 MB/s per connection, 1 client",
        (*_COLD, "mirrortap-one-stream"),
        upstream=_FAST,
    ),
    Blob("S4", "cold, 16 clients at once, a quarter, 100 MB/s", _COLD, upstream=_FAST, pick=_layer, clients=16),
    Blob("S4A", "S4 with one client alone", _ALONE, "", upstream=_FAST, pick=_layer),
    Blob("S4L", "cold, 16 clients at once, a quarter, 20 MB/s", _COLD, upstream=_SLOW, pick=_layer, clients=16),
    Blob("S4LA", "S4L with one client alone", _ALONE, "", upstream=_SLOW, pick=_layer),
    Skopeo("S6L", "cold image of 4 layers, `skopeo copy`, 100 MB/s", ("nginx", "mirrortap"), upstream=_FAST),
)
TAGGED = tuple(scenario for scenario in SCENARIOS if isinstance(scenario, Pull))
