"""The endpoints that may have some content, asked one after another until one has it."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from addon import oci, routing
from addon.oci import Digest, Manifest
from addon.routing import Attempt, Health, Verdict
from addon.upstream import EndpointError

if TYPE_CHECKING:
    from addon.config.model import Endpoint, Rule
    from addon.oci import Blob
    from addon.upstream import Headers, Response, Upstream

log = logging.getLogger("mirrortap")


class NotFound(Exception):
    """No endpoint brought the content to somebody without a credential."""

    def __init__(self, attempts: list[Attempt]) -> None:
        self.attempts = attempts


class Sources:
    """Asks without the client's credential, as anybody may, and remembers which endpoints failed."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._health = Health()

    def of(self, rule: Rule, method: str, asked: Manifest | Blob, accept: Headers | None = None) -> Search:
        """`accept` is the Accept header, any manifest when None."""
        if accept is None:
            accept = [("Accept", oci.ACCEPT_ANY_MANIFEST)] if isinstance(asked, Manifest) else []
        return Search(self._upstream, self._health, rule, method, asked, accept)


class Search:
    """One question to the endpoints of a rule. Each `next` goes on where the last one ended."""

    def __init__(
        self,
        upstream: Upstream,
        health: Health,
        rule: Rule,
        method: str,
        asked: Manifest | Blob,
        accept: Headers,
    ) -> None:
        self._upstream = upstream
        self._health = health
        self._registry = rule.registry
        self._method = method
        self._asked = asked
        self._accept = accept
        self._attempts: list[Attempt] = []
        digest = asked.reference if isinstance(asked.reference, Digest) else None
        self._left = deque(health.order(routing.endpoints(rule), digest, time.monotonic()))

    @property
    def asked(self) -> str:
        """The tag or digest that is looked for."""
        return str(self._asked.reference)

    async def next(self, start: int = 0, end: int | None = None) -> Response:
        """The next endpoint's answer that is the content, or of a slice [start, end) that (206) or the whole (200).

        An endpoint that had it comes round again, after the others. Raises NotFound.
        """
        while self._left:
            endpoint = self._left.popleft()
            try:
                response = await self._ask(endpoint, start, end)
            except EndpointError as error:
                self._note(Attempt(endpoint, str(error)))
                continue
            if problem := _problem(response, start, end):
                await response.close()
                self._note(problem)
                continue
            self._health.answered(endpoint)
            self._left.append(endpoint)
            return response
        raise NotFound(self._attempts)

    def reject(self, endpoint: Endpoint, reason: str) -> None:
        """What the endpoint sent is of no use: it is not asked again."""
        self._left.remove(endpoint)
        self._note(Attempt(endpoint, reason))

    def broke(self, endpoint: Endpoint) -> None:
        """The endpoint began to send, and did not get to the end."""
        self._health.failed(endpoint, time.monotonic())

    def lied(self, endpoint: Endpoint, digest: Digest) -> None:
        """What the endpoint sent does not have the digest."""
        self._health.lied(endpoint, digest, time.monotonic())

    async def _ask(self, endpoint: Endpoint, start: int, end: int | None) -> Response:
        kind = "manifests" if isinstance(self._asked, Manifest) else "blobs"
        headers = self._accept
        if start or end is not None:
            headers = [*headers, ("Range", f"bytes={start}-{'' if end is None else end - 1}")]
        return await self._upstream.pull(
            endpoint,
            self._method,
            self._asked.repository,
            f"{kind}/{self._asked.reference}",
            headers,
            registry=self._registry,
        )

    def _note(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        if attempt.verdict is Verdict.FAILED:
            self._health.failed(attempt.endpoint, time.monotonic())
            log.warning("%s (asked for %s/%s)", attempt, self._registry, self._asked.repository)
        else:
            self._health.answered(attempt.endpoint)


def _problem(response: Response, start: int, end: int | None) -> Attempt | None:
    """Why an answer is not the content that was asked for."""
    endpoint, status = response.endpoint, response.status
    if (start or end is not None) and status == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return Attempt(endpoint, "sends another range than was asked for")
    elif routing.judge(status) is not Verdict.FOUND:
        return Attempt(endpoint, f"HTTP {status}", status, response.headers.get("Retry-After"))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        return Attempt(endpoint, "answers with a web page: it is no registry, or something stands before it")
    encoding = response.headers.get("Content-Encoding", "identity")
    return Attempt(endpoint, f"sends the body {encoding}-encoded, unasked") if encoding != "identity" else None
