"""Tickets: URLs by which one client, for a short while, may have one public blob from the mirror door. Pure, but for
the clock.

A ticket shows the digest and its own end. For which repository, and that the proxy has made it, for the client's
address, is in a part that only the proxy can read or make (AES-SIV, RFC 5297).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from addon import addresses
from addon.oci import OciError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from addon.fingerprints import Fingerprints
    from addon.oci import Blob

LIFE = 60
"""Seconds in which a download must begin."""
PATH = "/blob/"
"""What a ticket's path begins with."""
_TICKET = re.compile(rf"{PATH}([a-z0-9:]+)\?until=([0-9]{{1,12}})&for=((?:[0-9a-f]{{2}})+)")
_KEY = 64  # bytes, for AES-256 twice


@dataclass(frozen=True)
class Ticket:
    """What one is for: `target` is the path of a blob at the registry."""

    registry: str
    target: str


class Tickets:
    """Those made with a key of the data folder's. `clock` gives seconds since the epoch."""

    def __init__(self, fingerprints: Fingerprints, clock: Callable[[], float] = time.time) -> None:
        self._cipher = AESSIV(fingerprints.derived("tickets", _KEY))
        self._clock = clock

    def made(self, registry: str, blob: Blob, client: str) -> str:
        """Path and query, for a client at this address."""
        digest, until = str(blob.reference), str(int(self._clock()) + LIFE)
        sealed = self._cipher.encrypt(f"{registry}/{blob.repository}".encode(), _bound(digest, until, client))
        return f"{PATH}{digest}?until={until}&for={sealed.hex()}"

    def read(self, target: str, client: str) -> Ticket:
        """What a client at this address has one for. Raises OciError (403)."""
        match = _TICKET.fullmatch(target)
        if match is None:
            raise _denied("this is no URL that mirrortap has made")
        digest, until, sealed = match.groups()
        try:
            place = self._cipher.decrypt(bytes.fromhex(sealed), _bound(digest, until, client)).decode()
        except (InvalidTag, ValueError):
            raise _denied(
                f"this URL is not signed for {client}; clients must reach the proxy and its mirror door from the same"
                ' address (not by HTTP_PROXY, not through NAT that changes it): where they do not, redirect = "never"'
                " in mirrortap's configuration"
            ) from None
        if self._clock() > int(until):
            raise _denied(f"this URL was good for {LIFE} s; pull again to get a new one")
        registry, _, repository = place.partition("/")
        return Ticket(registry, f"/v2/{repository}/blobs/{digest}")


def _bound(digest: str, until: str, client: str) -> list[bytes]:
    return [digest.encode(), until.encode(), client.encode()]


def _denied(message: str) -> OciError:
    return OciError(403, "DENIED", message)


def door_at(local: str, listening: Iterable[tuple[str, int]]) -> str | None:
    """The URL of what listens at one of these places (IP address and port), for a client that has reached this machine
    at the address `local`; None when it cannot be reached there."""
    here = addresses.parse(local)
    if here.version == 6 and here.is_link_local:
        return None  # the client's name for the link is not ours
    for host, port in listening:
        there = addresses.parse(host)
        if there == here or (there.is_unspecified and there.version == here.version):
            return f"http://{f'[{here}]' if here.version == 6 else here}:{port}"
    return None
