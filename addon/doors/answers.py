"""Answers as mitmproxy sends them: the engine's replies, refusals, and pages of the proxy's own."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.net.http.status_codes import RESPONSES

from addon.doors.streaming import StreamedResponse
from addon.reply import OFFLINE_REASON, OFFLINE_STATUS

if TYPE_CHECKING:
    from addon.admission.gate import Refusal
    from addon.oci import OciError
    from addon.reply import Reply


class RegistryResponse(StreamedResponse):
    """A response of the engine's, with what the log wants to know of it."""

    reply: Reply


def of_reply(reply: Reply, method: str) -> RegistryResponse:
    fields = [
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
        for name, value in reply.headers
    ]
    names = {name.lower() for name, _ in fields}
    if b"date" not in names:  # RFC 9110, 6.6.1; builders see by it whose clock is off
        fields.append((b"Date", formatdate(usegmt=True).encode()))
    bodiless = method == "HEAD" or reply.status in (204, 304)
    if not bodiless and b"content-length" not in names:
        if isinstance(reply.body, bytes):
            fields.append((b"Content-Length", b"%d" % len(reply.body)))
        else:
            fields.append((b"Transfer-Encoding", b"chunked"))
    response = RegistryResponse(
        http_version=b"HTTP/1.1",
        status_code=reply.status,
        reason=RESPONSES.get(reply.status, "").encode(),
        headers=http.Headers(fields),
        content=reply.body if isinstance(reply.body, bytes) else None,
        trailers=None,
        timestamp_start=time.time(),
        timestamp_end=None,
    )
    response.source = None if isinstance(reply.body, bytes) else reply.body
    response.reply = reply
    return response


def name_offline(response: http.Response) -> None:
    """Has a 504 say why in its reason."""
    if response.status_code == OFFLINE_STATUS:
        response.reason = OFFLINE_REASON


def refused(request: http.Request, refusal: Refusal) -> http.Response:
    response = page(request, refusal.status, refusal.text)
    response.reason = refusal.reason
    for name, value in refusal.headers:
        response.headers[name] = value
    return response


def error(problem: OciError) -> http.Response:
    return http.Response.make(problem.status, problem.body(), {"Content-Type": "application/json"})


def page(request: http.Request, status: int, content: str | bytes, media_type: str = "text/plain") -> http.Response:
    response = http.Response.make(status, content, {"Content-Type": media_type})
    if request.method == "HEAD":
        response.raw_content = b""
    return response
