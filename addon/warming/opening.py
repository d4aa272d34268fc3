"""What warming needs of the proxy: its cache and an engine, in this process and for as long as it takes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from addon import running
from addon.cache import ownership
from addon.cache.cache import Cache
from addon.cache.store import StoreError
from addon.config.current import Current
from addon.engine import Engine
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.pulls.access import Access
from addon.pulls.fills import Fills
from addon.pulls.prefetch import Prefetch
from addon.tickets import Tickets
from addon.upstream.client import Upstream
from addon.warming.pulling import Pulling
from addon.warming.warmer import Warmer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from addon.config.model import Config
    from addon.parent import Parents
    from addon.warming.warmer import Display

_THREADS = 64  # at most; they are made when they are needed
# Seconds that endpoints have to say what a tag points at: as long as they are waited for at all.
_PATIENT = 3600.0


@asynccontextmanager
async def opened(config: Config, data: Path, parents: Parents, jobs: int, display: Display) -> AsyncIterator[Warmer]:
    """On a proxy's data folder, whether it runs or not; made where it is not there.

    Raises StoreError or FingerprintError. At the end what has come of unfinished downloads is kept.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    current = Current(replace(config, timeouts=replace(config.timeouts, stale=_PATIENT)))
    cache = _cache(config, data)
    try:
        fingerprints = Fingerprints.open(data / "fingerprints.key")
        warmer = Warmer(config, cache, jobs, display)
        fills = Fills(cache.store, current, warmer.write_failed)
        via = Via(fingerprints)
        engine = Engine(
            cache,
            Access(cache.rights, cache.links, fingerprints),
            fills,
            Prefetch(cache.contents, fills, current),
            Upstream(current, via, parents),
            current,
            via,
            Tickets(fingerprints),
        )
        warmer.pulling = Pulling(engine, fills, cache)
        try:
            yield warmer
        finally:
            await engine.close()
            cache.contents.flush()
    finally:
        cache.close()


def _cache(config: Config, data: Path) -> Cache:
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{data}: cannot be written: {error.strerror}; choose another folder with --data") from None
    ownership.check(data)
    cache = Cache(data / "cache", lambda: config.beliefs)
    # A running proxy has done that, and what it is downloading just now would be taken for lost.
    if running.find(data) is None:
        cache.reconcile()
    return cache
