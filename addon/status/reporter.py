"""Collects the facts: what this process and the other workers count, and what the cache's database and disk say."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes

from addon import __version__
from addon.cache import pins
from addon.cache.cache import Cache
from addon.cache.store import StoreError
from addon.counts.facts import (
    CacheFacts,
    CaFacts,
    Certificate,
    Evictable,
    Facts,
    Filling,
    Listening,
    Share,
)
from addon.counts.shares import merged
from addon.status import warned
from addon.status.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cryptography import x509

    from addon.admission.gate import Gate
    from addon.config.current import Current
    from addon.config.model import Config
    from addon.counts.facts import Answered
    from addon.counts.slots import Slots
    from addon.counts.tally import Tally
    from addon.oci import Digest
    from addon.pulls.fill import Fill
    from addon.pulls.fills import Fills
    from addon.renewal import Renewal
    from addon.status.health import Trial
    from addon.upstream.standing import Standing
    from addon.watching import Watch

# Seconds between two looks at what is shared with other workers, and between two times that charts are written down.
_SHARING, _CHARTING = 0.5, 1.0
# Seconds for which facts are as good as new: many may look at once; and for which it is believed what is pinned.
_FRESH, _PINNED = 0.2, 30.0
# Of what would be evicted next, so much is shown.
_NEXT = 10


@dataclass(frozen=True)
class Place:
    """Which of the workers this is, and what all of them are: `slots` is None where there is but one."""

    number: int = 1
    workers: int = 1
    slots: Slots | None = None
    started: float = 0.0
    listening: Listening = field(default_factory=lambda: Listening("", "", "regular"))


class Reporter:
    """Of one process. Made inside a running event loop; `close` it."""

    def __init__(
        self,
        place: Place,
        data: Path,
        current: Current,
        watch: Watch,
        renewal: Renewal,
        gate: Gate,
        tally: Tally,
        fills: Fills,
        standing: Standing,
        trial: Trial,
    ) -> None:
        self._place = place
        self._current = current
        self._watch = watch
        self._renewal = renewal
        self._gate = gate
        self._tally = tally
        self._fills = fills
        self._standing = standing
        self._folder = data / "cache"
        self._trial = trial
        self._history = History(data / "statistics.sqlite")
        # One thread: what it has open is SQLite's, and for itself alone.
        self._thread = ThreadPoolExecutor(1, "report")
        self._cache: Cache | None = None
        self._pinned: tuple[float, set[Digest]] = (0.0, set())
        self._rates: dict[Fill, tuple[float, int, float]] = {}
        self._others: dict[int, Share] = {}
        self._facts: tuple[float, Facts] | None = None
        self._making = asyncio.Lock()
        self._tasks = [asyncio.create_task(self._chart(), name="write down what the charts show")]
        if place.slots:
            self._resume(place.slots)
            self._tasks.append(asyncio.create_task(self._share(place.slots), name="share what is counted"))

    async def facts(self) -> Facts:
        """As of now; of other workers, as of some half a second ago, or of when they last told anybody."""
        async with self._making:
            now = time.monotonic()
            if self._facts is None or now - self._facts[0] >= _FRESH:
                await self._write_down()
                possible = not await self._trial.problem()
                self._facts = now, await self._in_thread(self._made, self._shares(), possible)
            return self._facts[1]

    async def close(self) -> None:
        """Writes down what is not written yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._place.slots:
            self._publish(self._place.slots)
        await self._write_down()
        await self._in_thread(self._end)
        self._thread.shutdown()

    # This process's own.

    def _own(self) -> Share:
        tallied = self._tally.tallied()
        return Share(
            tallied=tallied,
            fills=self._running(),
            endpoints=self._standing.endpoints(self._config.rules.values(), tallied),
            quotas=self._standing.quotas(),
            connections=self._gate.count,
            writable=self._fills.possible,
            refused=self._watch.refusal,
        )

    def _running(self) -> list[Filling]:
        now, rates = time.monotonic(), {}
        for fill in self._fills.all():
            at, written, rate = self._rates.get(fill, (fill.begun, 0, 0.0))
            if now - at >= _FRESH:
                at, written, rate = now, fill.written, (fill.written - written) / (now - at)
            rates[fill] = at, written, rate
        self._rates = rates
        return [_filling(fill, rate, now) for fill, (_, _, rate) in rates.items()]

    @property
    def _config(self) -> Config:
        return self._current.config

    # The others'.

    def _shares(self) -> list[Share]:
        """This process's own is published before it is told: sums that anybody was told must not become less, whoever
        is asked next, and whoever takes this one's place."""
        if slots := self._place.slots:
            return [self._publish(slots), *self._of_others(slots)]
        return [self._own()]

    def _resume(self, slots: Slots) -> None:
        """Goes on counting where the process whose place this one has taken was stopped."""
        if before := slots.read(self._place.number):
            self._tally.resume(_unpacked(before).tallied)

    def _of_others(self, slots: Slots) -> list[Share]:
        for number in range(1, slots.count + 1):
            if number != self._place.number and (packed := slots.read(number)):
                self._others[number] = _unpacked(packed)
        return list(self._others.values())

    async def _share(self, slots: Slots) -> None:
        while True:
            self._publish(slots)
            await asyncio.sleep(_SHARING)

    def _publish(self, slots: Slots) -> Share:
        share = self._own()
        if not slots.write(self._place.number, pickle.dumps(share)):
            # Sums are worth more than lists.
            tallied = replace(share.tallied, requests=())
            slots.write(self._place.number, pickle.dumps(replace(share, tallied=tallied, fills=())))
        return share

    # The charts.

    async def _chart(self) -> None:
        while True:
            await asyncio.sleep(_CHARTING)
            await self._write_down()

    async def _write_down(self) -> None:
        moved = self._tally.take_down()
        if any((moved.cached, moved.fetched, moved.hits, moved.misses)):
            written = await self._in_thread(self._history.add, moved)
            if not written:
                self._tally.put_back(moved)

    async def _in_thread[*Given, Got](self, work: Callable[[*Given], Got], *given: *Given) -> Got:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    # In the thread.

    def _end(self) -> None:
        self._history.close()
        if self._cache:
            self._cache.close()

    def _made(self, shares: Sequence[Share], possible: bool) -> Facts:
        config, now = self._config, time.time()
        share = merged(shares)
        # What a download has met with is forgotten after seconds, for the next one is to try.
        share = replace(share, writable=share.writable and possible)
        cache, ca = self._cached(share.writable), self._ca()
        told = [*config.warnings, *self._renewal.authority.warnings]
        return Facts(
            version=__version__,
            now=now,
            started=self._place.started or now,
            workers=self._place.workers,
            connections=share.connections,
            offline=config.offline,
            configuration=[str(source) for source in config.sources],
            listening=self._place.listening,
            traffic=self._history.traffic(),
            counters=share.tallied.counters,
            fills=[self._fill(fill) for fill in share.fills],
            endpoints=share.endpoints,
            quotas=share.quotas,
            requests=[self._request(request) for request in share.tallied.requests],
            cache=cache,
            ca=ca,
            warnings=warned.warnings(share, cache, ca, told, config.downloads.quota_floor, now),
        )

    def _opened(self) -> Cache | None:
        """The cache as this thread sees it; None where its database cannot be read."""
        if self._cache is None:
            try:
                self._cache = Cache(self._folder, lambda: self._config.beliefs)
            except (StoreError, OSError):
                return None
        self._cache.contents.look()
        return self._cache

    def _fill(self, fill: Filling) -> Filling:
        if self._may_be_named(fill.registry, fill.repository):
            return fill
        return replace(fill, repository="", digest="", hidden=True)

    def _request(self, request: Answered) -> Answered:
        if not request.repository or self._may_be_named(request.registry, request.repository):
            return request
        return replace(request, repository="", reference="", path="", hidden=True)

    def _may_be_named(self, registry: str, repository: str) -> bool:
        """Which repositories there are that not everybody may read is nobody's business, unless the operator says."""
        config = self._config
        rule = config.rules.get(registry)
        if config.show_private or (rule and rule.open):
            return True
        cache = self._opened()
        verdict = cache.rights.verdict(registry, repository) if cache else None
        return verdict is not None and verdict.public

    def _cached(self, writable: bool) -> CacheFacts:
        cache, space = self._opened(), self._config.space
        try:
            disk = os.statvfs(self._folder)
            total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        except OSError:
            total = free = 0
        kept = self._kept(cache) if cache else set()
        oldest = cache.contents.by_use() if cache else iter(())
        going = [entry for entry, _ in zip((e for e in oldest if e.digest not in kept), range(_NEXT), strict=False)]
        return CacheFacts(
            folder=str(self._folder),
            files=cache.contents.count() if cache else 0,
            size=cache.contents.total() if cache else 0,
            limit=space.cache.of(total),
            free=free,
            floor=space.free.of(total),
            pinned=sum(cache.store.size(digest) or 0 for digest in kept) if cache else 0,
            next=[Evictable(str(entry.digest), entry.size, entry.used) for entry in going],
            writable=writable,
        )

    def _kept(self, cache: Cache) -> set[Digest]:
        at, kept = self._pinned
        if not at or time.monotonic() - at >= _PINNED:
            kept = pins.held(cache.store, [cache.pins.pointers(reference) for reference in cache.pins.all()])
            self._pinned = time.monotonic(), kept
        return kept

    def _ca(self) -> CaFacts:
        authority = self._renewal.authority
        return CaFacts(
            root=_certificate(authority.root),
            intermediate=_certificate(authority.intermediate),
            leaf_life=self._config.lives.leaf,
            names=self._config.certificate_names(),
        )


def _filling(fill: Fill, rate: float, now: float) -> Filling:
    registry, repository, _ = fill.asker
    return Filling(
        digest=str(fill.digest),
        registry=registry,
        repository=repository,
        kind="manifest" if fill.is_manifest else "blob",
        endpoint=fill.source,
        written=fill.written,
        size=fill.size,
        rate=max(0.0, rate),
        readers=fill.readers,
        since=time.time() - (now - fill.begun),
        ahead=fill.ahead,
    )


def _certificate(certificate: x509.Certificate) -> Certificate:
    return Certificate(
        name=certificate.subject.rfc4514_string(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        begins=certificate.not_valid_before_utc.timestamp(),
        ends=certificate.not_valid_after_utc.timestamp(),
    )


def _unpacked(packed: bytes) -> Share:
    """Of memory that only processes of this very program can write."""
    share = pickle.loads(packed)
    assert isinstance(share, Share)
    return share
