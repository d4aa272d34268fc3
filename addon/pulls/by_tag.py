"""Content by a tag: what that points at is asked upstream, the bytes come from the store.

Where the cache could answer too, upstream has so long; what it says later counts for the next pull.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import oci, reply
from addon.oci import Digest, OciError
from addon.pulls.questions import Questions
from addon.reply import Reply, Served
from addon.upstream import routing
from addon.upstream.response import EndpointError
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.cache.contents import Contents
    from addon.cache.index import Index
    from addon.cache.links import Links
    from addon.cache.tags import Tags
    from addon.pulls.access import Access
    from addon.pulls.by_digest import ByDigest
    from addon.pulls.patience import Patience
    from addon.pulls.pull import Pull
    from addon.pulls.questions import Question
    from addon.upstream.response import Response
    from addon.upstream.sources import Sources

    _Tag = tuple[str, str, str, frozenset[str]]  # registry, repository, tag, manifest types accepted
    _Key = tuple[_Tag, str]  # and who asks: other readers may be told something else


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
    """`failing`: whether something else says that a registry cannot be reached."""

    def __init__(
        self,
        contents: Contents,
        tags: Tags,
        links: Links,
        access: Access,
        index: Index,
        sources: Sources,
        by_digest: ByDigest,
        patience: Patience,
        failing: Callable[[str], bool],
    ) -> None:
        self._contents = contents
        self._tags = tags
        self._links = links
        self._access = access
        self._index = index
        self._sources = sources
        self._by_digest = by_digest
        self._patience = patience
        self._failing = failing
        self._announcements: Questions[_Key, _Announced] = Questions()
        self._tellings: Questions[_Key, _Told] = Questions()

    async def close(self) -> None:
        await self._announcements.close()
        await self._tellings.close()

    async def answer(self, pull: Pull) -> Reply:
        """Raises NotFound."""
        rule, tag = pull.rule, _tag(pull)
        fresh = self._tags.fresh(*tag, rule.tag_ttl)
        believed = fresh and self._access.believed(rule, pull.repository, pull.reader)
        if fresh and believed and (found := self._by_digest.manifest(pull.request, fresh.digest, Served("hit"))):
            return found
        question = self._announcements.put(_key(pull), lambda: self._announced(pull))
        stale = self._stale(pull)
        failing = self._failing(rule.registry)
        patience = self._patience.seconds(rule.registry, time.monotonic(), suspect=failing)
        try:
            # From when it was first asked, so that who asks again later does not wait as long.
            async with asyncio.timeout_at(question.since + patience if stale else None):
                return await self._current(pull, question, spare=stale is not None)
        except TimeoutError:
            if stale is None:
                raise
            self._patience.ended(rule.registry, time.monotonic())
            return stale
        except NotFound as missing:
            # The origin may have it for this client.
            if stale and routing.out_of_reach(missing.attempts):
                self._patience.failed(rule.registry, time.monotonic())
                return stale
            raise

    async def _current(self, pull: Pull, question: Question[_Announced], *, spare: bool) -> Reply:
        """What the tag points at now. Raises NotFound; with `spare` rather than use up a rate limit."""
        try:
            announced = await question.answer()
        except NotFound as missing:
            if not pull.is_head and routing.head_unknown(missing.attempts):
                return await self._by_tag_unannounced(pull, spare=spare)
            raise
        if announced.digest is None:
            if pull.is_head:
                return self._by_digest.described(pull.request, announced.response, None)
            return await self._by_tag_unannounced(pull, spare=spare)
        # Only such endpoints were asked whose answer shows that the reader may have this, unless that was known.
        if found := self._by_digest.manifest(pull.request, announced.digest, Served("hit")):
            return found
        if pull.is_head:
            return self._by_digest.described(pull.request, announced.response, announced.digest)
        return await self._by_digest.answer(pull.by(announced.digest), spare=spare)

    async def _announced(self, pull: Pull) -> _Announced:
        """Asks for a tag by HEAD, for all who mean the same by it. Raises NotFound."""
        accept = [("Accept", value) for value in pull.request.header_values("accept")]
        search = self._sources.of(pull.rule, "HEAD", pull.asked, pull.reader, accept, along=pull.along)
        async with await search.next() as response:
            self._patience.answered(pull.rule.registry)
        try:
            digest = Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except OciError:
            digest = None
        if digest is None or not digest.verifiable:
            return _Announced(response, None)
        self._points_at(_tag(pull), digest)
        return _Announced(response, digest)

    async def _by_tag_unannounced(self, pull: Pull, *, spare: bool) -> Reply:
        """A tag whose registry does not say a digest: the bytes tell it. Raises NotFound."""
        told = await self._tellings.put(_key(pull), lambda: self._told(pull, spare=spare)).answer()
        headers = reply.describing(told.digest, len(told.content), told.media_type)
        return reply.ours(200, headers, told.content, Served("miss from", told.source), pull.request)

    async def _told(self, pull: Pull, *, spare: bool) -> _Told:
        """Asks for a tag by GET, for all who mean the same by it. Raises NotFound."""
        accept = [("Accept", value) for value in pull.request.header_values("accept")]
        search = self._sources.of(pull.rule, "GET", pull.asked, pull.reader, accept, along=pull.along, spare=spare)
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
            self._points_at(_tag(pull), digest)
        search.received(response.endpoint, len(content))
        media_type = response.headers.get("Content-Type") or media_type
        return _Told(digest, content, media_type, response.endpoint.name)

    def _points_at(self, tag: _Tag, digest: Digest) -> None:
        """An endpoint has just said what a tag points at."""
        registry, repository, _, _ = tag
        self._links.add(registry, repository, digest)
        if self._tags.record(*tag, digest) and self._contents.size(digest) is not None:
            self._index.note()

    def _stale(self, pull: Pull) -> Reply | None:
        """What the tag pointed at when it was last asked for, as far as it is here and this client accepts it."""
        if not self._access.held_good(pull):
            return None
        *_, accepts = tag = _tag(pull)
        for pointer in self._tags.pointers(*tag):
            served = Served("stale", age=max(0, int(pointer.age - pull.rule.tag_ttl)))
            if found := self._by_digest.manifest(pull.request, pointer.digest, served, accepts):
                return found
        return None


def _tag(pull: Pull) -> _Tag:
    accepts = oci.accepted(pull.request.header_values("accept"))
    return pull.rule.registry, pull.repository, str(pull.asked.reference), accepts


def _key(pull: Pull) -> _Key:
    return _tag(pull), pull.reader.identity
