"""The one model that every configuration format is read into. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Timeouts:
    """Seconds: until there is a connection; until an answer begins, connecting included; without a byte of a body."""

    connect: float = 5.0
    first_byte: float = 20.0
    stall: float = 60.0


@dataclass(frozen=True)
class Config:
    """Everything the operator said. `rules` are by registry; `tls` by `host[:port]`, for redirect targets too."""

    rules: Mapping[str, Rule]
    tls: Mapping[str, Tls] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    tag_ttl: float = 0.0
    source: Path | None = None
    warnings: tuple[str, ...] = ()

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
            return Rule(registry, origins=(origin_of(registry),), tag_ttl=self.tag_ttl)
        return None

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
