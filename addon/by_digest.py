"""Content by its digest: from the store, from a running fill, or by a new one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from addon import oci, reply
from addon.body import BodyCut, FileBody, RelayedBody, SparedBody, VerifiedBody
from addon.journal import Seldom
from addon.oci import Digest, Manifest
from addon.reply import Reply, Request, Served
from addon.upstream.download import Download
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from addon.body import Body
    from addon.cache.contents import Contents
    from addon.cache.index import Index
    from addon.cache.links import Links
    from addon.config.model import Pace
    from addon.fill import Fill
    from addon.fills import Fills
    from addon.oci import Blob
    from addon.upstream.response import Response
    from addon.upstream.sources import Search, Sources

log = logging.getLogger("mirrortap")

_BLOB_TYPE = "application/octet-stream"


class ByDigest:
    """Answers with content that anybody may have, from a repository that is known to hold it."""

    def __init__(
        self, contents: Contents, links: Links, fills: Fills, index: Index, sources: Sources, pace: Pace
    ) -> None:
        self._contents = contents
        self._links = links
        self._fills = fills
        self._index = index
        self._sources = sources
        self._pace = pace
        self._seldom = Seldom(log)

    async def answer(self, request: Request, asked: Manifest | Blob, digest: Digest, *, spare: bool = False) -> Reply:
        """The content, or what a HEAD asks of it. Raises NotFound; with `spare` rather than use up a rate limit."""
        fill = self._fills.running(digest)
        held = fill is not None or self._contents.size(digest) is not None
        try:
            if (held or request.method == "HEAD") and (shown := await self._prove(request, asked, digest, fill, held)):
                return shown
            # Only if it was held then: another worker may have stored it since, for another repository.
            if held and (found := await self._stored(request, asked, digest)):
                return found
            if self._fills.running(digest) is None and (request.method == "HEAD" or not self._fills.possible):
                return await self._past_the_store(request, asked, digest)
            fill = await self._fill(request, asked, digest, spare)
            # Another worker may have begun it, for another repository.
            await self._prove(request, asked, digest, fill, held=True)
            return await self._filling(request, asked, fill)
        except OSError as error:
            self.warn_of_store(error)
            return await self._past_the_store(request, asked, digest)

    async def _prove(
        self, request: Request, asked: Manifest | Blob, digest: Digest, fill: Fill | None, held: bool
    ) -> Reply | None:
        """Raises NotFound unless this repository is known to hold it, or one HEAD shows it; that one it can answer."""
        registry, repository = request.rule.registry, asked.repository
        if fill and fill.repository == (registry, repository):
            return None
        if self._links.known(registry, repository, digest):
            return None
        async with await self._sources.of(request.rule, "HEAD", asked).next() as response:
            self._links.add(registry, repository, digest)
        return None if held else self.described(request, response, digest)

    async def _fill(self, request: Request, asked: Manifest | Blob, digest: Digest, spare: bool) -> Fill:
        """The running fill, or a new one, as soon as an endpoint has begun to send. Raises NotFound or OSError."""
        fill = self._fills.running(digest)
        if fill and (fill.repository != (request.rule.registry, asked.repository) or (fill.sparing and not spare)):
            try:
                await fill.opened()
            except (NotFound, BodyCut):
                # What could not be opened for another repository, or without asking everybody, says nothing of this
                # one; and where another was asked, this client's credential has no business.
                fill = self._fills.running(digest)
        fill = fill or self._start_fill(request, asked, digest, spare)
        await fill.opened()
        return fill

    def _start_fill(self, request: Request, asked: Manifest | Blob, digest: Digest, spare: bool) -> Fill:
        registry, repository = request.rule.registry, asked.repository

        def new_search() -> Search:
            return self._sources.of(request.rule, "GET", asked, spare=spare)

        def filled() -> None:
            self._contents.added(digest)
            self._links.add(registry, repository, digest)
            if isinstance(asked, Manifest):
                self._index.note()

        fill = self._fills.start(digest, (registry, repository), new_search, filled)
        fill.sparing = spare
        return fill

    async def _stored(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Reply | None:
        if isinstance(asked, Manifest):
            return self.manifest(request, digest, Served("hit"))
        size = self._contents.size(digest)
        if size is None:
            return None

        opened = 0

        async def body(start: int, end: int | None) -> Body:
            nonlocal opened
            opened += 1
            try:
                return SparedBody(FileBody(self._contents.open(digest), start, end), past)
            except OSError:
                if opened == 1:
                    raise
                # Of several ranges, later ones are opened later, when others have been sent.
                return await past(start, end)

        async def past(start: int, end: int | None) -> Body:
            self.warn_of_store(OSError(0, "it cannot be read"))
            return await self._slice(request, asked, start, end)

        try:
            return await reply.content(request, digest, size, _BLOB_TYPE, Served("hit"), body)
        except FileNotFoundError:
            return None  # evicted just now

    def manifest(
        self, request: Request, digest: Digest, served: Served, accepts: frozenset[str] | None = None
    ) -> Reply | None:
        """A manifest from the store, when it is there, is one, and is of a type that `accepts` admits."""
        content = self._contents.read(digest, oci.MAX_MANIFEST)
        media_type = oci.media_type(content) if content is not None else None
        if content is None or media_type is None or (accepts is not None and media_type not in accepts):
            return None
        headers = reply.describing(digest, len(content), media_type)
        return reply.ours(200, headers, b"" if request.method == "HEAD" else content, served, request)

    async def _filling(self, request: Request, asked: Manifest | Blob, fill: Fill) -> Reply:
        if fill.verified and (found := await self._stored(request, asked, fill.digest)):
            return found
        media_type = _BLOB_TYPE
        if isinstance(asked, Manifest):
            media_type = fill.media_type or oci.OCI_MANIFEST
        # What is complete, and only on its way to the disk, is as good as stored.
        served = Served("hit") if fill.verified else Served("miss from", fill.source)
        return await reply.content(request, fill.digest, fill.size, media_type, served, fill.body)

    def described(self, request: Request, response: Response, digest: Digest | None) -> Reply:
        """The answer to a HEAD that an endpoint has just answered for everybody."""
        media_type = response.headers.get("Content-Type") or _BLOB_TYPE
        headers = reply.describing(digest, response.size, media_type)
        return reply.ours(200, headers, b"", Served("miss from", response.endpoint.name), request)

    async def _past_the_store(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Reply:
        """As an endpoint has it: the headers alone, or the bytes, when they cannot be stored. Raises NotFound."""
        if request.method == "HEAD":
            async with await self._sources.of(request.rule, "HEAD", asked).next() as response:
                return self.described(request, response, digest)
        download = await self._open(request, asked)

        whole = False

        async def body(start: int, end: int | None) -> Body:
            nonlocal whole
            whole = (start, end) == (0, download.size)
            if whole:
                return VerifiedBody(RelayedBody(download), digest, download.source)
            return await self._slice(request, asked, start, end)

        served = Served("miss from", download.source)
        media_type = download.media_type or _BLOB_TYPE
        try:
            return await reply.content(request, digest, download.size, media_type, served, body)
        finally:
            # A range is asked for by itself, and one that does not exist by nobody.
            if not whole:
                await download.close()

    async def _slice(self, request: Request, asked: Manifest | Blob, start: int, end: int | None) -> Body:
        """The slice [start, end) past the store. Raises BodyCut."""
        try:
            return RelayedBody(await self._open(request, asked, start, end))
        except NotFound:
            raise BodyCut("no endpoint has the rest of it") from None

    async def _open(self, request: Request, asked: Manifest | Blob, start: int = 0, end: int | None = None) -> Download:
        """The slice [start, end) as endpoints have it. Raises NotFound."""
        download = Download(self._sources.of(request.rule, "GET", asked), self._pace, start, end)
        await download.open()
        return download

    def warn_of_store(self, error: OSError) -> None:
        self._seldom.warning(
            "%s: the cache cannot be used (%s); serving past it", self._contents.folder, error.strerror
        )
