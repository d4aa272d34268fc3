"""TLS towards clients of the mirror door: a leaf of our own CA for the name that the client says."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

from addon.doors.leaves import Contexts, new_context
from addon.journal import Seldom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ca.authority import Authority


_strange = Seldom(logging.getLogger("mirrortap"))


class ServerNames:
    """For DNS names that the authority may issue leaves for."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._contexts = Contexts(new_context)

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
