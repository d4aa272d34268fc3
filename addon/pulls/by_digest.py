"""Content by its digest: from the store, from a running fill, or by a new one; for those alone who may read it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from addon import oci, reply
from addon.body import BodyCut, FileBody, RelayedBody, SparedBody, VerifiedBody
from addon.journal import Seldom
from addon.oci import Digest, Manifest
from addon.pulls.questions import Questions
from addon.reply import Reply, Request, Served
from addon.upstream import routing
from addon.upstream.download import Download
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from addon.body import Body
    from addon.cache.contents import Contents
    from addon.cache.index import Index
    from addon.config.current import Current
    from addon.pulls.access import Access
    from addon.pulls.fill import Fill
    from addon.pulls.fills import Fills
    from addon.pulls.patience import Patience
    from addon.pulls.pull import Pull
    from addon.pulls.redirects import Redirects
    from addon.upstream.response import Response
    from addon.upstream.sources import Search, Sources

log = logging.getLogger("mirrortap")

_BLOB_TYPE = "application/octet-stream"


class ByDigest:
    """Answers with content of a repository that is known to hold it, to readers who are known to be let in there."""

    def __init__(
        self,
        contents: Contents,
        access: Access,
        fills: Fills,
        index: Index,
        sources: Sources,
        patience: Patience,
        current: Current,
        redirects: Redirects,
    ) -> None:
        self._contents = contents
        self._access = access
        self._fills = fills
        self._index = index
        self._sources = sources
        self._patience = patience
        self._current = current
        self._redirects = redirects
        self._admissions: Questions[tuple[Digest, tuple[str, str, str]], Response] = Questions()
        self._seldom = Seldom(log)

    async def close(self) -> None:
        await self._admissions.close()

    async def answer(self, pull: Pull, *, spare: bool = False, ahead: bool = False) -> Reply:
        """The content, or what a HEAD asks of it. Raises NotFound; with `spare` rather than use up a rate limit.

        `ahead`: no client has asked for it yet.
        """
        fill = self._fills.running(pull.digest)
        try:
            if fill is None and self._access.admitted(pull) and (found := await self._stored(pull)):
                return found
            held = fill is not None or self._contents.size(pull.digest) is not None
            # What it finds for the same reader, it finds for this one.
            ours = fill is not None and fill.asker == pull.asker
            if not ours and (held or pull.is_head or not self._access.shown_by_content(pull)):
                response = await self._admit(pull)
                if response and pull.is_head and not held:
                    return self.described(pull.request, response, pull.digest)
            # Only if it was held then: another worker may have stored it since, for another repository. And the same
            # reader's fill may follow that of another worker's reader, which shows nothing of what this one may.
            if held and (not ours or self._access.admitted(pull)) and (found := await self._stored(pull)):
                return found
            if self._fills.running(pull.digest) is None and (pull.is_head or not self._fills.possible):
                return await self._past_the_store(pull)
            fill = await self._fill(pull, spare, ahead)
            # Another worker may have begun it, for another repository or reader.
            await self._admit(pull)
            return await self._filling(pull, fill, ahead)
        except OSError as error:
            self.warn_of_store(error)
            return await self._past_the_store(pull)

    async def _admit(self, pull: Pull) -> Response | None:
        """Raises NotFound unless it is known that the repository holds this and that the reader is let in there, or one
        HEAD shows it, whose answer this is then. While nobody can be asked, what was shown before may do.
        """
        if self._access.admitted(pull):
            return None
        if not self._access.admitted_before(pull):
            return await self._ask(pull)
        registry = pull.rule.registry
        if self._patience.hopeless(registry, time.monotonic()):
            return None
        question = self._admissions.put((pull.digest, pull.asker), lambda: self._ask(pull))
        try:
            async with asyncio.timeout_at(question.since + self._patience.seconds(registry, time.monotonic())):
                return await question.answer()
        except TimeoutError:
            self._patience.ended(registry, time.monotonic())
        except NotFound as missing:
            if not routing.out_of_reach(missing.attempts):
                raise
            self._patience.failed(registry, time.monotonic())
        return None

    async def _ask(self, pull: Pull) -> Response:
        """The answer to a HEAD. Raises NotFound."""
        async with await self._search(pull, "HEAD").next() as response:
            self._patience.answered(pull.rule.registry)
        return response

    async def _fill(self, pull: Pull, spare: bool, ahead: bool) -> Fill:
        """The running fill, or a new one, as soon as an endpoint has begun to send. Raises NotFound or OSError."""
        fill = self._fills.running(pull.digest)
        if fill and not ahead:
            fill.ahead = False
        if fill and (fill.asker != pull.asker or (fill.sparing and not spare)):
            try:
                await fill.opened()
            except (NotFound, BodyCut):
                # What could not be opened for another repository or reader, or without asking everybody, says nothing
                # of this one.
                fill = self._fills.running(pull.digest)
        if fill is None:
            fill = self._start_fill(pull, spare, ahead)
        await fill.opened()
        return fill

    def _start_fill(self, pull: Pull, spare: bool, ahead: bool) -> Fill:
        def new_search() -> Search:
            return self._search(pull, "GET", spare=spare)

        def filled() -> None:
            self._contents.added(pull.digest)
            if isinstance(pull.asked, Manifest):
                self._index.note()

        fill = self._fills.start(pull.digest, pull.asker, new_search, filled)
        fill.sparing, fill.ahead, fill.is_manifest = spare, ahead, isinstance(pull.asked, Manifest)
        return fill

    async def _stored(self, pull: Pull) -> Reply | None:
        """Raises OSError where what is here cannot be opened."""
        digest = pull.digest
        if isinstance(pull.asked, Manifest):
            return self.manifest(pull.request, digest, Served("hit"))
        opened: list[int] = []
        if pull.is_head:
            size = self._contents.size(digest)
        else:
            try:
                opened.append(self._contents.open(digest))
            except FileNotFoundError:
                return None
            size = os.fstat(opened[0]).st_size
        if size is None:
            return None

        async def body(start: int, end: int | None) -> Body:
            try:
                return SparedBody(FileBody(opened.pop() if opened else self._contents.open(digest), start, end), past)
            except OSError:
                # Of several ranges, later ones are opened later, when others have been sent.
                return await past(start, end)

        async def past(start: int, end: int | None) -> Body:
            self.warn_of_store(OSError(0, "it cannot be read"))
            return await self._slice(pull, start, end)

        try:
            if sent_on := self._redirects.reply(pull, size):
                return sent_on
            return await reply.content(pull.request, digest, size, _BLOB_TYPE, Served("hit"), body)
        finally:
            for fd in opened:
                os.close(fd)

    def manifest(
        self, request: Request, digest: Digest, served: Served, accepts: frozenset[str] | None = None
    ) -> Reply | None:
        """A manifest from the store, when it is there, is one, and is of a type that `accepts` admits."""
        kept = self._contents.manifest(digest)
        if kept is None or (accepts is not None and kept.media_type not in accepts):
            return None
        headers = reply.describing(digest, len(kept.content), kept.media_type)
        return reply.ours(200, headers, b"" if request.method == "HEAD" else kept.content, served, request)

    async def _filling(self, pull: Pull, fill: Fill, ahead: bool) -> Reply:
        if fill.verified and (found := await self._stored(pull)):
            return found
        media_type = _BLOB_TYPE
        if isinstance(pull.asked, Manifest):
            media_type = fill.media_type or oci.OCI_MANIFEST
        if fill.verified:
            # What is complete, and only on its way to the disk, is as good as stored.
            served = Served("hit")
        elif ahead or pull.request.header("range") or (not pull.is_head and fill.take()):
            # Ranges: a client may have its own download come in several.
            served = Served("miss from", fill.source)
        else:
            served = Served("joined from", fill.source)
            self._fills.joined(fill)
        return await reply.content(pull.request, fill.digest, fill.size, media_type, served, fill.body)

    def described(self, request: Request, response: Response, digest: Digest | None) -> Reply:
        """The answer to a HEAD that an endpoint has just answered for everybody who may read."""
        media_type = response.headers.get("Content-Type") or _BLOB_TYPE
        headers = reply.describing(digest, response.size, media_type)
        return reply.ours(200, headers, b"", Served("miss from", response.endpoint.name), request)

    async def _past_the_store(self, pull: Pull) -> Reply:
        """As an endpoint has it: the headers alone, or the bytes, when they cannot be stored. Raises NotFound."""
        if pull.is_head:
            async with await self._search(pull, "HEAD").next() as response:
                return self.described(pull.request, response, pull.digest)
        download = await self._open(pull)

        whole = False

        async def body(start: int, end: int | None) -> Body:
            nonlocal whole
            whole = (start, end) == (0, download.size)
            if whole:
                return VerifiedBody(RelayedBody(download), pull.digest, download.source)
            return await self._slice(pull, start, end)

        served = Served("miss from", download.source)
        media_type = download.media_type or _BLOB_TYPE
        try:
            return await reply.content(pull.request, pull.digest, download.size, media_type, served, body)
        finally:
            # A range is asked for by itself, and one that does not exist by nobody.
            if not whole:
                await download.close()

    async def _slice(self, pull: Pull, start: int, end: int | None) -> Body:
        """The slice [start, end) past the store. Raises BodyCut."""
        try:
            return RelayedBody(await self._open(pull, start, end))
        except NotFound:
            raise BodyCut("no endpoint has the rest of it") from None

    async def _open(self, pull: Pull, start: int = 0, end: int | None = None) -> Download:
        """The slice [start, end) as endpoints have it. Raises NotFound."""
        download = Download(self._search(pull, "GET"), self._current.config.pace, start, end)
        await download.open()
        return download

    def _search(self, pull: Pull, method: str, *, spare: bool = False) -> Search:
        return self._sources.of(pull.rule, method, pull.asked, pull.reader, along=pull.along, spare=spare)

    def warn_of_store(self, error: OSError) -> None:
        self._seldom.warning(
            "%s: the cache cannot be used (%s); serving past it", self._contents.folder, error.strerror
        )
