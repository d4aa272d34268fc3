"""What `mirrortap serve` says when it is up: what happens here, and what is next."""

from __future__ import annotations

import os
from textwrap import indent
from typing import TYPE_CHECKING

from addon.config import wellknown
from addon.status.page import setup
from addon.upstream import routing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.config.model import Config, Rule
    from addon.doors.listening import Mode
    from addon.service import Service

# Of all interfaces.
_ALL = ("", "0.0.0.0", "::")


def text(
    service: Service,
    host: str,
    port: int,
    mode: Mode,
    mirror: tuple[str, int] | None = None,
    mirror_names: Sequence[str] = (),
) -> str:
    """For people, and for scripts that wait for the line with `listening on`.

    `mirror` is where the mirror door listens, if it does, and `mirror_names` are its names in TLS.
    """
    config, authority = service.config, service.authority
    rules = sorted(config.rules.values(), key=lambda rule: rule.pattern)
    width = max(len(rule.pattern) for rule in rules)
    names = [name for name in wellknown.registries() if name not in config.rules]
    place = _place(os.uname().nodename if host in _ALL else host, port)
    made = "  (made just now: builders must be told to trust it)" if authority.created else ""
    lines = [
        f"mirrortap is listening on {setup.SCHEMES[mode]}://{_place(host, port)}",
        "",
        f"Configuration: {', '.join(map(str, config.sources)) or 'built in'}",
        *(f"  WARNING {warning}" for warning in config.warnings),
        *(f"  {rule.pattern:{width}}  {_way(rule)}" for rule in rules),
        f"  {unnamed(config)}: {', '.join(names)}",
        f"  {others(config)}",
        *(f"  {line}" for line in service.parents.told),
        f"Cache: {service.cache.folder}",
        f"CA:    {authority.root_path}{made}",
        f"       SHA-256 {authority.fingerprint}",
        *(f"       WARNING {warning}" for warning in authority.warnings),
        f"Status page: http://{place}/",
        "",
        *_builder(place, mode),
        *(_mirror(*mirror, mirror_names) if mirror else []),
    ]
    return "\n".join(lines)


def _way(rule: Rule) -> str:
    if rule.blocked:
        return "blocked"
    if rule.offline:
        return "offline, from the cache alone"
    seen = dict.fromkeys(e.name + (" (origin)" if e.is_origin else "") for e in routing.endpoints(rule))
    way = ", then ".join(seen)
    return way if rule.origins else f"{way}, never the origin"


def unnamed(config: Config) -> str:
    """What is done with built-in registries that have no rule of their own."""
    if config.offline:
        return "from the cache alone"
    return "by the rule *" if "*" in config.rules else "straight from the origin, cached"


def others(config: Config) -> str:
    """What is done with hosts that are not intercepted."""
    if config.offline:
        return "every other host is refused: mirrortap is offline"
    if "all" in config.admission.tunnel:
        return "every other host is tunnelled untouched"
    return f"other hosts are refused, except (tunnel): {', '.join(config.admission.tunnel) or 'none'}"


def _builder(place: str, mode: Mode) -> list[str]:
    at = setup.Reach(place, mode)
    redirected = ["(its connections are redirected to this port: see docs/transparent.md)"] if not at.proxy else []
    return ["On a builder:", *(f"  {line}" for line in (*redirected, *setup.shell(at)))]


def _mirror(host: str, port: int, names: Sequence[str]) -> list[str]:
    """What clients that have no proxy are told."""
    scheme = "https" if names else "http"
    listening = f"{scheme}://{_place(host, port)}"
    if names:
        host = names[0]
    elif host in _ALL:
        host = os.uname().nodename
    steps = setup.mirror(f"{scheme}://{_place(host, port)}")
    return [
        "",
        f"The mirror is listening on {listening}",
        "Where nothing can be told of a proxy:",
        *(f"  {step.what}:\n{indent(step.lines, '    ')}" for step in steps),
    ]


def _place(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"
