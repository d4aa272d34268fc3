"""The endpoints that may have some content, asked one after another until one has it."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from addon import oci
from addon.oci import Blob, Digest, Manifest, Referrers
from addon.upstream import quota, routing
from addon.upstream.health import Health
from addon.upstream.quota import Quotas
from addon.upstream.race import Race
from addon.upstream.reader import ANYBODY
from addon.upstream.response import EndpointError
from addon.upstream.routing import Attempt, Verdict
from addon.upstream.splitting import Single
from addon.upstream.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from addon.config.current import Current
    from addon.config.model import Endpoint, Rule
    from addon.counts.tally import Tally
    from addon.upstream.client import Headers, Upstream
    from addon.upstream.reader import Reader, Rights
    from addon.upstream.response import Response

log = logging.getLogger("mirrortap")

# What Docker Hub counts as a pull. HEADs and blobs are not.
_COUNTED = "GET manifests"


class NotFound(Exception):
    """No endpoint brought the content to somebody without a credential."""

    def __init__(self, attempts: list[Attempt]) -> None:
        self.attempts = attempts


@dataclass(frozen=True)
class _Question:
    rule: Rule
    method: str
    asked: Manifest | Blob | Referrers
    reader: Reader
    headers: Headers

    @property
    def path(self) -> str:
        """Below the repository."""
        query = f"?{self.asked.query}" if isinstance(self.asked, Referrers) and self.asked.query else ""
        return f"{self._what}/{self.asked.reference}{query}"

    @property
    def kind(self) -> str:
        """What registries limit apart from other questions."""
        return f"{self.method} {self._what}"

    @property
    def _what(self) -> str:
        return f"{type(self.asked).__name__.lower().removesuffix('s')}s"

    @property
    def digest(self) -> Digest | None:
        return self.asked.reference if isinstance(self.asked.reference, Digest) else None

    @property
    def counted(self) -> bool:
        return self.kind == _COUNTED

    @property
    def limit(self) -> str:
        """What a rate limit is on: each client's own is another one."""
        return f"{self.kind} {self.reader.identity}".rstrip()

    def __str__(self) -> str:
        return f"{self.kind} of {self.rule.registry}/{self.asked.repository}"


