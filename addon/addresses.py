"""Which addresses a client's word, or an endpoint's, must not lead us to. Pure."""

from __future__ import annotations

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds tell machines their secrets; all others of them are link-local.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")))
# IPv6 that carries an IPv4 address in its last 32 bits (RFC 6052, 2.1; RFC 4291, 2.5.5.1).
_CARRIERS = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96")))


def forbidden(text: str) -> str | None:
    """Why an IP address must not be connected to unless it is configured, None when it may.

    Raises ValueError for what is no IP address.
    """
    address = _meant(ipaddress.ip_address(text.partition("%")[0]))
    if address in _METADATA:
        return "a cloud's metadata service"
    if address.is_loopback or address.is_unspecified or address in ipaddress.ip_network("0.0.0.0/8"):
        return "this machine itself"
    if address.is_link_local:
        return "a link-local address, where clouds have their metadata services"
    if address.is_multicast or address == ipaddress.ip_address("255.255.255.255"):
        return "not one machine's address"
    return None


def _meant(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.is_loopback or address.is_unspecified:
        return address
    if any(address in carrier for carrier in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1]) or address
