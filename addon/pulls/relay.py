"""What is between a client and the origin alone: streamed through, never cached, with the client's own credential if it
has one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from addon import oci, reply
from addon.body import RelayedBody, VerifiedBody
from addon.config import wellknown
from addon.oci import Digest, OciError
from addon.pulls.patience import Lately
from addon.pulls.pull import along
from addon.reply import Reply, Request, Served
from addon.upstream import routing
from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.body import Body
    from addon.config.model import Endpoint
    from addon.oci import Blob, Manifest
    from addon.upstream.client import Upstream
    from addon.upstream.response import Response

# What of a client's pull means something to the origin.
_PULL_HEADERS = frozenset({"authorization", "accept", "range", "if-range", "user-agent"})
# The connection's own, or already dealt with: the client has been told to continue.
_NOT_RELAYED = frozenset({"host", "expect"})
# Seconds until the origins must be connected to for a ping; and that they are not asked again when that failed.
_PING_CONNECT, _PING_REST = 2.0, 5.0


class Relay:
    """Asks origins as the client itself would."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._failing: Lately[str] = Lately(_PING_REST)  # registries whose origin did not answer a ping

    def failing(self, registry: str) -> bool:
        """Whether the registry's origin has just failed to answer a ping."""
        return self._failing.has(registry, time.monotonic())

    async def pull(self, request: Request, asked: Manifest | Blob, origin: Endpoint) -> Reply:
        """Content, or the challenge, that the origin gives this client. Raises EndpointError."""
        sent = [(name, value) for name, value in request.headers if name.lower() in _PULL_HEADERS]
        sent += [("Accept-Encoding", "identity"), *along(request)]
        target = routing.target(origin, request.target, request.rule.registry)
        response = await self._upstream.relay(origin, request.method, target, sent, follow=True)
        body: Body = RelayedBody(response)
        if response.status == 200 and isinstance(asked.reference, Digest) and asked.reference.verifiable:
            body = VerifiedBody(body, asked.reference, origin.name)
        headers = reply.end_to_end(response.fields)
        content = await _unless_head(request, body)
        return reply.ours(response.status, headers, content, Served("relayed from", origin.name), request)

    async def ping(self, request: Request) -> Reply:
        """The origin's own answer, for clients learn from it how to log in; ours only when it can give none."""
        rule = request.rule
        # A login would come to nothing where the proxy's own is always used.
        if any(origin.hears_clients for origin in rule.origins) and not self.failing(rule.registry):
            try:
                # Whoever is there may take long to answer, but not to be connected to.
                response = await self._to_origin(request, _PING_CONNECT / len(rule.origins))
            except EndpointError:
                self._failing.note(rule.registry, time.monotonic())
            else:
                if response.status < 500 and response.status != 429:
                    return await _passed_on(request, response)
                await response.close()
        headers = [("Content-Type", "application/json"), ("Content-Length", "2"), reply.API_VERSION]
        served = Served("in place of", rule.registry)
        return reply.ours(200, headers, b"" if request.method == "HEAD" else b"{}", served, request)

    async def pass_on(self, request: Request) -> Reply:
        """Everything that is the origin's own business, as the client wrote it. Raises OciError."""
        if request.rule.offline:
            path = request.target.partition("?")[0]
            raise routing.offline(f"{request.method} {path} is the registry's own business", request.rule.registry)
        if not request.rule.origins:
            message = f"{request.rule.registry} is served from mirrors only (fallback = false): it can be pulled from"
            raise OciError(403, "DENIED", message)
        if request.anonymous:
            return await self._pass_on_as_anybody(request)
        try:
            return await _passed_on(request, await self._to_origin(request))
        except EndpointError as error:
            raise OciError(502, "UNAVAILABLE", str(error)) from None

    async def _pass_on_as_anybody(self, request: Request) -> Reply:
        """What the origin says of a repository to anybody, or to the proxy's own credential. Raises OciError."""
        repository, registry = oci.repository(request.target), request.rule.registry
        start = f"/v2/{repository}/"
        if not repository or not request.target.startswith(start) or not request.target.isascii():
            path = ascii(request.target.partition("?")[0][:100])
            raise OciError(404, "UNSUPPORTED", f"{path} is about no repository: a mirror has nothing else")
        shown = [*_about_content(request.headers), *along(request)]
        reasons = []
        for origin in request.rule.origins:
            try:
                response = await self._upstream.pull(
                    origin,
                    request.method,
                    repository,
                    request.target.removeprefix(start),
                    shown,
                    registry=registry,
                )
            except EndpointError as error:
                reasons.append(f"{origin.name}: {error}")
                continue
            if response.status in (401, 403):
                await response.close()
                raise routing.not_for_all(f"{registry}/{repository}", registry, [f"HTTP {response.status}"])
            # A cookie may be the proxy's own session there.
            headers = [(n, v) for n, v in reply.end_to_end(response.fields) if n.lower() != "set-cookie"]
            content = await _unless_head(request, RelayedBody(response))
            return Reply(response.status, tuple(headers), content, Served("passed on to", origin.name))
        raise OciError(502, "UNAVAILABLE", "; ".join(reasons))

    async def _to_origin(self, request: Request, connect: float | None = None) -> Response:
        if not request.target.startswith("/") or not request.target.isascii():
            # It becomes part of a URL: nothing but a path may (RFC 9112, 3.2.1).
            raise OciError(400, "UNSUPPORTED", "the request's target is not a path")
        headers = [
            (name, value) for name, value in reply.end_to_end(request.headers) if name.lower() not in _NOT_RELAYED
        ]
        problem = EndpointError("the origin is never asked")
        for origin in request.rule.origins:
            try:
                reads = request.method in ("GET", "HEAD")
                target = routing.target(origin, request.target, request.rule.registry if reads else None)
                if (origin.apart or target != request.target) and not reads:
                    # The answers to a push lead to other paths there, which clients would ask us for.
                    message = f"{request.rule.pattern} is served from {origin.name}: push to that"
                    raise OciError(405, "UNSUPPORTED", message)
                if origin.apart:
                    return await self._as_anybody(request, origin, headers)
                return await self._upstream.relay(
                    origin, request.method, target, headers, request.body, connect=connect
                )
            except EndpointError as error:
                problem = EndpointError(f"{origin.name}: {error}")
                if request.body is not None:  # it cannot be sent twice
                    break
        raise problem

    async def _as_anybody(self, request: Request, origin: Endpoint, headers: list[tuple[str, str]]) -> Response:
        """For what is not where clients log in: what they show there is not to be shown here."""
        repository = oci.repository(request.target)
        rest = routing.below(repository, request.target)
        shown = [*_about_content(headers), *along(request)]
        response = await self._upstream.pull(
            origin, request.method, repository, rest, shown, registry=request.rule.registry
        )
        if response.status not in (401, 403):
            return response
        await response.close()
        raise routing.refused_to_all(response, request.rule)


def _about_content(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What says nothing of the client."""
    return [(name, value) for name, value in headers if name.lower() in ("accept", "range", "if-range")]


async def _unless_head(request: Request, body: Body) -> Body | bytes:
    if request.method != "HEAD":
        return body
    await body.close()
    return b""


async def _passed_on(request: Request, response: Response) -> Reply:
    """An origin's answer as it is; only a Location at the address behind `server` must lead back through us."""
    headers = reply.end_to_end(response.fields)
    reached = response.endpoint.url.partition("://")[2]
    if reached != wellknown.api_host(request.rule.registry):
        headers = [(n, _relative(v, reached) if n.lower() == "location" else v) for n, v in headers]
    body = await _unless_head(request, RelayedBody(response))
    return Reply(response.status, tuple(headers), body, Served("passed on to", response.endpoint.name))


def _relative(location: str, authority: str) -> str:
    url = urlsplit(location)
    return urlunsplit(url._replace(scheme="", netloc="")) if url.netloc == authority else location
