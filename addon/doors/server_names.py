"""TLS towards clients of the mirror door: a leaf of our own CA for the name that the client says."""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING

from addon.doors.leaves import Contexts
from addon.journal import Seldom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ca.authority import Authority, Leaf


_strange = Seldom(logging.getLogger("mirrortap"))


class ServerNames:
    """For DNS names that the authority may issue leaves for."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._contexts = Contexts(_serving)

    def context(self, authority: Authority) -> ssl.SSLContext:
        """For a handshake; who says no name is shown the first. Raises ca.authority.AuthorityError."""

        def choose(handshake: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
            if name is None:
                return None
            if name.lower() not in self._names:
                _strange.warning("a client asked the mirror door for %a, which is not one of --mirror-tls", name)
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            handshake.context = contexts[name.lower()]
            return None

        # All of them now: an error would have nowhere to go in the middle of a handshake.
        contexts = {name: self._contexts.of(authority, name) for name in self._names}
        context = contexts[self._names[0]]
        context.sni_callback = choose
        return context


def _serving(leaf: Leaf) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Python's ssl takes files alone: one in memory, so that the key is never on a disk.
    with open(os.memfd_create("leaf"), "wb") as file:
        file.write(leaf.key_pem() + leaf.chain_pem())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
