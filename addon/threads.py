"""Work that blocks, in threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def finish[T](work: Callable[..., T], *args: object) -> T:
    """Runs `work` in a thread, to its end even when cancelled: its file must not be closed under it."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
