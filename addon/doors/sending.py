"""Replies on their way to a client that aiohttp serves: without copies where the kernel has the bytes at hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from addon.body import BodyCut, SlicedBody
from addon.doors.visitors import SERVER

if TYPE_CHECKING:
    from addon.body import Body
    from addon.doors.visitors import Visitor
    from addon.reply import Reply

_LEFT = "the client has left"
# Bytes from which on it is worth a system call of its own.
_WORTHWHILE = 32 << 10


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
            return self._begun(web.Response(status=reply.status, reason=reason, headers=_headers(reply), body=content))
        headers = _headers(reply)
        response = self._begun(web.StreamResponse(status=reply.status, reason=reason, headers=headers))
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

    def _begun[R: web.StreamResponse](self, response: R) -> R:
        if self._visitor.last:
            response.force_close()
        return response

    async def _stream(self, response: web.StreamResponse, body: Body) -> None:
        # Chunks have frames of their own.
        sliced = body if isinstance(body, SlicedBody) and not response.chunked else None
        while True:
            with self._visitor.waiting():
                part = await sliced.at_hand() if sliced else None
            if sliced and part and part.count >= _WORTHWHILE:
                count = await self._visitor.send_file(part)
                sliced.sent(count)
                self.sent += count
                if count == part.count:
                    continue
                # Reading it will tell whether that is the cache's fault, and writing whether it is the client's.
            with self._visitor.waiting():
                piece = await body.read()
            if not piece:
                return
            await response.write(piece)
            self.sent += len(piece)


def _headers(reply: Reply) -> CIMultiDict[str]:
    headers = CIMultiDict([(name, value if value.isascii() else _unicode(value)) for name, value in reply.headers])
    headers.setdefault("Server", SERVER)
    return headers


def _unicode(value: str) -> str:
    # aiohttp sends UTF-8 and nothing else.
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
