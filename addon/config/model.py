"""The one model that every configuration format is read into. Pure values."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

from addon.config import patterns, wellknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

# Answers about rules that are remembered, and characters of names that are worth it.
_LATELY, _LONG = 2048, 512

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(Exception):
    """Something the operator wrote does not hold; the message names the file, the key and the remedy."""


Capability = Literal["pull", "resolve", "referrers"]


@dataclass(frozen=True)
class Place:
    """Where something was said: the file, and the keys that lead to it there. No file: it is built in."""

    file: Path | None = None
    keys: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.file), dotted(self.keys)))) if self.file else "built in"

    def below(self, *keys: str | int) -> Place:
        return Place(self.file, (*self.keys, *keys))


@dataclass(frozen=True)
class KeyPair:
    """A client certificate for an endpoint that asks for one."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Tls:
    """How an endpoint is verified. The CAs add to the system's.

    `lenient`: networks in which it is not verified, whatever `verify` says.
    """

    ca: tuple[Path, ...] = ()
    keypairs: tuple[KeyPair, ...] = ()
    verify: bool = True
    lenient: tuple[Network, ...] = ()


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

    `name` is what the operator calls it, `url` scheme and authority. A repository is at `base`, the path before it, and
    what `replaces` of its name stands there already: ("/v2/hub", "library") has library/app at /v2/hub/app.

    `can`: "pull" content by its digest, "resolve" tags, list "referrers". `headers` go with each request to it, and may
    be secrets. `dial_timeout`: seconds, where not as for the others. `ns`: whether it is told which registry is meant;
    None: as a mirror it is, as an origin not. `apart`: the origin of a part of a registry that is not where clients log
    in to it.
    """

    name: str
    url: str
    base: str = "/v2"
    replaces: str = ""
    tls: Tls = Tls()
    is_origin: bool = False
    auth: Auth | None = None
    can: frozenset[Capability] = frozenset({"pull", "resolve"})
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    dial_timeout: float | None = None
    ns: bool | None = None
    apart: bool = False
    place: Place = field(default_factory=Place, compare=False)

    @property
    def hears_clients(self) -> bool:
        """Whether a client's own credential means anything to it."""
        return self.is_origin and not self.apart and (self.auth is None or self.auth.use != "always")

    @property
    def knows_us(self) -> bool:
        """Whether what it gives the proxy need not be what it gives anybody: a header may be a credential, too."""
        return self.auth is not None or bool(self.headers)

    @property
    def named(self) -> bool:
        """Whether the operator wrote down this very host."""
        return self.place.file is not None and not self.authority.startswith("*")

    @property
    def authority(self) -> str:
        return self.url.partition("://")[2]

    def path(self, repository: str) -> str:
        """Where it has a repository."""
        rest = repository.removeprefix(self.replaces).lstrip("/") if self.replaces else repository
        return f"{self.base}/{rest}" if rest else self.base

    @property
    def told(self) -> bool:
        """Whether requests to it say which registry is meant (distribution-spec, "Registry Proxying")."""
        return not self.is_origin if self.ns is None else self.ns

    def standing_for(self, registry: str) -> Endpoint:
        """The same for one of the hosts of a wildcard, where it is that host itself."""
        if not self.authority.startswith("*"):
            return self
        url = f"{self.url.partition('://')[0]}://{wellknown.api_host(registry)}"
        # It is a client who named that host.
        return replace(self, name=registry, url=url, place=Place())


@dataclass(frozen=True)
class Rule:
    """What is done with requests for a registry, or for those of its repositories that are at or below `within`.

    `registry` is a host[:port], or a pattern ("*.host", "*" for whatever registry has no other) until it is asked for
    one. An origin whose host is that pattern is the registry itself.
    """

    registry: str
    origins: tuple[Endpoint, ...]  # empty when the origin must never be asked
    mirrors: tuple[Endpoint, ...] = ()
    tag_ttl: float = 0.0  # seconds that a tag is believed without asking again
    offline: bool = False  # what is cached is all there is; such a rule has no endpoints
    open: bool = False  # whoever may use the proxy may read what is cached of it
    redirect: bool = False  # what is public may go over plain http; never where the origin knows the proxy
    within: str = ""
    blocked: bool = False  # nothing is given of it
    prefetch: bool = True  # whether a manifest that is pulled starts the downloads of its layers
    place: Place = field(default_factory=Place, compare=False)

    @property
    def pattern(self) -> str:
        return f"{self.registry}/{self.within}" if self.within else self.registry

    def taken_offline(self) -> Rule:
        return replace(self, origins=(), mirrors=(), offline=True)

    def standing_for(self, registry: str) -> Rule:
        """The same for one of the hosts that it is about."""
        if registry == self.registry:
            return self
        return replace(self, registry=registry, origins=tuple(origin.standing_for(registry) for origin in self.origins))


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
    a slow mirror; `quota_floor`: requests left of a registry's rate limit below which it is spared; `prefetch`: whether
    a manifest that is pulled starts the downloads of its layers, where a registry's rule does not say otherwise;
    `segment_size`: the most bytes of a blob that are asked for at once where it comes over several connections;
    `connections_per_fill`: over how many, at most."""

    min_rate: int = 10_000
    keep_from: float = 0.25
    hedge_origin: bool = False
    quota_floor: int = 10
    prefetch: bool = True
    segment_size: int = 64 << 20
    connections_per_fill: int = 4


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
    a request may take; `idle`: that a connection may be without a byte; `drain`: that transfers may take to their end
    when the proxy is told to stop.
    """

    clients: tuple[Network, ...] = tuple(map(ipaddress.ip_network, _PRIVATE))
    users: Path | None = None
    tunnel: tuple[str, ...] = ("all",)
    ports: frozenset[int] = frozenset({443, 80})
    connections: int = 512
    header: float = 30.0
    idle: float = 600.0
    drain: float = 30.0


