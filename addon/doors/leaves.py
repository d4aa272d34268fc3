"""TLS towards clients: one context per host, with a leaf of our own CA, as long as both last."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from OpenSSL import SSL

if TYPE_CHECKING:
    from collections.abc import Callable

    from ca.authority import Authority, Leaf

# HTTP/2 inside mitmproxy costs three times the CPU for a blob.
_ALPN = b"http/1.1"
# Clients name hosts as they like (*.azurecr.io): the oldest context makes room.
_MOST = 1000


class _Shown[C](NamedTuple):
    context: C
    leaf: Leaf
    renewal: datetime

    def good(self, authority: Authority, now: datetime) -> bool:
        # A clock that was ahead may have been put right: others would not take such a leaf yet.
        in_time = self.leaf.certificate.not_valid_before_utc <= now < self.renewal
        return in_time and self.leaf.chain == authority.chain


class Contexts[C]:
    """Contexts for the hosts that the authority may issue leaves for, made by `serving`."""

    def __init__(self, serving: Callable[[Leaf], C]) -> None:
        self._serving = serving
        self._shown: dict[str, _Shown[C]] = {}

    def of(self, authority: Authority, host: str) -> C:
        """Raises ca.authority.AuthorityError."""
        host = host.lower().rstrip(".")
        shown = self._shown.get(host)
        now = datetime.now(UTC)
        if shown is None or not shown.good(authority, now):
            leaf = authority.leaf(host)
            self._shown.pop(host, None)
            if len(self._shown) >= _MOST:
                self._shown.pop(next(iter(self._shown)))
            # Renewed at two thirds of its life: long before a client could see it end.
            shown = self._shown[host] = _Shown(self._serving(leaf), leaf, now + (leaf.not_after - now) * 2 / 3)
        return shown.context


class Leaves:
    """Connections in the accepting state, as mitmproxy takes them."""

    def __init__(self) -> None:
        self._contexts = Contexts(_serving)

    def connection(self, authority: Authority, host: str) -> SSL.Connection:
        """For a handshake with a client that asked for `host`. Raises ca.authority.AuthorityError."""
        connection = SSL.Connection(self._contexts.of(authority, host))
        connection.set_accept_state()
        return connection


def _serving(leaf: Leaf) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate(leaf.certificate)
    context.use_privatekey(leaf.key)
    for certificate in leaf.chain:
        context.add_extra_chain_cert(certificate)
    context.set_alpn_select_callback(_choose_protocol)
    return context


def _choose_protocol(_: SSL.Connection, offered: list[bytes]) -> bytes:
    return _ALPN if _ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS  # type: ignore[return-value]


def new_context(leaf: Leaf) -> ssl.SSLContext:
    """For connections that are not mitmproxy's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Theirs: they know which one their machine is quick at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    # Python's ssl takes files alone: one in memory, so that the key is never on a disk.
    with open(os.memfd_create("leaf"), "wb") as file:
        file.write(leaf.key_pem() + leaf.chain_pem())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
