"""The one model that every configuration format is read into. Pure values."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from addon.config import wellknown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
class Secret:
    """Where a secret is kept, never what it is: a file, or an environment variable of the proxy."""

    file: Path | None = None
    env: str | None = None

    def __str__(self) -> str:
        return str(self.file) if self.file else f"${self.env}"


@dataclass(frozen=True)
class Auth:
    """The proxy's own credential for an endpoint; one of three kinds.

    `username` with `password`; a bearer `token`; or what a Docker `config.json` holds for `registry`, credential
    helpers included. `use`: at an origin, instead of the clients' own, or only where theirs does not do.
    """

    registry: str  # the host that it is for, as config.json names it
    username: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    docker_config: Path | None = None
    use: Literal["always", "when-client-has-none"] = "when-client-has-none"

    def __str__(self) -> str:
        return f"the credential for {self.registry} (from {self.docker_config or self.token or self.password})"


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
    auth: Auth | None = None

    @property
    def hears_clients(self) -> bool:
        """Whether a client's own credential means anything to it."""
        return self.is_origin and (self.auth is None or self.auth.use != "always")


@dataclass(frozen=True)
class Rule:
    """What is done with requests for one registry."""

    registry: str
    origins: tuple[Endpoint, ...]  # empty when the origin must never be asked
    mirrors: tuple[Endpoint, ...] = ()
    tag_ttl: float = 0.0  # seconds that a tag is believed without asking again
    offline: bool = False  # what is cached is all there is; such a rule has no endpoints
    open: bool = False  # whoever may use the proxy may read what is cached of it

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
class Beliefs:
    """Seconds: how long it is believed that everybody may read a repository, that not everybody may, that a client may
    (at most as long as its token lives); and for how long after it was shown that counts while the origin cannot be
    reached."""

    public: float = 3600.0
    private: float = 300.0
    access: float = 300.0
    grace: float = 0.0


@dataclass(frozen=True)
class Lives:
    """Seconds that certificates are issued for."""

    leaf: float = 7 * 86400.0
    intermediate: float = 365 * 86400.0


_PRIVATE = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
)


@dataclass(frozen=True)
class Admission:
    """Who may use the proxy, and for what besides registries.

    `clients` may connect, at most `connections` at once from one address, and log in when there is a file of `users`
    (htpasswd). `tunnel`: which hosts that are not intercepted they may reach: `host[:port]`, `*.host[:port]`, all, or
    those that go with the built-in registries; without a port of its own at `ports`. `header`: seconds that the head of
    a request may take; `idle`: that a connection may be without a byte.
    """

    clients: tuple[Network, ...] = tuple(map(ipaddress.ip_network, _PRIVATE))
    users: Path | None = None
    tunnel: tuple[str, ...] = ("all",)
    ports: frozenset[int] = frozenset({443, 80})
    connections: int = 512
    header: float = 30.0
    idle: float = 600.0


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
    beliefs: Beliefs = Beliefs()
    admission: Admission = Admission()
    lives: Lives = Lives()
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


def is_loopback(host: str) -> bool:
    """Whether host is written as this machine itself."""
    return host in ("localhost", "::1") or (is_address(host) and host.startswith("127."))
