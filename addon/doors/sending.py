"""Replies on their way to a client of the mirror door: by the kernel where it has the bytes at hand, else by us."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from addon.body import BodyCut, SparedBody
from addon.doors.visitors import SERVER

if TYPE_CHECKING:
    from addon.body import Body
    from addon.doors.visitors import Visitor
    from addon.reply import Reply

_LEFT = "the client has left"


class Sending:
    """One reply. `sent` counts its body's bytes; `failure` says why they are not all of it."""

    def __init__(self, request: web.BaseRequest, visitor: Visitor) -> None:
        self.sent = 0
        self.failure: str | None = None
        self._request = request
        self._visitor = visitor

    async def send(self, reply: Reply, reason: str | None = None) -> web.StreamResponse:
        """All of it, or as much as there is: then the connection is broken off. Closes the body."""
        if isinstance(reply.body, bytes):
            content = b"" if self._request.method == "HEAD" else reply.body
            self.sent = len(content)
            return web.Response(status=reply.status, reason=reason, headers=_headers(reply), body=content)
        headers = _headers(reply)
        response = web.StreamResponse(status=reply.status, reason=reason, headers=headers)
        try:
            await response.prepare(self._request)
            if self._request.method != "HEAD" and reply.status not in (204, 304):
                await self._stream(response, reply.body)
            await response.write_eof()
        except BodyCut as cut:
            self.failure = str(cut)
            # Neither chunks nor a length: an end like any other.
            endless = self._request.version < HttpVersion11 and "Content-Length" not in headers
            self._visitor.abort(self.failure, reset=endless)
        except (ConnectionError, asyncio.CancelledError):
            self.failure = self._visitor.cut or _LEFT
            raise
        finally:
            await reply.body.close()
        return response

    async def _stream(self, response: web.StreamResponse, body: Body) -> None:
        transport = self._request.transport
        # Chunks have frames of their own, and TLS is not the kernel's.
        plain = not response.chunked and transport is not None and transport.get_extra_info("sslcontext") is None
        while True:
            while plain and isinstance(body, SparedBody) and (at_hand := body.at_hand()):
                count = await self._visitor.send_file(at_hand)
                body.sent(count)
                self.sent += count
                if count < at_hand.count:
                    # Reading it will tell whether that is the cache's fault, and writing whether it is the client's.
                    break
            with self._visitor.waiting():
                piece = await body.read()
            if not piece:
                return
            await response.write(piece)
            self.sent += len(piece)


def _headers(reply: Reply) -> CIMultiDict[str]:
    # aiohttp sends UTF-8 and nothing else.
    fields = [
        (name, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")) for name, value in reply.headers
    ]
    headers = CIMultiDict(fields)
    headers.setdefault("Server", SERVER)
    return headers
