"""The layout's index.json, rewritten in the background, once for all changes meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from addon.cache.store import Store
    from addon.cache.tags import Tags

log = logging.getLogger("mirrortap")


class Index:
    """Lists what tags point at, as far as it is here."""

    def __init__(self, store: Store, tags: Tags) -> None:
        self._store = store
        self._tags = tags
        self._is_old = False
        self._writing: asyncio.Task[None] | None = None

    def note(self) -> None:
        """Something has changed."""
        self._is_old = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="write index.json")

    async def _write(self) -> None:
        while self._is_old:
            self._is_old = False
            known = list(self._tags.all())
            try:
                await asyncio.to_thread(self._store.write_index, known)
            except OSError as error:
                log.warning("%s/index.json cannot be written: %s", self._store.folder, error.strerror)

    async def close(self) -> None:
        """Until what was noted is written."""
        if self._writing:
            await self._writing
