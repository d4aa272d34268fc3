"""One piece of content, asked for as a client would, until it is in the cache."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from addon import oci
from addon.body import BodyCut
from addon.oci import MAX_MANIFEST, Digest
from addon.reply import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from addon.cache.cache import Cache
    from addon.config.model import Rule
    from addon.engine import Engine
    from addon.pulls.fills import Fills
    from addon.reply import Reply

# Times that something is asked for which does not come. What endpoints do wrong, the engine makes good itself.
_TRIES = 2
# Seconds between two looks at whether the cache is written to again.
_LOOK = 0.1
_ACCEPT = (("Accept", ", ".join(oci.MANIFEST_TYPES)),)
_LOGIN = (401, 403)


class Failed(Exception):
    """It is not in the cache; the message says what, and why."""


class Pulling:
    """Asks the engine of this process, without a credential: what is there only for some is not warmed."""

    def __init__(self, engine: Engine, fills: Fills, cache: Cache) -> None:
        self._engine = engine
        self._fills = fills
        self._cache = cache

    async def manifest(self, rule: Rule, repository: str, reference: Digest | str) -> bytes:
        """Its content. Raises Failed."""
        what = f"manifest {reference.short if isinstance(reference, Digest) else reference}"

        async def take(reply: Reply) -> bytes:
            content = b""
            async for piece in _pieces(reply):
                content += piece
                if len(content) > MAX_MANIFEST:
                    raise Failed(f"{what} has more than {MAX_MANIFEST >> 20} MiB")
            return content

        return await self._fetched(rule, repository, f"manifests/{reference}", what, take)

    async def blob(self, rule: Rule, repository: str, digest: Digest, moved: Callable[[int], None]) -> None:
        """`moved` is told how many bytes are here of one that was not. Raises Failed."""

        async def take(reply: Reply) -> None:
            if reply.served.how == "hit" and self._fills.running(digest) is None:
                return
            came = 0
            async for piece in _pieces(reply):
                came += len(piece)
                moved(came)

        await self._fetched(rule, repository, f"blobs/{digest}", f"blob {digest.short}", take)

    async def _fetched[T](
        self, rule: Rule, repository: str, rest: str, what: str, take: Callable[[Reply], Awaitable[T]]
    ) -> T:
        problem = Failed(
            f"{what} came, but is not in the cache: another process has evicted it, or a download of it that stands"
            " still"
        )
        for _ in range(_TRIES):
            request = Request(rule, "GET", f"/v2/{repository}/{rest}", _ACCEPT, anonymous=True)
            reply = await self._engine.answer(request)
            try:
                if reply.status != 200:
                    problem = _refusal(reply, rule, repository)
                    if reply.status < 500:
                        break
                    continue
                if reply.served.how == "stale":
                    problem = Failed("no endpoint says whether it is still the newest: what was cached before stays")
                    break
                digest = Digest.parse(dict(reply.headers)["Docker-Content-Digest"])
                taken = await take(reply)
                # Readers need not wait until the disk has what they got.
                if fill := self._fills.running(digest):
                    await self._fills.ended(fill)
                if self._is_held(rule, repository, digest):
                    return taken
                # Another's download may have stood still, for which the store rests.
                while not self._fills.possible:  # noqa: ASYNC110 (it is a time that ends)
                    await asyncio.sleep(_LOOK)
            except BodyCut as cut:
                problem = Failed(f"{what}: {cut}")
            finally:
                if not isinstance(reply.body, bytes):
                    await reply.body.close()
        raise problem

    def _is_held(self, rule: Rule, repository: str, digest: Digest) -> bool:
        """Whether it would be served without asking anybody for it. A proxy that has just started may have forgotten
        whose it is, as long as it was not here."""
        self._cache.contents.look()
        held = self._cache.contents.size(digest) is not None
        return held and self._cache.links.known(rule.registry, repository, digest)


async def _pieces(reply: Reply) -> AsyncIterator[bytes]:
    """Raises BodyCut."""
    if isinstance(reply.body, bytes):
        yield reply.body
        return
    while piece := await reply.body.read():
        yield piece


def _refusal(reply: Reply, rule: Rule, repository: str) -> Failed:
    """What the error says, for whoever has the configuration at hand."""
    assert isinstance(reply.body, bytes)
    error = json.loads(reply.body)["errors"][0]
    if reply.status not in _LOGIN:
        return Failed(str(error["message"]))
    answers = "; ".join(f"{each['endpoint']}: {each['reason']}" for each in error.get("detail", ()))
    known = next((origin.auth for origin in rule.origins if origin.auth), None)
    remedy = (
        f"{known} is not let in, or there is no such repository"
        if known
        else f'there is no such repository, or it wants a login: give mirrortap one, [registry."{rule.registry}".auth]'
    )
    return Failed(
        f"{rule.registry}/{repository} was refused ({answers or error['message']}): {remedy}, see docs/credentials.md"
    )
