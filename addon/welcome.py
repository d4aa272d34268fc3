"""What `mirrortap serve` says when it is up: what happens here, and what is next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from addon.config import wellknown
from addon.upstream import routing

if TYPE_CHECKING:
    from addon.config.model import Config, Rule
    from addon.service import Service


def text(service: Service, host: str, port: int) -> str:
    """For people, and for scripts that wait for the line with `listening on`."""
    config, authority = service.config, service.authority
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    rules = sorted(config.rules.values(), key=lambda rule: rule.pattern)
    width = max(len(rule.pattern) for rule in rules)
    others = [name for name in wellknown.registries() if name not in config.rules]
    made = "  (made just now: builders must be told to trust it)" if authority.created else ""
    lines = [
        f"mirrortap is listening on {url}",
        "",
        f"Configuration: {', '.join(map(str, config.sources)) or 'built in'}",
        *(f"  WARNING {warning}" for warning in config.warnings),
        *(f"  {rule.pattern:{width}}  {_way(rule)}" for rule in rules),
        f"  {'from the cache alone' if config.offline else 'straight from the origin, cached'}: {', '.join(others)}",
        f"  {_others(config)}",
        *(f"  {line}" for line in service.parents.told),
        f"Cache: {service.cache}",
        f"CA:    {authority.root_path}{made}",
        f"       SHA-256 {authority.fingerprint}",
        *(f"       WARNING {warning}" for warning in authority.warnings),
        "",
        *_builder(url, host),
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


def _others(config: Config) -> str:
    if config.offline:
        return "every other host is refused: mirrortap is offline"
    if "all" in config.admission.tunnel:
        return "every other host is tunnelled untouched"
    return f"other hosts are refused, except (tunnel): {', '.join(config.admission.tunnel) or 'none'}"


def _builder(url: str, host: str) -> list[str]:
    if host in ("", "0.0.0.0", "::"):
        url = f"http://{os.uname().nodename}:{url.rpartition(':')[2]}"
    return [
        "On a builder:",
        f"  curl -fsS -o /tmp/mirrortap.crt {url}/ca.crt",
        f"  export HTTPS_PROXY={url}",
        "  export SSL_CERT_FILE=/tmp/mirrortap.crt",
    ]