@dataclass(frozen=True)
class Pace:
    """What an endpoint must keep up: `rate` in bytes a second, over `window` seconds of waiting for it."""

    rate: int
    window: float


@dataclass(frozen=True)
class Splitting:
    """A blob comes in segments of at most so many bytes, over at most so many connections at once."""

    segment: int
    connections: int


@dataclass(frozen=True)
class Config:
    """Everything the operator said. `rules` are by pattern; `tls` by `host[:port]`, for redirect targets too."""

    rules: Mapping[str, Rule]
    tls: Mapping[str, Tls] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    space: Space = Space()
    downloads: Downloads = Downloads()
    beliefs: Beliefs = Beliefs()
    admission: Admission = Admission()
    lives: Lives = Lives()
    tag_ttl: float = 0.0
    redirect: bool = False  # as in rules
    show_private: bool = False  # names of repositories that not everybody may read, on the status page
    offline: bool = False  # nothing is connected to, other hosts included
    sources: tuple[Path, ...] = ()  # as they were given
    files: frozenset[Path] = frozenset()  # whatever was read for it, folders included
    warnings: tuple[str, ...] = ()

    @property
    def pace(self) -> Pace:
        return Pace(self.downloads.min_rate, self.timeouts.stall)

    @property
    def redirects(self) -> bool:
        """Whether some client may be redirected."""
        return self.redirect or any(rule.redirect for rule in self.rules.values())

    @property
    def splitting(self) -> Splitting:
        return Splitting(self.downloads.segment_size, self.downloads.connections_per_fill)

    def rule(self, host: str, port: int, repository: str = "") -> Rule | None:
        """The rule for what a client reaches at host and port, or None: not a registry of ours, tunnel it.

        With a repository the one for that: the longest pattern's (containers-registries.conf(5), "prefix").
        """
        # Clients choose the names, and must not fill the memory.
        found = self._rule_of if len(host) + len(repository) > _LONG else self._rule_lately
        return found(host, port, repository)

    @cached_property
    def _rule_lately(self) -> Callable[[str, int, str], Rule | None]:
        return lru_cache(_LATELY)(self._rule_of)

    def _rule_of(self, host: str, port: int, repository: str) -> Rule | None:
        host = host.lower().rstrip(".")
        names = [f"{host}:{port}"]
        # 80 too: a client that speaks plain http to a registry still means that registry.
        if port in (443, 80):
            names.append(wellknown.canonical(host))
        for registry in names:
            known = patterns.hosts(registry, self._rules)
            public = wellknown.is_public(registry)
            if known or public:
                known += ["*"] if public and "*" in self._rules else []
                found = patterns.longest(known, repository, self._rules)
                if found and found.blocked and not repository and not self._served.isdisjoint(known):
                    found = None  # how to log in is asked for the part that is served, too
                rule = found.standing_for(registry) if found else self._plain(registry)
                return rule.taken_offline() if self.offline and not rule.blocked else rule
        return None

    @cached_property
    def _rules(self) -> Mapping[str, Mapping[str, Rule]]:
        """By host, then by what it is within."""
        found: dict[str, dict[str, Rule]] = {}
        for rule in self.rules.values():
            found.setdefault(rule.registry, {})[rule.within] = rule
        return found

    @cached_property
    def _served(self) -> frozenset[str]:
        """Hosts of which a part is served in particular."""
        return frozenset(rule.registry for rule in self.rules.values() if rule.within and not rule.blocked)

    def _plain(self, registry: str) -> Rule:
        """For a registry that nothing in particular is said of."""
        origin = replace(origin_of(registry), tls=self.tls.get(registry, Tls()))
        return Rule(
            registry,
            origins=(origin,),
            tag_ttl=self.tag_ttl,
            redirect=self.redirect,
            prefetch=self.downloads.prefetch,
        )

    def taken_offline(self) -> Config:
        """The same with nothing to connect to."""
        rules = {pattern: rule.taken_offline() for pattern, rule in self.rules.items()}
        return replace(self, rules=rules, offline=True)

    def certificate_names(self) -> list[str]:
        """DNS names that leaves may be issued for; each stands for itself and its subdomains."""
        hosts = {host_of(rule.registry.removeprefix("*.")) for rule in self.rules.values()} - {"*"}
        return sorted(hosts | wellknown.DOMAINS)


def origin_of(registry: str) -> Endpoint:
    """The endpoint that `registry` itself is, over TLS."""
    return Endpoint(registry, f"https://{wellknown.api_host(registry)}", is_origin=True)


def dotted(keys: Iterable[str | int]) -> str:
    """Keys as a TOML file's author knows them: registry."docker.io".mirrors[0]."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            quoted = f'"{key}"' if key.isprintable() else json.dumps(key)
            text += ("." if text else "") + (key if re.fullmatch(r"[A-Za-z][\w-]*", key, re.ASCII) else quoted)
    return text


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
