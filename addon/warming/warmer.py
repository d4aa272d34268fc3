"""Images into the cache: several at a time, each blob once."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from addon.cache import eviction
from addon.cache.eviction import Disk
from addon.config.model import host_of
from addon.warming import walk
from addon.warming.outcome import Outcome
from addon.warming.pulling import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.cache.cache import Cache
    from addon.config.model import Config, Rule
    from addon.oci import Digest
    from addon.warming.documents import Part
    from addon.warming.pulling import Pulling
    from addon.warming.wanted import Wanted


class CacheUnwritable(Exception):
    """Nothing can be stored any more; the message says where and why."""


class Bar(Protocol):
    """A blob that is being downloaded."""

    def move(self, came: int) -> None:
        """So many bytes of it are here."""

    def end(self) -> None:
        """It is here, or will not come."""


class Display(Protocol):
    """Who is told how it goes. Sizes are in bytes, 0 where they are not known."""

    def expect(self, size: int) -> None:
        """So much more is going to be downloaded."""

    def begin(self, digest: Digest, size: int) -> Bar: ...

    def tell(self, outcome: Outcome) -> None:
        """This is what became of an image."""

    def hush(self) -> None:
        """It is being broken off: what the log warns of from now on comes of that."""


class Warmer:
    """`jobs` blobs are downloaded at a time, and as many images looked into."""

    def __init__(self, config: Config, cache: Cache, jobs: int, display: Display) -> None:
        self.pulling: Pulling  # to be set before anything is warmed
        self.downloaded = 0
        """Bytes that were not cached before."""
        self._config = config
        self._cache = cache
        self._display = display
        self._looking, self._downloading = asyncio.Semaphore(jobs), asyncio.Semaphore(jobs)
        self._copies: dict[Digest, asyncio.Lock] = {}
        self._expected: set[Digest] = set()
        self._work: asyncio.Task[list[Outcome]] | None = None
        self._trouble: OSError | None = None

    def write_failed(self, error: OSError) -> None:
        """The cache could not be written: what cannot be stored is not downloaded."""
        # The wait for another process's download that stands still ends like this, too: that is about one blob.
        if self._work and error.errno != errno.ETIMEDOUT:
            self._trouble = error
            self._display.hush()
            self._work.cancel()

    async def warm(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Until all of it is in the cache, or will not come. Raises CacheUnwritable."""
        self._work = asyncio.create_task(self._all(wanted), name="warm")
        try:
            return await self._work
        except asyncio.CancelledError:
            if self._trouble is None:
                raise
            raise CacheUnwritable(f"{self._cache.folder}: cannot be written: {self._trouble.strerror}") from None

    async def _all(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._image(each)) for each in wanted]
        return [task.result() for task in tasks]

    async def _image(self, wanted: Wanted) -> Outcome:
        try:
            rule = self._rule(wanted)
            async with self._looking:
                parts = await walk.parts(self.pulling, rule, wanted)
        except Failed as failure:
            outcome = Outcome(wanted, problems=(str(failure),))
        else:
            self._expect(parts)
            blobs = (self._blob(rule, wanted.reference.repository, part) for part in parts)
            results = await asyncio.gather(*blobs, return_exceptions=True)
            outcome = self._outcome(wanted, parts, results)
        self._display.tell(outcome)
        return outcome

    def _outcome(self, wanted: Wanted, parts: Sequence[Part], results: Sequence[bool | BaseException]) -> Outcome:
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Failed):
                raise result
        problems = dict.fromkeys(str(result) for result in results if isinstance(result, Failed))
        size = sum(self._cache.store.size(part.digest) or 0 for part in parts)
        return Outcome(wanted, len(parts), size, results.count(True), tuple(problems))

    def _rule(self, wanted: Wanted) -> Rule:
        """That of the image, without what a client's pull does besides. Raises Failed."""
        registry, repository = wanted.reference.registry, wanted.reference.repository
        host = f"[{host_of(registry)}]" if registry.startswith("[") else host_of(registry)
        port = int(registry.removeprefix(host).removeprefix(":") or 443)
        rule = self._config.rule(host, port, repository)
        if rule is None:
            raise Failed(
                f"{registry} is no registry that mirrortap serves: its clients go past the cache. Write"
                f' [registry."{registry}"] into the configuration'
            )
        if rule.blocked:
            raise Failed(f"{rule.pattern} is blocked (blocked = true in {rule.place})")
        if rule.offline:
            raise Failed(f'{rule.pattern} is offline (mode = "offline" in {rule.place}): nothing of it is fetched')
        # A tag is asked for anew, whatever is believed of it; and who downloads is decided here.
        return replace(rule, tag_ttl=0.0, prefetch=False)

    def _expect(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.digest not in self._expected and self._cache.contents.size(part.digest) is None:
                self._expected.add(part.digest)
                self._display.expect(part.size)

    async def _blob(self, rule: Rule, repository: str, part: Part) -> bool:
        """Whether it was cached. Raises Failed."""
        # What several images have is downloaded for one of them; the others' repositories are shown to have it, too.
        async with self._copies.setdefault(part.digest, asyncio.Lock()), self._downloading:
            if self._cache.contents.size(part.digest) is not None:
                await self.pulling.blob(rule, repository, part.digest, lambda came: None)
                return True
            bar = self._display.begin(part.digest, part.size)
            try:
                await self.pulling.blob(rule, repository, part.digest, bar.move)
            finally:
                bar.end()
            self.downloaded += self._cache.store.size(part.digest) or 0
            return False

    def surplus(self) -> int:
        """Bytes that are cached now and that a proxy would evict. Raises OSError."""
        status = os.statvfs(self._cache.folder)
        disk = Disk(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
        return eviction.excess(self._cache.contents.total(), disk, self._config.space)
