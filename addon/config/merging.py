"""One configuration from what several files say. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from addon.config import patterns, wellknown
from addon.config.model import Config, ConfigError, Rule, Tls, host_of, is_address, origin_of
from ca.authority import AuthorityError, dns_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from addon.config.model import Endpoint
    from addon.config.reading import Draft, Reading


def merge(readings: Sequence[Reading]) -> Config:
    """The one model. Of what several files say of the same repositories, mirrors add up, in the order of the files.

    Raises ConfigError where they contradict each other.
    """
    settings = [reading for reading in readings if reading.settings]
    if len(settings) > 1:
        where = " and ".join(str(reading.path) for reading in settings)
        raise ConfigError(f"{where}: both have a [mirrortap] table; keep one of them")
    base = next((reading.settings for reading in settings), None) or Config({})
    return _Merger(readings, base).config()


@dataclass
class _Merger:
    readings: Sequence[Reading]
    base: Config

    def config(self) -> Config:
        self.warnings = [warning for reading in self.readings for warning in reading.warnings]
        # A host that is only named there says nothing yet of how it is verified.
        told = [{host: tls for host, tls in reading.tls.items() if tls != Tls()} for reading in self.readings]
        named = {host: Tls() for reading in self.readings for host in reading.tls}
        self.tls = named | self._by_host("TLS settings", told)
        self.auths = self._by_host("credentials", [reading.auths for reading in self.readings])
        drafts: dict[str, list[Draft]] = {}
        for reading in self.readings:
            for draft in reading.drafts:
                drafts.setdefault(draft.pattern, []).append(draft)
        for draft in self._standby(drafts):
            drafts[draft.pattern] = [draft]
        rules = {pattern: self._rule(said) for pattern, said in drafts.items() if self._interceptable(said)}
        rules = {pattern: _set_apart(rule, rules) for pattern, rule in rules.items()}
        config = replace(
            self.base,
            rules=rules,
            tls=self.tls,
            sources=tuple(reading.path for reading in self.readings if reading.path),
            files=frozenset().union(*(reading.files for reading in self.readings)),
            warnings=tuple(dict.fromkeys(self.warnings)),
        )
        return config.taken_offline() if config.offline else config

    def _standby(self, drafts: Mapping[str, Sequence[Draft]]) -> list[Draft]:
        """For registries that nobody mentions: as a file says that has a say in how those are reached."""
        standby: dict[str, Draft] = {}
        for reading in self.readings:
            for draft in reading.standby:
                standby.setdefault(draft.pattern, draft)
        mentioned = {draft.registry for said in drafts.values() for draft in said}
        return [
            draft
            for draft in standby.values()
            if "*" not in mentioned and not patterns.hosts(draft.registry, mentioned)
        ]

    def _by_host[T](self, what: str, each: Iterable[Mapping[str, T]]) -> dict[str, T]:
        found: dict[str, T] = {}
        for mapping in each:
            for host, value in mapping.items():
                if found.setdefault(host, value) != value:
                    files = " and ".join(str(reading.path) for reading in self.readings)
                    raise ConfigError(f"{files}: say different {what} for {host}; keep those of one file")
        return found

    def _interceptable(self, said: Sequence[Draft]) -> bool:
        """Whether clients can be shown a certificate for it. Raises ConfigError where something asks for that."""
        host = host_of(said[0].registry.removeprefix("*."))
        if host == "*":
            return True
        if is_address(host) or "_" in host:
            # To say how such a host is reached is common: it is a mirror's.
            reason = "a registry that clients name by IP address, or with an underscore, cannot be intercepted"
            for draft in said:
                if asked := _asks_for_it(draft):
                    raise ConfigError(f"{draft.place}{asked} cannot be kept: {reason}")
                if draft.mirrors:
                    self.warnings.append(
                        f"{draft.place}: its mirrors are not used: {reason}, for no certificate may stand for it"
                    )
            return False
        try:
            dns_name(host)
        except AuthorityError as error:
            raise ConfigError(f"{said[0].place}: no certificate can stand for it: {error}") from None
        return True

    def _rule(self, said: Sequence[Draft]) -> Rule:
        first = said[0]
        if blocking := [draft for draft in said if draft.blocked]:
            if others := [draft for draft in said if not draft.blocked]:
                _contradict(blocking[0], others[0], f"{first.pattern} is blocked by the one and served by the other")
            return Rule(first.registry, (), within=first.within, blocked=True, place=blocking[0].place)
        mirrors = tuple(dict.fromkeys(self._reached(mirror) for draft in said for mirror in draft.mirrors))
        origins = self._origins(said)
        if not origins and not mirrors:
            raise ConfigError(
                f"{first.place.below('fallback')}: is false, and there are no mirrors: nothing could answer"
            )
        ttl, prefetch = _agreed(said, "tag_ttl", "tag-ttl"), _agreed(said, "prefetch", "prefetch")
        rule = Rule(
            first.registry,
            origins,
            mirrors,
            self.base.tag_ttl if ttl is None else ttl,
            open=bool(_agreed(said, "open", "access")),
            redirect=self._redirect(said, origins),
            within=first.within,
            prefetch=self.base.downloads.prefetch if prefetch is None else prefetch,
            place=first.place,
        )
        if not (rule.open or origins) and all(mirror.knows_us for mirror in mirrors):
            raise ConfigError(
                f"{first.place}: who may read cannot be found out: the proxy logs in to all its mirrors, and its origin"
                f' is never asked; add access = "open" to [registry."{rule.pattern}"] in a file of mirrortap\'s own to'
                " let everybody who may use the proxy read all of it"
            )
        return rule.taken_offline() if _agreed(said, "offline", "mode") else rule

    def _origins(self, said: Sequence[Draft]) -> tuple[Endpoint, ...]:
        """Where the registry itself is; nowhere, when it must not be asked."""
        first = said[0]
        if forbidding := [draft for draft in said if draft.fallback is False]:
            for draft in said:
                if draft.moved or draft.fallback:
                    what = f"the one says where {first.pattern} is, and the other forbids asking it"
                    _contradict(draft, forbidding[0], what)
            return ()
        # One that says where it is counts for more than one that only says how it is reached there.
        sayings = [draft for draft in said if draft.moved] or [draft for draft in said if draft.origins is not None]
        if not sayings:
            return (self._reached(replace(origin_of(first.registry), place=first.place)),)
        for draft in sayings[1:]:
            if draft.origins != sayings[0].origins:
                _contradict(
                    sayings[0], draft, f"say different things of where {first.pattern} is, or how it is reached"
                )
        return tuple(map(self._reached, sayings[0].origins or ()))

    def _redirect(self, said: Sequence[Draft], origins: Sequence[Endpoint]) -> bool:
        redirect = _agreed(said, "redirect", "redirect")
        if not any(origin.knows_us for origin in origins):
            return self.base.redirect if redirect is None else redirect
        if redirect:
            self.warnings.append(
                f'{said[0].place}: redirect = "public" changes nothing: the proxy has a credential of its own there, so'
                " that what it is given need not be public"
            )
        return False

    def _reached(self, endpoint: Endpoint) -> Endpoint:
        """With what any file says of the host that the endpoint is at."""
        host = wellknown.canonical(endpoint.authority)
        if host in self.tls and endpoint.tls == Tls(lenient=endpoint.tls.lenient):
            endpoint = replace(endpoint, tls=replace(self.tls[host], lenient=endpoint.tls.lenient))
        if endpoint.auth is None and host in self.auths:
            endpoint = replace(endpoint, auth=self.auths[host])
        return endpoint


def _asks_for_it(draft: Draft) -> str:
    """What makes no sense unless the registry is intercepted: its key, where all formats have the same one."""
    if draft.moved:
        return ": says that it is elsewhere, which"
    if draft.blocked:
        return ".blocked:"
    if draft.fallback is False:
        return ".fallback:"
    return ".mode:" if draft.offline else ""


def _set_apart(rule: Rule, rules: Mapping[str, Rule]) -> Rule:
    """With what says of the origins of a part that they are not those of the whole, where clients log in."""
    if not rule.within or not rule.origins:
        return rule
    whole = rules.get(rule.registry)
    hosts = {origin.authority for origin in (whole and whole.origins) or (origin_of(rule.registry),)}
    return replace(rule, origins=tuple(replace(each, apart=each.authority not in hosts) for each in rule.origins))


def _agreed[T](said: Sequence[Draft], field: str, key: str) -> T | None:
    values: list[tuple[Draft, T]] = [(d, getattr(d, field)) for d in said if getattr(d, field) is not None]
    for draft, value in values[1:]:
        if value != values[0][1]:
            _contradict(values[0][0], draft, f"say different things of {key}")
    return values[0][1] if values else None


def _contradict(one: Draft, other: Draft, what: str) -> NoReturn:
    raise ConfigError(f"{one.place} and {other.place}: {what}; keep one of the two")
