"""What a request that mitmproxy has parsed is about, if it is about a registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import mirroring, oci, tickets
from addon.admission.gate import is_own
from addon.config.model import is_address
from addon.oci import OciError

if TYPE_CHECKING:
    from mitmproxy import http

    from addon.config.model import Config, Rule
    from addon.doors.guests import Guest
    from addon.service import Service

SECRET_HEADERS = ("Authorization", "Proxy-Authorization", "Cookie")
FOR_US = frozenset(name.lower() for name in SECRET_HEADERS)
"""A client's login here, and what could stand for one: nothing for a registry that did not ask for it."""


@dataclass(frozen=True)
class Asked:
    """`rule`: the one that held when it was asked; it stays its rule to the end."""

    rule: Rule
    headers: tuple[tuple[str, str], ...]
    target: str
    anonymous: bool = False


def rule(now: Config, then: Config | None, host: str, port: int, path: str) -> Rule | None:
    """By the configuration now, or, for who is in a tunnel to what was a registry `then` and is none now, as it was."""
    place = host, port, oci.repository(path)
    found = now.rule(*place)
    if found is None and then and not now.offline:
        found = then.rule(*place)
    return found


def by_host(config: Config, guest: Guest, request: http.Request) -> Asked | None:
    """For a registry that is named as one."""
    then = guest.config if guest.inside else None
    found = rule(config, then, request.host, request.port, request.path)
    return Asked(found, tuple(request.headers.items(multi=True)), request.path) if found else None


def by_ticket(service: Service, guest: Guest, request: http.Request) -> Asked | None:
    """For a client that was sent to the mirror door, and whose HTTP_PROXY has led it here. Raises OciError."""
    doors = service.plain_doors
    if not doors or not request.path.startswith(tickets.PATH) or request.method not in ("GET", "HEAD"):
        return None
    if request.scheme != "http" or not is_address(request.host) or not is_own(request.host, request.port, doors):
        return None
    ticket = service.tickets.read(request.path, guest.address)
    meant = mirroring.at(ticket.registry, ticket.target)
    found = service.config.rule(meant.host, meant.port, oci.repository(meant.target))
    if found is None:
        raise OciError(404, "NAME_UNKNOWN", f"{meant.registry} is not one of the registries here any more")
    headers = tuple((n, v) for n, v in request.headers.items(multi=True) if n.lower() not in FOR_US)
    return Asked(found, headers, meant.target, anonymous=True)
