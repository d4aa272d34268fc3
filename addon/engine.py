"""One question in (who asks, what for), one reply out. The order of steps, readable top to bottom."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from addon import oci, reply
from addon.body import BodyCut
from addon.cache.index import Index
from addon.counts.tally import Tally
from addon.oci import Blob, Digest, Manifest, OciError, Ping, Referrers
from addon.pulls.by_digest import ByDigest
from addon.pulls.by_tag import ByTag
from addon.pulls.patience import Patience
from addon.pulls.pull import Pull
from addon.pulls.redirects import Redirects
from addon.pulls.referrers import Referring
from addon.pulls.relay import Relay
from addon.upstream import routing
from addon.upstream.response import EndpointError
from addon.upstream.routing import Attempt
from addon.upstream.sources import NotFound, Sources

if TYPE_CHECKING:
    from addon.cache.cache import Cache
    from addon.config.current import Current
    from addon.config.model import Endpoint
    from addon.loops import Via
    from addon.pulls.access import Access
    from addon.pulls.fills import Fills
    from addon.pulls.prefetch import Prefetch
    from addon.reply import Reply, Request
    from addon.tickets import Tickets
    from addon.upstream.client import Upstream

log = logging.getLogger("mirrortap")


class Engine:
    """Answers registry requests from the store, the mirrors and the origin."""

    def __init__(
        self,
        cache: Cache,
        access: Access,
        fills: Fills,
        prefetch: Prefetch,
        upstream: Upstream,
        current: Current,
        via: Via,
        tickets: Tickets,
        tally: Tally | None = None,
    ) -> None:
        """`tally`: what counts what is done, if somebody wants to know."""
        self._via = via
        self._contents = contents = cache.contents
        self._fills = fills
        self._prefetch = prefetch
        self._upstream = upstream
        self._relay = Relay(upstream)
        self._index = Index(cache.store, cache.tags)
        self._access = access
        tally = tally or Tally()
        sources, patience = Sources(upstream, current, access, tally), Patience(lambda: current.config.timeouts.stale)
        self.standing = sources.standing
        self._referring = Referring(access, sources)
        redirects = Redirects(access, tickets)
        self._by_digest = ByDigest(contents, access, fills, self._index, sources, patience, current, redirects)
        prefetch.by_digest = self._by_digest
        self._by_tag = ByTag(
            contents,
            cache.tags,
            cache.links,
            access,
            self._index,
            sources,
            self._by_digest,
            patience,
            self._relay.failing,
        )

    async def close(self) -> None:
        await self._prefetch.close()
        await self._by_tag.close()
        await self._by_digest.close()
        await self._fills.close()
        await self._upstream.close()
        await self._index.close()

    async def answer(self, request: Request) -> Reply:
        """The reply to any request; never raises for what a client or an endpoint does."""
        try:
            self._via.refuse_own(request)
            if request.rule.blocked:
                raise routing.blocked(request.rule)
            target = oci.understand(request.method, request.target)
            match target:
                case Manifest(reference=Digest() as digest) | Blob(reference=digest) if not digest.verifiable:
                    return await self._relay.pass_on(request)
                case Manifest() | Blob():
                    return await self._pull(request, target)
                case Referrers():
                    return await self._referring.answer(request, target) or await self._relay.pass_on(request)
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

    async def _pull(self, request: Request, asked: Manifest | Blob) -> Reply:
        """As anybody may have it, or as this client may, or as the origin itself answers this client."""
        self._contents.look()
        attempts: list[Attempt] = []
        for reader in self._access.readers(request, asked.repository):
            pull = Pull(request, asked, reader)
            if attempts and reader.personal and not routing.origin_refused(attempts):
                break  # a credential would change nothing
            try:
                by = self._by_digest if isinstance(asked.reference, Digest) else self._by_tag
                answer = await by.answer(pull)
            except NotFound as missing:
                attempts += missing.attempts
            else:
                self._prefetch.served(pull, answer)
                return answer
        if origin := routing.refusing(attempts):
            if request.anonymous:
                raise routing.withheld(asked, request.rule.registry, attempts)
            return await self._as_client(request, asked, origin, attempts)
        if not attempts and not request.rule.offline:
            raise routing.unanswerable(asked, request.rule)
        raise routing.most_telling(asked, request.rule.registry, attempts)

    async def _as_client(
        self, request: Request, asked: Manifest | Blob, origin: Endpoint, attempts: list[Attempt]
    ) -> Reply:
        """The origin refused us: what it says to this client itself is the answer, for this client alone."""
        try:
            return await self._relay.pull(request, asked, origin)
        except EndpointError as error:
            failed = [*attempts, Attempt(origin, str(error))]
            raise routing.most_telling(asked, request.rule.registry, failed) from None
