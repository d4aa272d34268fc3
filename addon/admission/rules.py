"""Who may use the proxy, and which hosts that are not intercepted they may reach through it. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import addresses
from addon.config import wellknown
from addon.config.model import host_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.config.model import Admission, Config

# Entries of `tunnel` that are about no host in particular.
_MANY = ("all", "registries")


@dataclass(frozen=True)
class Refused:
    """Why somebody may not reach a host, and what the operator does to let them."""

    why: str
    remedy: str


def may_connect(admission: Admission, client: str) -> bool:
    """Whether the proxy may be used from this address."""
    address = addresses.parse(client)
    return any(address in network for network in admission.clients)


def unfit(admission: Admission, mode: str) -> str | None:
    """Why connections cannot be taken in this mode of mitmproxy's, and what to do, None when they can."""
    if mode != "transparent" or not admission.users:
        return None
    return (
        f"mirrortap.proxy-users ({admission.users}): nobody can be asked to log in with --mode transparent, because"
        " redirected clients know of no proxy; take it out and limit allow-clients, or use --mode regular or socks5"
    )


def without_door(config: Config) -> str | None:
    """Where it says that clients are redirected, and what that needs; None where it does not."""
    if not config.redirects:
        return None
    of_rule = next((rule.place.below("redirect") for rule in config.rules.values() if rule.redirect), None)
    where = "mirrortap.redirect" if config.redirect else str(of_rule)
    return (
        f'{where}: "public" sends clients of mirrortap serve on to its mirror door over plain http: start it with'
        " --mirror-listen HOST:PORT, without --mirror-tls and in --mode regular, or take redirect out"
    )


def place(host: str, port: int) -> str:
    """`host:port` in one spelling, printable whatever a client sent."""
    host = _bracketed(_one_spelling(host))
    return f"{host if host.isprintable() else ascii(host)}:{port}"


def named(config: Config, host: str, port: int) -> bool:
    """Whether the operator wrote down this very host: such a one may be anywhere, on this machine too."""
    host = _one_spelling(host)
    entries = [entry for entry in config.admission.tunnel if entry not in _MANY and not entry.startswith("*.")]
    return _tabled(config, host, port) or any(_is(entry, host) and _open(entry, config, port) for entry in entries)


def refused(config: Config, host: str, port: int) -> Refused | None:
    """Why a host that is not intercepted is not to be reached, wherever it is."""
    admission = config.admission
    host = _one_spelling(host)
    if _tabled(config, host, port):
        return None
    entries = [entry for entry in admission.tunnel if _is(entry, host)]
    if not entries:
        return Refused("is not among the hosts of tunnel", _add(config, host, port))
    if not any(_open(entry, config, port) for entry in entries):
        return Refused(
            "is at a port that is not one of tunnel-ports",
            f"{_add(config, host, port)}, or {port} to tunnel-ports",
        )
    return None


def refused_at(config: Config, host: str, port: int, found: Iterable[str]) -> Refused | None:
    """Why a host is not to be reached where its name leads to. One such address is enough: a name that has others too
    is one that somebody plays with."""
    if named(config, host, port):
        return None
    for address in found:
        if why := addresses.forbidden(address):
            at = "" if address == _one_spelling(host) else f"{address}, "
            return Refused(f"is {at}{why}, and not named in tunnel", _add(config, host, port))
    return None


def _add(config: Config, host: str, port: int) -> str:
    entries = ", ".join(f'"{entry}"' for entry in (*config.admission.tunnel, place(host, port)))
    return f"write tunnel = [{entries}] under [mirrortap]"


def _tabled(config: Config, host: str, port: int) -> bool:
    """Whether it has a [registry] table: those of addresses are not intercepted."""
    return place(host, port) in config.tls or (port in (443, 80) and _bracketed(host) in config.tls)


def _is(entry: str, host: str) -> bool:
    """Whether an entry of `tunnel` is about a host."""
    if entry == "all":
        return True
    if entry == "registries":
        return host in wellknown.COMPANIONS
    name = _one_spelling(host_of(entry))
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _open(entry: str, config: Config, port: int) -> bool:
    """Whether an entry of `tunnel` is about a port."""
    own = entry.rpartition("]")[2].partition(":")[2]
    return port == int(own) if own else port in config.admission.ports


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _one_spelling(host: str) -> str:
    """Lower case, without the root's dot, IPv6 as it is usually written."""
    host = host.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        # mitmproxy gives us a host in Unicode.
        return host.encode("idna").decode()
    except UnicodeError:
        return host.encode("ascii", "backslashreplace").decode()
