"""How endpoints stand: who answers, who is asked last and why, and what is left of their rate limits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from addon.counts.facts import EndpointFacts, QuotaFacts
from addon.upstream import routing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.config.model import Endpoint, Rule
    from addon.counts.facts import Tallied
    from addon.upstream.health import Health
    from addon.upstream.quota import Quotas

# Clients name hosts as they like (*.azurecr.io).
_MOST = 200
# Digits of a fingerprint by which people can tell clients' credentials apart.
_DIGITS = 6


class Standing:
    """As one process has found it."""

    def __init__(self, health: Health, quotas: Quotas) -> None:
        self._health = health
        self._quotas = quotas
        self._asked: dict[tuple[str, Endpoint], None] = {}

    def asked(self, registry: str, endpoint: Endpoint) -> None:
        """The endpoint is asked for this registry."""
        if len(self._asked) < _MOST:
            self._asked[registry, endpoint] = None

    def endpoints(self, rules: Iterable[Rule], tallied: Tallied) -> list[EndpointFacts]:
        """Those of the rules, and those that were asked without one; names that are patterns lead nowhere.

        A table that says how a mirror is reached makes no registry of it until it is asked for as one.
        """
        rules = [rule for rule in rules if "*" not in rule.registry and not rule.offline]
        mirrors = {endpoint.authority for rule in rules for endpoint in rule.mirrors}
        known = dict.fromkeys(
            (rule.registry, endpoint)
            for rule in rules
            if rule.mirrors or rule.registry not in mirrors
            for endpoint in routing.endpoints(rule)
        )
        return [self._facts(*each, tallied) for each in known | self._asked]

    def _facts(self, registry: str, endpoint: Endpoint, tallied: Tallied) -> EndpointFacts:
        now, key = time.monotonic(), (registry, endpoint.name)
        state, reason, until = self._health.condition(endpoint, now)
        counters = tallied.counters
        asked = counters.asked.get(key, 0)
        if state == "up" and not asked:
            state = "unknown"
        return EndpointFacts(
            registry=registry,
            endpoint=endpoint.name,
            origin=endpoint.is_origin,
            state=state,
            reason=reason,
            until=time.time() + until - now,
            latency=tallied.latency.get(key),
            asked=asked,
            failed=counters.failed.get(key, 0),
        )

    def quotas(self) -> list[QuotaFacts]:
        now = time.monotonic()
        return [
            QuotaFacts(
                endpoint=endpoint.name,
                credential=_credential(endpoint, fingerprint),
                remaining=said.remaining,
                limit=said.limit,
                window=said.window,
                at=time.time() + at - now,
            )
            for endpoint, fingerprint, said, at in self._quotas.all(now)
        ]


def _credential(endpoint: Endpoint, fingerprint: str) -> str:
    if fingerprint:
        return f"client {fingerprint[:_DIGITS]}"
    return "own" if endpoint.knows_us else "anonymous"
