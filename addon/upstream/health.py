"""Which endpoints have failed lately, and for how long others are asked before them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from addon.config.model import Endpoint
    from addon.counts.facts import State
    from addon.oci import Digest

# Seconds that an endpoint rests after it failed once, and at most; at most when it said itself for how long; and that
# it is not believed about a digest.
_REST, _REST_MAX, _SAID_MAX, _DISTRUST = 5.0, 300.0, 3600.0, 600.0
# A rest is longer than it need be by up to this share: a fleet of proxies must not come back in step.
_JITTER = 0.2
# Times in a row that an endpoint may be outrun before it counts as failed.
_OUTRUN = 3
_MAX_KNOWN = 1000


@dataclass(frozen=True)
class _Rest:
    times: int  # failures in a row
    began: float
    until: float
    why: str


class Health:
    """Which endpoints rest: they are asked after the others, for a while. Never not at all.

    A failure rests an endpoint for everything. A rate limit rests it for one *kind* of question only ("GET manifests"):
    Docker Hub limits those apart from HEADs and blobs, and one that limits everything says so to every kind.

    Times are seconds on one clock, given by the caller. `asked` is when the question was put: many that fail together
    are one failure, and an answer to what was asked before a failure does not undo it.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._rests: dict[tuple[Endpoint, str | None], _Rest] = {}  # by kind; None: for everything
        self._outrun: dict[Endpoint, tuple[int, float]] = {}  # times in a row, and the last of them
        self._lied: dict[tuple[Endpoint, Digest], float] = {}  # until when it is not believed

    def failed(
        self,
        endpoint: Endpoint,
        asked: float,
        now: float,
        *,
        wait: float | None = None,
        kind: str | None = None,
        why: str = "",
    ) -> float:
        """Seconds that it rests now: `wait`, where it said so itself, or longer with every failure in a row.

        `kind` is what a rate limit was for; `why`, for people, what was wrong.
        """
        key = (endpoint, kind)
        known = self._rests.get(key)
        times, began, until = 1, now, now
        if known and now <= known.until + _REST_MAX:  # what failed long ago starts anew
            if asked < known.began:
                times, began, until = known.times, known.began, known.until
            else:
                times = known.times + 1
        if wait is None:
            rest = self._jittered(_REST * 2.0 ** min(times - 1, 20), _REST_MAX)
        else:
            rest = self._jittered(wait, _SAID_MAX)
        if len(self._rests) >= _MAX_KNOWN:
            # Clients name hosts as they like (*.azurecr.io).
            self._rests = {k: r for k, r in self._rests.items() if r.until + _REST_MAX > now}
        until = max(until, now + rest)
        self._rests[key] = _Rest(times, began, until, why)
        return until - now

    def outrun(self, endpoint: Endpoint, asked: float, now: float) -> float | None:
        """It had not begun to answer when another, asked later, did. Seconds that it rests now, if it does.

        Once is chance; but one that hangs must not hold up every request, and is never waited for until it fails.
        """
        times, last = self._outrun.get(endpoint, (0, asked))
        if asked < last:
            return None
        self._outrun[endpoint] = (times + 1, now)
        if times + 1 < _OUTRUN:
            return None
        return self.failed(endpoint, asked, now, why=f"slower than a rival, {times + 1} times in a row")

    def answered(self, endpoint: Endpoint, kind: str, asked: float, *, content: bool) -> bool:
        """Whether a rest ended by this.

        A rate limit's ends only by content of its kind: blobs and HEADs are answered all the time of the limit, and a
        404 may not be counted.
        """
        self._outrun.pop(endpoint, None)
        keys = [(endpoint, None), (endpoint, kind)] if content else [(endpoint, None)]
        ended = [key for key in keys if key in self._rests and self._rests[key].began <= asked]
        for key in ended:
            del self._rests[key]
        return bool(ended)

    def lied(self, endpoint: Endpoint, digest: Digest, now: float) -> float:
        """What the endpoint sent does not have the digest. Seconds that it is not believed about it."""
        self._lied = {key: until for key, until in self._lied.items() if until > now}
        self._lied[endpoint, digest] = now + _DISTRUST
        return _DISTRUST

    def limited(self, endpoint: Endpoint, kind: str, now: float) -> bool:
        """Whether it has said that there were too many questions of this kind."""
        return self._resting((endpoint, kind), now)

    def order(self, endpoints: Iterable[Endpoint], kind: str, digest: Digest | None, now: float) -> list[Endpoint]:
        """As they come, but those last that rest, or, the latest last, that sent something else for this digest."""

        def doubt(endpoint: Endpoint) -> tuple[bool, float]:
            lied = self._lied.get((endpoint, digest), -math.inf) if digest else -math.inf
            # Of several who sent parts of something wrong, maybe only one did: they get the next tries one by one.
            return self.doubtful(endpoint, kind, digest, now), lied if lied > now else -math.inf

        return sorted(endpoints, key=doubt)

    def doubtful(self, endpoint: Endpoint, kind: str, digest: Digest | None, now: float) -> bool:
        """Whether it rests, or sent something else for this digest."""
        lied = digest is not None and self._lied.get((endpoint, digest), now) > now
        return lied or self._resting((endpoint, None), now) or self._resting((endpoint, kind), now)

    def condition(self, endpoint: Endpoint, now: float) -> tuple[State, str, float]:
        """How it is, why, and until when that holds: "unknown" when it was not asked since a rest has ended."""
        rests = [(kind, rest) for (who, kind), rest in self._rests.items() if who == endpoint]
        if not rests:
            return "up", "", now
        kind, rest = max(rests, key=lambda each: (each[1].until > now, each[0] is None, each[1].until))
        if rest.until <= now:
            return "unknown", rest.why, rest.until
        return ("down" if kind is None else "limited"), rest.why, rest.until

    def _resting(self, key: tuple[Endpoint, str | None], now: float) -> bool:
        return key in self._rests and self._rests[key].until > now

    def _jittered(self, seconds: float, at_most: float) -> float:
        return min(seconds, at_most / (1 + _JITTER)) * self._random.uniform(1, 1 + _JITTER)
