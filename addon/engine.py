"""One question in (who asks, what for), one reply out. The order of steps, readable top to bottom."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from addon import oci, reply, routing
from addon.body import BodyCut, FileBody, RelayedBody, SparedBody, VerifiedBody
from addon.download import Download
from addon.journal import Seldom
from addon.oci import Blob, Digest, Manifest, OciError, Ping
from addon.relay import Relay
from addon.reply import Reply, Request, Served
from addon.routing import Attempt, Verdict
from addon.sources import NotFound, Sources
from addon.upstream import EndpointError

if TYPE_CHECKING:
    from addon.access import Links
    from addon.body import Body
    from addon.contents import Contents
    from addon.download import Pace
    from addon.fill import Fill
    from addon.fills import Fills
    from addon.sources import Search
    from addon.store import Store
    from addon.tags import Tags
    from addon.upstream import Headers, Response, Upstream

log = logging.getLogger("mirrortap")

_BLOB_TYPE = "application/octet-stream"


class Engine:
    """Answers registry requests from the store, the mirrors and the origin."""

    def __init__(
        self,
        store: Store,
        contents: Contents,
        tags: Tags,
        links: Links,
        fills: Fills,
        upstream: Upstream,
        pace: Pace,
    ) -> None:
        self._store = store
        self._contents = contents
        self._tags = tags
        self._links = links
        self._fills = fills
        self._upstream = upstream
        self._pace = pace
        self._seldom = Seldom(log)
        self._sources = Sources(upstream)
        self._relay = Relay(upstream)
        self._index_is_old = False
        self._indexing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        await self._fills.close()
        await self._upstream.close()
        if self._indexing:
            await self._indexing

    async def answer(self, request: Request) -> Reply:
        """The reply to any request; never raises for what a client or an endpoint does."""
        try:
            target = oci.understand(request.method, request.target)
            match target:
                case Manifest(reference=str()):
                    return await self._by_tag(request, target)
                case Manifest(reference=Digest() as digest) | Blob(reference=digest) if digest.verifiable:
                    return await self._by_digest(request, target, digest)
                case Ping():
                    return await self._relay.ping(request)
                case _:
                    return await self._relay.pass_on(request)
        except OciError as problem:
            return reply.error(problem, request)
        except BodyCut as cut:
            return reply.error(OciError(503, "UNAVAILABLE", str(cut)), request)
        except Exception:
            log.exception("%s %s: a fault in mirrortap", request.method, request.target.partition("?")[0])
            return reply.error(OciError(500, "UNKNOWN", "a fault in mirrortap; its log says more"), request)

    # By tag: what it points at is asked upstream, the bytes come from the store.

    async def _by_tag(self, request: Request, asked: Manifest) -> Reply:
        registry, repository = request.rule.registry, asked.repository
        tag = str(asked.reference)
        accepts = oci.accepted(request.header_values("accept"))
        key = (registry, repository, tag, accepts)
        fresh = self._tags.fresh(*key, request.rule.tag_ttl)
        if fresh and (found := self._manifest(request, fresh.digest, Served("hit"))):
            return found
        accept = [("Accept", value) for value in request.header_values("accept")]
        try:
            async with await self._ask(request, "HEAD", asked, accept) as response:
                headers = response.headers
        except NotFound as missing:
            if request.method == "GET" and routing.head_unknown(missing.attempts):
                return await self._by_tag_unannounced(request, asked, accept, accepts)
            return await self._unresolved(request, asked, accepts, missing.attempts)
        try:
            digest = Digest.parse(headers.get("Docker-Content-Digest", ""))
        except OciError:
            digest = None
        if digest is None or not digest.verifiable:
            if request.method == "HEAD":
                return self._described(request, response, None)
            return await self._by_tag_unannounced(request, asked, accept, accepts)
        news = self._tags.record(*key, digest)
        self._links.add(registry, repository, digest)
        if found := self._manifest(request, digest, Served("hit")):
            if news:
                self._note_index()
            return found
        if request.method == "HEAD":
            return self._described(request, response, digest)
        try:
            return await self._content(request, Manifest(repository, digest), digest)
        except NotFound as missing:
            return await self._unresolved(request, asked, accepts, missing.attempts)

    async def _by_tag_unannounced(
        self, request: Request, asked: Manifest, accept: Headers, accepts: frozenset[str]
    ) -> Reply:
        """A tag whose registry does not say a digest: the bytes tell it."""
        search = self._sources.of(request.rule, "GET", asked, accept)
        content, media_type = b"", None
        try:
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
        except NotFound as missing:
            return await self._unresolved(request, asked, accepts, missing.attempts)
        digest = Digest.of(content)
        try:
            await asyncio.to_thread(self._store.add, digest, content)
        except OSError as error:
            self._warn_of_store(error)
        else:
            registry, repository, tag = request.rule.registry, asked.repository, str(asked.reference)
            self._contents.added(digest)
            self._links.add(registry, repository, digest)
            if self._tags.record(registry, repository, tag, accepts, digest):
                self._note_index()
        headers = reply.describing(digest, len(content), response.headers.get("Content-Type") or media_type)
        return reply.ours(200, headers, content, Served("miss from", response.endpoint.name), request)

    async def _unresolved(
        self, request: Request, asked: Manifest, accepts: frozenset[str], attempts: list[Attempt]
    ) -> Reply:
        """No endpoint resolved the tag for everybody: the origin may for this client, or the cache knows of old."""
        if routing.origin_refused(attempts):
            return await self._as_client(request, asked, attempts)
        if not routing.settled(attempts):
            key = (request.rule.registry, asked.repository, str(asked.reference), accepts)
            for pointer in self._tags.pointers(*key):
                served = Served("stale", age=max(0, int(pointer.age - request.rule.tag_ttl)))
                if found := self._manifest(request, pointer.digest, served, accepts):
                    return found
        raise routing.most_telling(asked, request.rule.registry, attempts)

    # By digest: from the store, from a running fill, or by a new fill.

    async def _by_digest(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Reply:
        try:
            return await self._content(request, asked, digest)
        except NotFound as missing:
            if routing.origin_refused(missing.attempts):
                return await self._as_client(request, asked, missing.attempts)
            raise routing.most_telling(asked, request.rule.registry, missing.attempts) from None

    async def _content(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Reply:
        """Content that anybody may have. Raises NotFound."""
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
            fill = await self._fill(request, asked, digest)
            # Another worker may have begun it, for another repository.
            await self._prove(request, asked, digest, fill, held=True)
            return await self._filling(request, asked, fill)
        except OSError as error:
            self._warn_of_store(error)
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
        async with await self._ask(request, "HEAD", asked) as response:
            self._links.add(registry, repository, digest)
        return None if held else self._described(request, response, digest)

    async def _fill(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Fill:
        """The running fill, or a new one, as soon as an endpoint has begun to send. Raises NotFound or OSError."""
        fill = self._fills.running(digest)
        if fill and fill.repository != (request.rule.registry, asked.repository):
            try:
                await fill.opened()
            except (NotFound, BodyCut):
                # What could not be opened for another repository says nothing of this one; and where it was asked,
                # this client's credential has no business.
                fill = self._fills.running(digest)
        fill = fill or self._start_fill(request, asked, digest)
        await fill.opened()
        return fill

    def _start_fill(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Fill:
        registry, repository = request.rule.registry, asked.repository

        def question() -> Search:
            return self._sources.of(request.rule, "GET", asked)

        def filled() -> None:
            self._contents.added(digest)
            self._links.add(registry, repository, digest)
            if isinstance(asked, Manifest):
                self._note_index()

        return self._fills.start(digest, (registry, repository), question, filled)

    async def _stored(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Reply | None:
        if isinstance(asked, Manifest):
            return self._manifest(request, digest, Served("hit"))
        size = self._contents.size(digest)
        if size is None:
            return None

        async def body(start: int, end: int | None) -> Body:
            return SparedBody(FileBody(self._contents.open(digest), start, end), past)

        async def past(start: int, end: int | None) -> Body:
            self._warn_of_store(OSError(0, "it cannot be read"))
            try:
                return RelayedBody(await self._open(request, asked, start, end))
            except NotFound:
                raise BodyCut("the cache cannot be read, and no endpoint has the rest") from None

        return await reply.content(request, digest, size, _BLOB_TYPE, Served("hit"), body)

    def _manifest(
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

    def _described(self, request: Request, response: Response, digest: Digest | None) -> Reply:
        """The answer to a HEAD that an endpoint has just answered for everybody."""
        media_type = response.headers.get("Content-Type") or _BLOB_TYPE
        headers = reply.describing(digest, response.size, media_type)
        return reply.ours(200, headers, b"", Served("miss from", response.endpoint.name), request)

    async def _past_the_store(self, request: Request, asked: Manifest | Blob, digest: Digest) -> Reply:
        """As an endpoint has it: the headers alone, or the bytes, when they cannot be stored. Raises NotFound."""
        if request.method == "HEAD":
            async with await self._ask(request, "HEAD", asked) as response:
                return self._described(request, response, digest)
        download = await self._open(request, asked)

        async def body(start: int, end: int | None) -> Body:
            if (start, end) == (0, download.size):
                return VerifiedBody(RelayedBody(download), digest, download.source)
            await download.close()
            try:
                return RelayedBody(await self._open(request, asked, start, end))
            except NotFound:
                raise BodyCut("no endpoint has this range") from None

        served = Served("miss from", download.source)
        media_type = download.media_type or _BLOB_TYPE
        return await reply.content(request, digest, download.size, media_type, served, body)

    async def _open(self, request: Request, asked: Manifest | Blob, start: int = 0, end: int | None = None) -> Download:
        """The slice [start, end) as endpoints have it. Raises NotFound."""
        download = Download(self._sources.of(request.rule, "GET", asked), self._pace, start, end)
        await download.open()
        return download

    def _warn_of_store(self, error: OSError) -> None:
        self._seldom.warning("%s: the cache cannot be used (%s); serving past it", self._store.folder, error.strerror)

    # Upstream.

    async def _ask(
        self, request: Request, method: str, asked: Manifest | Blob, accept: Headers | None = None
    ) -> Response:
        """The first endpoint's answer that is the content, as anybody may have it. Raises NotFound."""
        return await self._sources.of(request.rule, method, asked, accept).next()

    async def _as_client(self, request: Request, asked: Manifest | Blob, attempts: list[Attempt]) -> Reply:
        """The origin refused us: what it says to this client itself is the answer, for this client alone."""
        origin = next(a.endpoint for a in attempts if a.endpoint.is_origin and a.verdict is Verdict.REFUSED)
        try:
            return await self._relay.pull(request, asked, origin)
        except EndpointError as error:
            failed = [*attempts, Attempt(origin, str(error))]
            raise routing.most_telling(asked, request.rule.registry, failed) from None

    # The layout's index.json, rewritten in the background, once for all changes meanwhile.

    def _note_index(self) -> None:
        self._index_is_old = True
        if self._indexing is None or self._indexing.done():
            self._indexing = asyncio.create_task(self._write_index(), name="write index.json")

    async def _write_index(self) -> None:
        while self._index_is_old:
            self._index_is_old = False
            known = list(self._tags.all())
            try:
                await asyncio.to_thread(self._store.write_index, known)
            except OSError as error:
                log.warning("%s/index.json cannot be written: %s", self._store.folder, error.strerror)
