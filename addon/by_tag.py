"""Content by a tag: what that points at is asked upstream, the bytes come from the store.

Where the cache could answer too, upstream has so long; what it says later counts for the next pull.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import oci, reply
from addon.oci import Digest, Manifest, OciError
from addon.patience import Patience
from addon.questions import Questions
from addon.reply import Reply, Request, Served
from addon.upstream import routing
from addon.upstream.response import EndpointError
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.by_digest import ByDigest
    from addon.cache.contents import Contents
    from addon.cache.index import Index
    from addon.cache.links import Links
    from addon.cache.tags import Tags
    from addon.questions import Question
    from addon.upstream.response import Response
    from addon.upstream.sources import Sources

    _Key = tuple[str, str, str, frozenset[str]]  # registry, repository, tag, manifest types accepted


@dataclass(frozen=True)
class _Announced:
    """The answer to a HEAD by tag, and the digest it says, if any that can be held against content."""

    response: Response
    digest: Digest | None


@dataclass(frozen=True)
class _Told:
    """The content a tag points at, and the endpoint it is from."""

    digest: Digest
    content: bytes
    media_type: str
    source: str


class ByTag:
    """`stale_after`: seconds that the endpoints together have for a tag that the cache could answer; `failing`: whether
    something else says that a registry cannot be reached."""

    def __init__(
        self,
        contents: Contents,
        tags: Tags,
        links: Links,
        index: Index,
        sources: Sources,
        by_digest: ByDigest,
        stale_after: float,
        failing: Callable[[str], bool],
    ) -> None:
        self._contents = contents
        self._tags = tags
        self._links = links
        self._index = index
        self._sources = sources
        self._by_digest = by_digest
        self._failing = failing
        self._patience = Patience(stale_after)
        self._announcements: Questions[_Key, _Announced] = Questions()
        self._tellings: Questions[_Key, _Told] = Questions()

    async def close(self) -> None:
        await self._announcements.close()
        await self._tellings.close()

    async def answer(self, request: Request, asked: Manifest) -> Reply:
        rule, tag = request.rule, str(asked.reference)
        key = (rule.registry, asked.repository, tag, oci.accepted(request.header_values("accept")))
        fresh = self._tags.fresh(*key, rule.tag_ttl)
        if fresh and (found := self._by_digest.manifest(request, fresh.digest, Served("hit"))):
            return found
        question = self._announcements.put(key, lambda: self._announced(request, asked, key))
        stale = self._stale(request, key)
        failing = self._failing(rule.registry)
        patience = self._patience.seconds(rule.registry, time.monotonic(), suspect=failing)
        try:
            # From when it was first asked, so that who asks again later does not wait as long.
            async with asyncio.timeout_at(question.since + patience if stale else None):
                return await self._current(request, asked, key, question, spare=stale is not None)
        except TimeoutError:
            if stale is None:
                raise
            self._patience.ended(rule.registry, time.monotonic())
            return stale
        except NotFound as missing:
            # The origin may have it for this client.
            if stale and not routing.origin_refused(missing.attempts) and not routing.settled(missing.attempts):
                return stale
            raise

    async def _current(
        self, request: Request, asked: Manifest, key: _Key, question: Question[_Announced], *, spare: bool
    ) -> Reply:
        """What the tag points at now. Raises NotFound; with `spare` rather than use up a rate limit."""
        try:
            announced = await question.answer()
        except NotFound as missing:
            if request.method == "GET" and routing.head_unknown(missing.attempts):
                return await self._by_tag_unannounced(request, asked, key, spare=spare)
            raise
        digest = announced.digest
        if digest is None and request.method == "GET":
            return await self._by_tag_unannounced(request, asked, key, spare=spare)
        if digest and (found := self._by_digest.manifest(request, digest, Served("hit"))):
            return found
        if digest is None or request.method == "HEAD":
            return self._by_digest.described(request, announced.response, digest)
        return await self._by_digest.answer(request, Manifest(asked.repository, digest), digest, spare=spare)

    async def _announced(self, request: Request, asked: Manifest, key: _Key) -> _Announced:
        """Asks for a tag by HEAD, for all who mean the same by it. Raises NotFound."""
        accept = [("Accept", value) for value in request.header_values("accept")]
        async with await self._sources.of(request.rule, "HEAD", asked, accept).next() as response:
            self._patience.answered(request.rule.registry)
        try:
            digest = Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except OciError:
            digest = None
        if digest is None or not digest.verifiable:
            return _Announced(response, None)
        self._points_at(key, digest)
        return _Announced(response, digest)

    async def _by_tag_unannounced(self, request: Request, asked: Manifest, key: _Key, *, spare: bool) -> Reply:
        """A tag whose registry does not say a digest: the bytes tell it. Raises NotFound."""
        told = await self._tellings.put(key, lambda: self._told(request, asked, key, spare=spare)).answer()
        headers = reply.describing(told.digest, len(told.content), told.media_type)
        return reply.ours(200, headers, told.content, Served("miss from", told.source), request)

    async def _told(self, request: Request, asked: Manifest, key: _Key, *, spare: bool) -> _Told:
        """Asks for a tag by GET, for all who mean the same by it. Raises NotFound."""
        accept = [("Accept", value) for value in request.header_values("accept")]
        search = self._sources.of(request.rule, "GET", asked, accept, spare=spare)
        content, media_type = b"", None
        while media_type is None:
            async with await search.next() as response:
                try:
                    content = await response.read_all(oci.MAX_MANIFEST)
                except EndpointError as error:
                    search.reject(response.endpoint, str(error))
                    continue
            media_type = oci.media_type(content)
            if media_type is None:
                search.reject(response.endpoint, "what it sends is no manifest")
        digest = Digest.of(content)
        try:
            await self._contents.add(digest, content)
        except OSError as error:
            self._by_digest.warn_of_store(error)
        else:
            self._points_at(key, digest)
        media_type = response.headers.get("Content-Type") or media_type
        return _Told(digest, content, media_type, response.endpoint.name)

    def _points_at(self, key: _Key, digest: Digest) -> None:
        """An endpoint has just said what a tag points at."""
        registry, repository, _, _ = key
        self._links.add(registry, repository, digest)
        if self._tags.record(*key, digest) and self._contents.size(digest) is not None:
            self._index.note()

    def _stale(self, request: Request, key: _Key) -> Reply | None:
        """What the tag pointed at when it was last asked for, as far as it is here and the client accepts it."""
        *_, accepts = key
        for pointer in self._tags.pointers(*key):
            served = Served("stale", age=max(0, int(pointer.age - request.rule.tag_ttl)))
            if found := self._by_digest.manifest(request, pointer.digest, served, accepts):
                return found
        return None
