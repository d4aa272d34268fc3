"""What refers to a manifest (signatures, SBOMs), where mirrors are said to know; else that is the origin's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon import reply
from addon.body import RelayedBody
from addon.pulls.pull import along
from addon.reply import Reply, Request, Served
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from addon.oci import Referrers
    from addon.pulls.access import Access
    from addon.upstream.sources import Sources


class Referring:
    """Lists of referrers, never cached: they grow."""

    def __init__(self, access: Access, sources: Sources) -> None:
        self._access = access
        self._sources = sources

    async def answer(self, request: Request, asked: Referrers) -> Reply | None:
        """A mirror's list; None when none has one for this client."""
        accept = [("Accept", value) for value in request.header_values("accept")]
        for reader in self._access.readers(request, asked.repository):
            try:
                search = self._sources.of(request.rule, request.method, asked, reader, accept, along=along(request))
                response = await search.next()
            except NotFound:
                continue
            headers = reply.end_to_end(response.fields)
            served = Served("relayed from", response.endpoint.name)
            if request.method == "HEAD":
                await response.close()
                return reply.ours(response.status, headers, b"", served, request)
            return reply.ours(response.status, headers, RelayedBody(response), served, request)
        return None
