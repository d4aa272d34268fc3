"""The one configuration as plain values, to be shown: what holds, where each part was said, and no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from addon.config import wellknown
from addon.config.lines import line
from addon.config.model import Config, Place, Tls, dotted
from addon.config.values import written_amount, written_seconds, written_share, written_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.config.model import Endpoint, Rule

# As they are written in [mirrortap].
SETTINGS: dict[str, Callable[[Config], object]] = {
    "connect-timeout": lambda config: written_seconds(config.timeouts.connect),
    "first-byte-timeout": lambda config: written_seconds(config.timeouts.first_byte),
    "stall-timeout": lambda config: written_seconds(config.timeouts.stall),
    "hedge-delay": lambda config: written_seconds(config.timeouts.hedge),
    "hedge-origin": lambda config: config.downloads.hedge_origin,
    "stale-after": lambda config: written_seconds(config.timeouts.stale),
    "tag-ttl": lambda config: written_seconds(config.tag_ttl),
    "redirect": lambda config: "public" if config.redirect else "never",
    "show-private": lambda config: config.show_private,
    "offline": lambda config: config.offline,
    "cache-size": lambda config: written_amount(config.space.cache),
    "min-free": lambda config: written_amount(config.space.free),
    "min-rate": lambda config: written_size(config.downloads.min_rate),
    "keep-filling-from": lambda config: written_share(config.downloads.keep_from),
    "quota-floor": lambda config: config.downloads.quota_floor,
    "prefetch": lambda config: config.downloads.prefetch,
    "segment-size": lambda config: written_size(config.downloads.segment_size),
    "connections-per-fill": lambda config: config.downloads.connections_per_fill,
    "public-ttl": lambda config: written_seconds(config.beliefs.public),
    "private-ttl": lambda config: written_seconds(config.beliefs.private),
    "access-ttl": lambda config: written_seconds(config.beliefs.access),
    "access-grace": lambda config: written_seconds(config.beliefs.grace),
    "allow-clients": lambda config: list(map(str, config.admission.clients)),
    "proxy-users": lambda config: config.admission.users and str(config.admission.users),
    "tunnel": lambda config: list(config.admission.tunnel),
    "tunnel-ports": lambda config: sorted(config.admission.ports),
    "connections-per-client": lambda config: config.admission.connections,
    "header-timeout": lambda config: written_seconds(config.admission.header),
    "idle-timeout": lambda config: written_seconds(config.admission.idle),
    "drain-timeout": lambda config: written_seconds(config.admission.drain),
    "leaf-life": lambda config: written_seconds(config.lives.leaf),
    "intermediate-life": lambda config: written_seconds(config.lives.intermediate),
}


def describe(config: Config) -> dict[str, Any]:
    """Lists and tables of texts, numbers and truths, as JSON has them; its keys stay."""
    rules = sorted(config.rules.values(), key=lambda rule: rule.pattern)
    reached = {endpoint.authority for rule in rules for endpoint in (*rule.mirrors, *rule.origins)}
    return {
        "sources": list(map(str, config.sources)),
        "warnings": list(config.warnings),
        "offline": config.offline,
        "rules": [_rule(rule) for rule in rules],
        # What redirects and token servers may be verified with.
        "hosts": [
            {"host": host, "tls": _tls(tls)}
            for host, tls in sorted(config.tls.items())
            if tls != Tls() and wellknown.api_host(host) not in reached
        ],
        "built-in": [name for name in wellknown.registries() if name not in config.rules],
        "settings": _settings(config),
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "pattern": rule.pattern,
        "place": _place(rule.place),
        "origin": _origin(rule),
        "endpoints": [_endpoint(endpoint) for endpoint in (*rule.mirrors, *rule.origins)],
        "tag-ttl": written_seconds(rule.tag_ttl),
        "prefetch": rule.prefetch,
        "access": "open" if rule.open else "checked",
        "redirect": "public" if rule.redirect else "never",
    }


def _origin(rule: Rule) -> str:
    """What becomes of the registry itself: it is asked last ("fallback"), or somewhere else ("moved"), or "never"."""
    if rule.blocked or rule.offline:
        return "blocked" if rule.blocked else "offline"
    if not rule.origins:
        return "never"
    here = wellknown.api_host(rule.registry)
    return "fallback" if all(each.authority == here and each.base == "/v2" for each in rule.origins) else "moved"


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "role": "origin" if endpoint.is_origin else "mirror",
        "name": endpoint.name,
        "url": f"{endpoint.url}{endpoint.base}",
        "replaces": endpoint.replaces,
        "capabilities": sorted(endpoint.can),
        "ns": endpoint.told,
        "tls": _tls(endpoint.tls),
        "headers": [name for name, _ in endpoint.headers],
        "dial-timeout": None if endpoint.dial_timeout is None else written_seconds(endpoint.dial_timeout),
        "credential": None if endpoint.auth is None else str(endpoint.auth),
        "credential-use": None if endpoint.auth is None else endpoint.auth.use,
        "place": _place(endpoint.place),
    }


def _tls(tls: Tls) -> dict[str, Any]:
    return {
        "verify": tls.verify,
        "unverified-networks": list(map(str, tls.lenient)),
        "ca": list(map(str, tls.ca)),
        "client": [{"certificate": str(pair.certificate), "key": str(pair.key)} for pair in tls.keypairs],
    }


def _place(place: Place) -> dict[str, Any] | None:
    if place.file is None:
        return None
    return {"file": str(place.file), "line": line(place.file, place.keys), "keys": dotted(place.keys)}


def _settings(config: Config) -> list[dict[str, Any]]:
    """Those that are not as when nothing is said of them."""
    file = next((path for path in config.sources if line(path, ["mirrortap"])), None)
    found = []
    for key, get in SETTINGS.items():
        if (value := get(config)) != (default := get(Config({}))):
            place = _place(Place(file, ("mirrortap", key)))
            found.append({"key": key, "value": value, "default": default, "place": place})
    return found
