"""Host names that certificates may be issued for. Pure."""

import re
from collections.abc import Collection

from ca.errors import AuthorityError

# Go programs take handshake messages of 64 KiB, and all names go with each: so many bytes, and those around each name.
_MOST, _AROUND = 48 << 10, 4
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def dns_name(text: str) -> str:
    """`text` in lower case, checked to be a host name (RFC 1123 2.1: letters, digits, hyphens; no final dot).

    Raises AuthorityError for anything else: an IP address, a wildcard, a name that is not ASCII.
    """
    # Checked before lower(), which turns some letters outside ASCII (the Kelvin sign) into ASCII ones.
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AuthorityError(f"{text!r} is not a DNS name; use the plain host name (IDNs in their xn-- form)")
    if labels[-1].isdigit():  # there is no such top-level domain, and resolvers read 127.1 as an address
        raise AuthorityError(f"{text!r} is an IP address or reads like one; use a DNS name")
    return text.lower()


def within(host: str, names: Collection[str]) -> bool:
    """Whether `host` is one of `names` or a subdomain of one, label by label (RFC 5280 4.2.1.10)."""
    labels = host.split(".")
    return any(".".join(labels[i:]) in names for i in range(len(labels)))


def subtrees(names: Collection[str]) -> tuple[str, ...]:
    """The fewest names that cover what `names` cover: lower case, sorted, no subdomain of another one.

    Raises AuthorityError for a name that is no DNS name, for no names at all, and for too many.
    """
    unique = {dns_name(name) for name in names}
    if not unique:  # an empty permitted list would mean "every name", not "none"
        raise AuthorityError("no names given that certificates may be issued for; give at least one host")
    fewest = tuple(sorted(name for name in unique if not within(name.partition(".")[2], unique)))
    if (size := sum(len(name) + _AROUND for name in fewest)) > _MOST:
        raise AuthorityError(
            f"{len(fewest)} host names, of {size} bytes in all, are more than the {_MOST} bytes that one certificate"
            " can carry to every client; give domains that cover several of them instead"
        )
    return fewest
