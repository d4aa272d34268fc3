"""Requests that have come back to the proxy that sent them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.oci import OciError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.fingerprints import Fingerprints
    from addon.reply import Request


class Via:
    """This proxy's own mark on what it sends (RFC 9110, 7.6.3); the same for all that share its data folder."""

    def __init__(self, fingerprints: Fingerprints) -> None:
        self._name = f"mirrortap-{fingerprints.of('via')[:16]}"

    @property
    def header(self) -> tuple[str, str]:
        return "Via", f"1.1 {self._name}"

    def is_on(self, values: Iterable[str]) -> bool:
        """Whether these values of Via headers have it."""
        passed = [part.split() for value in values for part in value.split(",")]
        return any(self._name in words[1:2] for words in passed)

    def refuse_own(self, request: Request) -> None:
        """Raises OciError for a request that this proxy itself has sent."""
        if self.is_on(request.header_values("via")):
            raise OciError(
                508,  # RFC 5842, 7.2
                "UNSUPPORTED",
                f"this request for {request.rule.registry} has come back to the proxy that sent it: one of its mirrors,"
                " its origin's address or its own HTTPS_PROXY leads to mirrortap itself; look for that in"
                " mirrortap config show",
            )
