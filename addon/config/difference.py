"""What another configuration changes, for people. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from addon.config.model import Config

# Names of one kind that are told; ten thousand would be no news.
_MOST = 10
# Where the model's settings are not called as their keys in [mirrortap].
_KEYS = {
    "timeouts.connect": "connect-timeout",
    "timeouts.first_byte": "first-byte-timeout",
    "timeouts.stall": "stall-timeout",
    "timeouts.hedge": "hedge-delay",
    "timeouts.stale": "stale-after",
    "space.cache": "cache-size",
    "space.free": "min-free",
    "downloads.keep_from": "keep-filling-from",
    "beliefs.public": "public-ttl",
    "beliefs.private": "private-ttl",
    "beliefs.access": "access-ttl",
    "beliefs.grace": "access-grace",
    "admission.clients": "allow-clients",
    "admission.users": "proxy-users",
    "admission.ports": "tunnel-ports",
    "admission.connections": "connections-per-client",
    "admission.header": "header-timeout",
    "admission.idle": "idle-timeout",
    "admission.drain": "drain-timeout",
    "lives.leaf": "leaf-life",
    "lives.intermediate": "intermediate-life",
}
_GROUPS = ("timeouts", "space", "downloads", "beliefs", "admission", "lives")
_SINGLE = ("tag_ttl", "redirect", "show_private", "offline")


def differences(old: Config, new: Config) -> list[str]:
    """What was added, removed and changed: rules by pattern, hosts and settings by name. Empty: nothing of that."""
    said = _mappings("", old.rules, new.rules)
    # A host's table that makes a rule, too, is told by that.
    told = old.rules.keys() | new.rules.keys()
    hosts = [{h: tls for h, tls in config.tls.items() if h not in told} for config in (old, new)]
    said += _mappings("how it is reached: ", *hosts)
    if settings := _settings(old, new):
        said.append(f"set anew: {', '.join(settings)}")
    return said


def _mappings(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    kinds = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(key for key in old.keys() & new.keys() if old[key] != new[key]),
    }
    return [f"{what}{kind} {shortened(names)}" for kind, names in kinds.items() if names]


def _settings(old: Config, new: Config) -> list[str]:
    found = []
    for group in _GROUPS:
        one, other = getattr(old, group), getattr(new, group)
        for field in fields(one):
            if getattr(one, field.name) != getattr(other, field.name):
                found.append(_KEYS.get(f"{group}.{field.name}") or field.name.replace("_", "-"))
    return found + [name.replace("_", "-") for name in _SINGLE if getattr(old, name) != getattr(new, name)]


def shortened(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    rest = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {rest} more" if rest > 0 else "")
