"""The one model that every configuration format is read into. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from addon.config import wellknown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class ConfigError(Exception):
    """Something the operator wrote does not hold; the message names the file, the key and the remedy."""


@dataclass(frozen=True)
class KeyPair:
    """A client certificate for an endpoint that asks for one."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Tls:
    """How an endpoint is verified. The CAs add to the system's."""

    ca: tuple[Path, ...] = ()
    keypairs: tuple[KeyPair, ...] = ()
    verify: bool = True


@dataclass(frozen=True)
class Endpoint:
    """An origin or a mirror, as something to connect to.

    `name` is what the operator calls it, `url` scheme and authority, `path` what goes between `/v2/` and the
    repository ("" or "some/path").
    """

    name: str
    url: str
    path: str = ""
    tls: Tls = Tls()
    is_origin: bool = False


@dataclass(frozen=True)
class Rule:
    """What is done with requests for one registry."""

    registry: str
    origins: tuple[Endpoint, ...]  # empty when the origin must never be asked
    mirrors: tuple[Endpoint, ...] = ()
    tag_ttl: float = 0.0  # seconds that a tag is believed without asking again
    offline: bool = False  # what is cached is all there is; such a rule has no endpoints

    def taken_offline(self) -> Rule:
        return replace(self, origins=(), mirrors=(), offline=True)


@dataclass(frozen=True)
class Timeouts:
    """Seconds: until there is a connection; until an answer begins, connecting included; without a byte of a body;
    until a mirror that has not begun to answer gets a rival (0: never); until a tag that is in the cache is answered
    from there."""

    connect: float = 5.0
    first_byte: float = 20.0
    stall: float = 60.0
    hedge: float = 2.0
    stale: float = 2.0


@dataclass(frozen=True)
class Amount:
    """So many bytes, or a share (0 to 1) of the disk."""

    bytes: int = 0
    share: float = 0.0

    def of(self, disk: int) -> int:
        """In bytes, on a disk of this size."""
        return self.bytes + int(disk * self.share)


@dataclass(frozen=True)
class Space:
    """How large the cache may grow, and how much of the disk it leaves free."""

    cache: Amount = Amount(share=0.75)
    free: Amount = Amount(share=0.05)


@dataclass(frozen=True)
class Downloads:
    """`min_rate` in bytes a second, over the stall timeout; `keep_from`: the share (0 to 1) of a blob from which on its
    download goes on when the last client has left; `hedge_origin`: whether an origin, too, may be asked as a rival to
    a slow mirror; `quota_floor`: requests left of a registry's rate limit below which it is spared."""

    min_rate: int = 10_000
    keep_from: float = 0.25
    hedge_origin: bool = False
    quota_floor: int = 10


@dataclass(frozen=True)
class Pace:
    """What an endpoint must keep up: `rate` in bytes a second, over `window` seconds of waiting for it."""

    rate: int
    window: float


@dataclass(frozen=True)
class Config:
    """Everything the operator said. `rules` are by registry; `tls` by `host[:port]`, for redirect targets too."""

    rules: Mapping[str, Rule]
    tls: Mapping[str, Tls] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    space: Space = Space()
    downloads: Downloads = Downloads()
    tag_ttl: float = 0.0
    offline: bool = False  # nothing is connected to, other hosts included
    source: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def pace(self) -> Pace:
        return Pace(self.downloads.min_rate, self.timeouts.stall)

    def rule(self, host: str, port: int) -> Rule | None:
        """The rule for what a client reaches at host and port, or None: not a registry of ours, tunnel it."""
        host = host.lower().rstrip(".")
        named = self.rules.get(f"{host}:{port}")
        if named or port not in (443, 80):
            return named
        # 80 too: a client that speaks plain http to a registry still means that registry.
        registry = wellknown.canonical(host)
        if rule := self.rules.get(registry):
            return rule
        if wellknown.is_public(registry):
            rule = Rule(registry, origins=(origin_of(registry),), tag_ttl=self.tag_ttl)
            return rule.taken_offline() if self.offline else rule
        return None

    def taken_offline(self) -> Config:
        """The same with nothing to connect to."""
        rules = {registry: rule.taken_offline() for registry, rule in self.rules.items()}
        return replace(self, rules=rules, offline=True)

    def certificate_names(self) -> list[str]:
        """DNS names that leaves may be issued for; each stands for itself and its subdomains."""
        return sorted({host_of(registry) for registry in self.rules} | wellknown.DOMAINS)


def origin_of(registry: str) -> Endpoint:
    """The endpoint that `registry` itself is, over TLS."""
    return Endpoint(registry, f"https://{wellknown.api_host(registry)}", is_origin=True)


def host_of(authority: str) -> str:
    """`host[:port]` without the port, `[::1]:5000` included."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def is_address(host: str) -> bool:
    """Whether host is an IP address, for which no certificate of ours can be valid."""
    return ":" in host or (host.replace(".", "").isdigit() and host.count(".") == 3)
