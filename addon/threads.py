"""Work that blocks, in threads."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def finish[T](work: Callable[..., T], *args: object) -> T:
    """Runs `work` in a thread, to its end even when cancelled: its file must not be closed under it."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _ended(running)
        raise


async def attend[T](
    work: Callable[[Callable[[], None]], T], moved: Callable[[], Awaitable[None]], stop: Callable[[], None]
) -> T:
    """Runs `work` in a thread of its own: what takes as long as others please must not keep the common ones.

    Whenever it has called what it is given, `moved` follows, once for any number of calls meanwhile, and at its end.
    When cancelled, `stop` must make it end soon, which is waited for.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()
    news = asyncio.Event()
    ended.add_done_callback(lambda _: news.set())
    told = False

    def tell() -> None:
        nonlocal told
        if not told:
            told = True
            loop.call_soon_threadsafe(news.set)

    def run() -> None:
        try:
            result = work(tell)
        except BaseException as error:
            loop.call_soon_threadsafe(ended.set_exception, error)
        else:
            loop.call_soon_threadsafe(ended.set_result, result)

    # A daemon: whoever started it waits for it, or has been torn down himself.
    threading.Thread(target=run, name="download", daemon=True).start()
    try:
        while not ended.done():
            await news.wait()
            news.clear()
            told = False
            await moved()
    except BaseException:
        stop()
        await _ended(ended)
        raise
    return ended.result()


async def _ended(running: asyncio.Future[Any]) -> None:
    """Waits, however often that is cancelled. How it ended is of no interest any more."""
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:
            continue
    if not running.cancelled():
        running.exception()
