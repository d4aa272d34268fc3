"""TLS towards clients: one context per host, made once, with a leaf of our own CA."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from OpenSSL import SSL

if TYPE_CHECKING:
    from ca.authority import Authority, Leaf

# HTTP/2 inside mitmproxy costs three times the CPU for a blob.
_ALPN = b"http/1.1"
# Clients name hosts as they like (*.azurecr.io): the oldest context makes room.
_MOST = 1000


class Leaves:
    """Connections in the accepting state, for the hosts that the authority may issue leaves for."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._contexts: dict[str, tuple[SSL.Context, datetime]] = {}

    def connection(self, host: str) -> SSL.Connection:
        """For a handshake with a client that asked for `host`. Raises ca.authority.AuthorityError."""
        connection = SSL.Connection(self._context(host.lower().rstrip(".")))
        connection.set_accept_state()
        return connection

    def _context(self, host: str) -> SSL.Context:
        context, renewal = self._contexts.get(host, (None, None))
        now = datetime.now(UTC)
        if context is None or renewal is None or now >= renewal:
            leaf = self._authority.leaf(host)
            context = _serving(leaf)
            if len(self._contexts) >= _MOST:
                self._contexts.pop(next(iter(self._contexts)))
            # Renewed at two thirds of its life: long before a client could see it end.
            self._contexts[host] = (context, now + (leaf.not_after - now) * 2 / 3)
        return context


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
