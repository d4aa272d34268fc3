"""Which addresses a client's word, or an endpoint's, must not lead us to. Pure."""

from __future__ import annotations

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds tell machines their secrets, as far as it is not link-local: Alibaba, Azure, Oracle; AWS, Google, Linode,
# Oracle and Scaleway over IPv6.
_METADATA = tuple(
    map(
        ipaddress.ip_network,
        (
            *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
            *("fd00:ec2::/32", "fd20:ce::254", "fd00:a9fe:a9fe::1", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
        ),
    )
)
_THIS_HOST = ipaddress.ip_network("0.0.0.0/8")  # RFC 1122, 3.2.1.3
_BROADCAST = ipaddress.ip_address("255.255.255.255")
# IPv6 that carries an IPv4 address in its last 32 bits: compatible (RFC 4291, 2.5.5.1), translated (RFC 2765, 2.1),
# NAT64's well-known prefix (RFC 6052, 2.1) and its local ones (RFC 8215).
_CARRIERS = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))
# An ISATAP interface identifier (RFC 5214, 6.1) but for the bit that says whether the IPv4 address is a global one.
_ISATAP, _ISATAP_MASK = 0x00005EFE, 0xFDFFFFFF


def parse(text: str) -> Address:
    """An address as people count it: an IPv4 one that came as IPv6 (::ffff:10.0.0.1) is IPv4, zones do not matter.

    Raises ValueError for what is no IP address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def written(host: str) -> str | None:
    """The IP address that a host is, in whichever way resolvers take (127.1, 0x7f.1: inet_aton(3)); None for a name."""
    try:
        host = host.rstrip(".").encode("idna").decode()
    except UnicodeError:
        host = host.rstrip(".")
    try:
        return str(parse(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def forbidden(text: str) -> str | None:
    """Why an IP address must not be connected to unless it is configured, None when it may.

    Raises ValueError for what is no IP address.
    """
    address = parse(text)
    return _why(address) or _why(_carried(address))


def _why(address: Address) -> str | None:
    if any(address in network for network in _METADATA):
        return "a cloud's metadata service"
    if address.is_loopback or address.is_unspecified or address in _THIS_HOST:
        return "this machine itself"
    if address.is_link_local:
        return "a link-local address, where clouds have their metadata services"
    if address.is_multicast or address == _BROADCAST:
        return "not one machine's address"
    return None


def _carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    isatap = int(address) >> 32 & _ISATAP_MASK == _ISATAP
    if isatap or any(address in carrier for carrier in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo and address.teredo[1]) or address
