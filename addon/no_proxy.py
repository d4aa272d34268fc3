"""Which hosts are reached past a parent proxy: `NO_PROXY` as Go reads it (golang.org/x/net/http/httpproxy). Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon import addresses

if TYPE_CHECKING:
    from addon.addresses import Address

_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


@dataclass(frozen=True)
class _Network:
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    port: int | None

    def holds(self, host: str, address: Address | None, port: int) -> bool:
        return address is not None and address in self.network and self.port in (None, port)


@dataclass(frozen=True)
class _Domain:
    name: str
    itself: bool  # or its subdomains alone
    port: int | None

    def holds(self, host: str, address: Address | None, port: int) -> bool:
        if ":" in host:
            return False  # whatever its zone is called
        return self.port in (None, port) and (host.endswith(f".{self.name}") or (self.itself and host == self.name))


@dataclass(frozen=True)
class _Everything:
    def holds(self, host: str, address: Address | None, port: int) -> bool:
        return True


_Entry = _Network | _Domain | _Everything


class NoProxy:
    """One value of the variable. `ignored` are the entries that mean nothing to Go programs, and so nothing here."""

    def __init__(self, value: str = "") -> None:
        found = [(text.strip(), _entry(text.strip().lower())) for text in value.split(",") if text.strip()]
        self._entries = [entry for _, entry in found if entry]
        self.ignored = tuple(text for text, entry in found if entry is None)

    def holds(self, host: str, port: int) -> bool:
        """Whether a host is reached directly. This machine, under its usual names, always is."""
        host = in_ascii(host)
        address = _address(host)
        if host == "localhost" or (address and address.is_loopback):
            return True
        return any(entry.holds(host, address, port) for entry in self._entries)


def in_ascii(host: str) -> str:
    """A host in one spelling: lower case, without the root's dot, names in Punycode where they have one."""
    host = host.lower().rstrip(".")
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host


def _entry(text: str) -> _Entry | None:
    if text == "*":
        return _Everything()
    if "/" in text:
        try:
            # A netmask (10.0.0.0/255.0.0.0) is nothing to Go.
            plain = text.rpartition("/")[2].isdecimal()
            return _Network(_counted(ipaddress.ip_network(text, strict=False)), None) if plain else None
        except ValueError:
            return None
    host, port = _split(text)
    if host is None:
        return None
    if address := _address(host):
        return _Network(ipaddress.ip_network(address), port)
    itself = not host.startswith((".", "*."))
    name = in_ascii(host.removeprefix("*.") if host.startswith("*.") else host.removeprefix("."))
    return _Domain(name, itself, port) if _NAME.fullmatch(name) else None


def _split(text: str) -> tuple[str | None, int | None]:
    """Host and port; no host: it is not written as one."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or ":" not in host or (rest and not rest.startswith(":")):
            return None, None
    elif text.count(":") > 1:
        return text, None  # IPv6
    else:
        host, colon, rest = text.partition(":")
        rest = colon + rest
    if not rest:
        return host, None
    return (host, int(rest[1:])) if _PORT.fullmatch(rest[1:]) else (None, None)


def _counted(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """IPv4 that is written as IPv6 (::ffff:10.0.0.0/104) is IPv4, as the addresses are."""
    mapped = isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96
    if mapped and (address := ipaddress.IPv6Address(network.network_address).ipv4_mapped):
        return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network


def _address(host: str) -> Address | None:
    try:
        return addresses.parse(host) if "%" not in host else None
    except ValueError:
        return None