class Sources:
    """Asks for a reader, and remembers which endpoints failed, or limit us. `rights` hears what their answers show."""

    def __init__(self, upstream: Upstream, current: Current, rights: Rights, tally: Tally) -> None:
        self._upstream = upstream
        self._tally = tally
        self._rights = rights
        self._current = current
        self._health = Health(Random())
        self._single = Single()
        self._quotas = Quotas(lambda: current.config.downloads.quota_floor)
        self._standing = Standing(self._health, self._quotas)

    @property
    def standing(self) -> Standing:
        """How the endpoints stand."""
        return self._standing

    def of(
        self,
        rule: Rule,
        method: str,
        asked: Manifest | Blob | Referrers,
        reader: Reader,
        accept: Headers | None = None,
        *,
        along: Headers = (),
        spare: bool = False,
    ) -> Search:
        """`accept` is the Accept header, any manifest when None; `along` tells what request it is part of.

        `spare` leaves out the endpoints whose rate limit is used up, or nearly; NotFound then says so.
        """
        if accept is None:
            accept = [("Accept", oci.ACCEPT_ANY_MANIFEST)] if isinstance(asked, Manifest) else []
        question = _Question(rule, method, asked, reader, [*accept, *along])
        order = self.order(question)
        spared = [endpoint for endpoint in order if spare and self._low(question, endpoint)]
        attempts = [Attempt(endpoint, "not asked, to spare what is left of its rate limit") for endpoint in spared]
        return Search(self, question, [endpoint for endpoint in order if endpoint not in spared], attempts)

    # For searches.

    def order(self, question: _Question) -> list[Endpoint]:
        """As configured; then those with a rate limit nearly used up, then those that rest."""
        believed = self._rights.believed(question.rule, question.asked.repository, question.reader)
        endpoints = routing.asked_for(question.rule, question.asked, question.reader, believed=believed)
        by_quota = sorted(endpoints, key=lambda endpoint: self._low(question, endpoint))
        return self._health.order(by_quota, question.limit, question.digest, time.monotonic())

    def patience(self, question: _Question, rival: Endpoint) -> float | None:
        """Seconds that an endpoint gets to begin its answer before `rival` is asked as well; None: all it takes."""
        # Impatience is no reason to spend the last of a rate limit.
        config = self._current.config
        if (rival.is_origin and not config.downloads.hedge_origin) or self._low(question, rival):
            return None
        return config.timeouts.hedge or None

    async def ask(self, question: _Question, endpoint: Endpoint, start: int, end: int | None) -> Response:
        """The endpoint's answer about [start, end), whatever it is. Raises EndpointError."""
        headers = question.headers
        if start or end is not None:
            headers = [*headers, ("Range", f"bytes={start}-{'' if end is None else end - 1}")]
        reader = question.reader
        if endpoint.is_origin and (reader.personal or self._pays(question, endpoint)):
            response = await self._ask_as(question, endpoint, headers, reader)
            if reader.personal or response.status not in (401, 403, 429):
                response.paid = not reader.personal
                return response
            await response.close()
        return await self._ask_as(question, endpoint, headers, ANYBODY)

    async def _ask_as(self, question: _Question, endpoint: Endpoint, headers: Headers, reader: Reader) -> Response:
        registry, begun = question.rule.registry, time.monotonic()
        self._standing.asked(registry, endpoint)
        self._tally.asked(registry, endpoint.name)
        response = await self._upstream.pull(
            endpoint,
            question.method,
            question.asked.repository,
            question.path,
            headers,
            registry=registry,
            authorization=reader.authorization,
        )
        self._tally.heard(registry, endpoint.name, time.monotonic() - begun)
        self._quotas.note(endpoint, response.headers, time.monotonic(), reader.fingerprint)
        return response

    def _pays(self, question: _Question, origin: Endpoint) -> bool:
        """Whether the client's own credential is to pay for what anybody may have, because it may have more left."""
        reader = question.reader
        return (
            reader.authorization is not None
            and question.counted
            # Whatever it is given for, it is this very content.
            and isinstance(question.asked.reference, Digest)
            and origin.hears_clients
            and not self._quotas.low(origin, time.monotonic(), reader.fingerprint)
            and self._rights.believed(question.rule, question.asked.repository, reader)
        )

    def answered(self, question: _Question, endpoint: Endpoint, asked: float, *, content: bool) -> None:
        """It answers; `asked` is when it was asked, on the monotonic clock, here and below."""
        if self._health.answered(endpoint, question.limit, asked, content=content):
            log.info("%s: answers again (%s)", endpoint.name, question)

    def shown(self, question: _Question, response: Response) -> None:
        """It is the content."""
        if isinstance(question.asked, Referrers):
            return  # a list, which a registry may have of what it does not
        # What a client's credential paid for was given to that client, whoever else may have it.
        reader = replace(question.reader, personal=question.reader.personal or response.paid)
        self._rights.shown(question.rule, question.asked, reader, response.endpoint)

    def refused(self, question: _Question, endpoint: Endpoint) -> None:
        """It says that the reader may not read."""
        self._rights.refused(question.rule, question.asked.repository, question.reader, endpoint)

    def failed(self, question: _Question, attempt: Attempt, asked: float) -> None:
        endpoint, limit = attempt.endpoint, question.limit if attempt.status == 429 else None
        now, why = time.monotonic(), attempt.reason
        rest = self._health.failed(endpoint, asked, now, wait=attempt.wait, kind=limit, why=why)
        self._tally.failed(question.rule.registry, endpoint.name)
        what = f" for {question.kind}" if limit else ""
        log.warning("%s (%s); asked last%s for %.0f s", attempt, question, what, rest)

    def received(self, question: _Question, endpoint: Endpoint, count: int) -> None:
        """Bytes have come. From any thread."""
        self._tally.received(question.rule.registry, endpoint.name, count)

    def looped(self, question: _Question, attempt: Attempt) -> None:
        """That is said of this one request: of two proxies that ask each other, each may have what the other wants."""
        log.warning("%s (%s)", attempt, question)

    def outrun(self, question: _Question, endpoint: Endpoint, asked: float) -> None:
        """It had not begun to answer when another, asked later, did."""
        if rest := self._health.outrun(endpoint, asked, time.monotonic()):
            log.warning("%s: slower than a rival, again (%s); asked last for %.0f s", endpoint.name, question, rest)

    def single(self, question: _Question, attempt: Attempt) -> None:
        """It does not send parts over several connections."""
        rest = self._single.said(attempt.endpoint, time.monotonic())
        log.info("%s (%s); not asked for parts for %.0f s", attempt, question, rest)

    def sharing(
        self, question: _Question, serving: Endpoint, lacking: Container[Endpoint], turn: int
    ) -> list[Endpoint]:
        """Who may be asked for a part while `serving` sends, in this order (see `routing.turned`)."""
        if not isinstance(question.asked, Blob):
            return []  # each part of a manifest would count as a pull
        now, digest = time.monotonic(), question.digest
        return [
            endpoint
            for endpoint in routing.turned(self.order(question), serving, turn)
            if not self._single.known(endpoint, now)
            and (
                endpoint == serving
                or not (endpoint in lacking or self._health.doubtful(endpoint, question.limit, digest, now))
            )
        ]

    def lied(self, question: _Question, endpoint: Endpoint, digest: Digest) -> None:
        """What it sent does not have the digest."""
        rest = self._health.lied(endpoint, digest, time.monotonic())
        log.warning("%s: sent something else (%s); asked last for %s for %.0f s", endpoint.name, question, digest, rest)

    def _low(self, question: _Question, endpoint: Endpoint) -> bool:
        """Whether a rate limit for this kind of question is used up, or nearly."""
        now = time.monotonic()
        if endpoint.is_origin and self._pays(question, endpoint):
            return False
        return self._health.limited(endpoint, question.limit, now) or (
            question.counted and self._quotas.low(endpoint, now, question.reader.identity)
        )


class Heard:
    """What endpoints have said of some content, over all connections that it comes through."""

    def __init__(self) -> None:
        self.serving: Endpoint | None = None  # who was the last to send from where nothing has come yet
        self.tags: dict[Endpoint, str | None] = {}  # who has sent, under which ETag
        self.lacking: set[Endpoint] = set()

    def content(self, response: Response) -> None:
        self.tags.setdefault(response.endpoint, response.headers.get("ETag"))


class Search:
    """One question to some endpoints. Each `next` goes on where the last one ended."""

    def __init__(
        self, sources: Sources, question: _Question, left: Iterable[Endpoint], attempts: list[Attempt]
    ) -> None:
        self._sources = sources
        self._question = question
        self._left = deque(left)
        self._attempts = attempts
        self._asked: dict[Endpoint, float] = {}  # when, the last time
        self._heard = Heard()

    @property
    def asked(self) -> str:
        """The tag or digest that is looked for."""
        return str(self._question.asked.reference)

    async def next(self, start: int = 0, end: int | None = None) -> Response:
        """The next endpoint's answer that is the content, or of a slice [start, end) that (206) or the whole (200).

        An endpoint that takes long to begin gets a rival. One that had it comes round again, after the others. Raises
        NotFound.
        """

        async def ask(endpoint: Endpoint) -> Response:
            return await self._sources.ask(self._question, endpoint, start, end)

        async with Race(ask) as race:
            while self._left or race.running:
                ended = await race.ended(self._patience(race))
                if not ended:
                    self._enter(race)
                elif found := await self._content(ended, start, end):
                    return race.take(await self._won(race, found))
        raise NotFound(self._attempts)

    def again(self) -> Search:
        """The same question, to be asked from the first endpoint on."""
        search = Search(self._sources, self._question, self._sources.order(self._question), [])
        search._heard = self._heard
        return search

    def sharing(self, turn: int) -> list[Endpoint]:
        """Who may be asked for a part over the connection number `turn`, while the content comes already."""
        assert self._heard.serving
        return self._sources.sharing(self._question, self._heard.serving, self._heard.lacking, turn)

    def reject(self, endpoint: Endpoint, reason: str) -> None:
        """What the endpoint sent is of no use: it is not asked again."""
        self._left.remove(endpoint)
        self._note(Attempt(endpoint, reason))

    def broke(self, endpoint: Endpoint) -> None:
        """The endpoint began to send, and did not get to the end."""
        self._sources.failed(self._question, Attempt(endpoint, "a body broke off"), self._asked[endpoint])

    def received(self, endpoint: Endpoint, count: int) -> None:
        """Bytes have come from it. From any thread."""
        self._sources.received(self._question, endpoint, count)

    def lied(self, endpoint: Endpoint, digest: Digest) -> None:
        """What the endpoint sent does not have the digest."""
        self._sources.lied(self._question, endpoint, digest)

    def all_lied(self, digest: Digest) -> None:
        """What all together sent, for this search and those made of it, does not have the digest."""
        for endpoint in self._heard.tags:
            self.lied(endpoint, digest)

    def _patience(self, race: Race[Response]) -> float | None:
        """Seconds until the next endpoint is asked beside those that run; None: not before one of them ends."""
        if not self._left:
            return None
        patience = self._sources.patience(self._question, self._left[0])
        if patience is None:
            return None
        newest = max((self._asked[endpoint] for endpoint in race.running), default=-math.inf)
        return max(0, newest + patience - time.monotonic())

    def _enter(self, race: Race[Response]) -> None:
        endpoint = self._left.popleft()
        if slow := race.running:
            log.info("%s: slow to answer (%s); %s is asked as well", slow[-1].name, self._question, endpoint.name)
        self._asked[endpoint] = time.monotonic()
        race.start(endpoint)

    async def _content(
        self, ended: list[tuple[Endpoint, Response | EndpointError]], start: int, end: int | None
    ) -> list[Response]:
        """Those answers that are the content; the others are noted and closed."""
        found = []
        for endpoint, answer in ended:
            if isinstance(answer, EndpointError):
                self._note(Attempt(endpoint, str(answer), answer.status))
            elif problem := self._problem(answer, start, end):
                await answer.close()
                self._note(problem)
            else:
                self._sources.answered(self._question, endpoint, self._asked[endpoint], content=True)
                self._sources.shown(self._question, answer)
                found.append(answer)
        return found

    async def _won(self, race: Race[Response], found: list[Response]) -> Response:
        """The first of the answers; the others stay in line for when it breaks off."""
        winner, *late = found
        for response in late:
            await response.close()
        began = self._asked[winner.endpoint]
        slow = [endpoint for endpoint in race.running if self._asked[endpoint] < began]
        for endpoint in slow:
            self._outrun(endpoint)
        ready = [*(response.endpoint for response in late), *race.running[len(slow) :]]
        self._left = deque([*ready, *self._left, *slow, winner.endpoint])
        self._hear(winner)
        return winner

    def _hear(self, response: Response) -> None:
        self._heard.content(response)
        self._heard.serving = response.endpoint

    def _outrun(self, endpoint: Endpoint) -> None:
        self._sources.outrun(self._question, endpoint, self._asked[endpoint])

    def _problem(self, response: Response, start: int, end: int | None) -> Attempt | None:
        return _problem(response, start, end)

    def _note(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        asked = self._asked[attempt.endpoint]
        if attempt.status == routing.LOOP:
            self._sources.looped(self._question, attempt)
        elif attempt.verdict is Verdict.FAILED:
            self._sources.failed(self._question, attempt, asked)
        else:
            self._heard.lacking.add(attempt.endpoint)
            self._sources.answered(self._question, attempt.endpoint, asked, content=False)
            if attempt.status in (401, 403):
                self._sources.refused(self._question, attempt.endpoint)
        if attempt.status is not None:
            self._spoken_to(attempt.endpoint)

    def _spoken_to(self, endpoint: Endpoint) -> None:
        """It has answered, so that there is nothing in speaking to it another way, nor in having failed to."""
        self._left = deque(each for each in self._left if not routing.same_place(endpoint, each))
        self._attempts[:] = [
            attempt
            for attempt in self._attempts
            if attempt.status is not None or not routing.same_place(endpoint, attempt.endpoint)
        ]


def _problem(response: Response, start: int, end: int | None) -> Attempt | None:
    """Why an answer is not the content that was asked for."""
    endpoint, status = response.endpoint, response.status
    if (start or end is not None) and status == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return Attempt(endpoint, "sends another range than was asked for")
    elif routing.judge(status) is not Verdict.FOUND:
        wait = quota.wait(status, response.headers, time.time())
        why = ": what it is asked comes back to the proxy that asks" if status == routing.LOOP else ""
        if status == 429 and (left := quota.told(response.headers)):
            why = f" ({left})"
        return Attempt(endpoint, f"HTTP {status}{why}", status, response.headers.get("Retry-After"), wait)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        return Attempt(endpoint, "answers with a web page: it is no registry, or something stands before it")
    encoding = response.headers.get("Content-Encoding", "identity")
    return Attempt(endpoint, f"sends the body {encoding}-encoded, unasked") if encoding != "identity" else None
