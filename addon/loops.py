"""Who has passed a request on before it came here, and whether the proxy itself has. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from addon.oci import OciError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from addon.fingerprints import Fingerprints
    from addon.reply import Request

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# RFC 9110, 7.6.3: received-protocol, RWS, received-by; the comment is taken out before.
_HOP = re.compile(rf"[ \t]*((?:{_TOKEN}/)?{_TOKEN})[ \t]+((?:\[[0-9A-Za-z:.]+\]|{_TOKEN})(?::[0-9]*)?)[ \t]*")
# Comments may hold commas, comments, and what a backslash is before (5.6.5); one that does not end takes all the rest.
_COMMENT_PART = re.compile(r"\\.?|[()]|[^\\()]+", re.DOTALL)


class Via:
    """This proxy's own mark on what it sends (RFC 9110, 7.6.3); the same for all that share its data folder."""

    def __init__(self, fingerprints: Fingerprints) -> None:
        self._name = f"mirrortap-{fingerprints.of('via')[:16]}"

    @property
    def header(self) -> tuple[str, str]:
        return "Via", f"1.1 {self._name}"

    def is_on(self, values: Iterable[str]) -> bool:
        """Whether these values of Via headers have it."""
        return any(by.lower() == self._name for value in values for _, by in hops(value))

    def refuse_own(self, request: Request) -> None:
        """Raises OciError for a request that this proxy itself has sent (RFC 5842, 7.2)."""
        if self.is_on(request.header_values("via")):
            raise OciError(
                508,
                "UNSUPPORTED",
                f"this request for {request.rule.registry} has come back to the proxy that sent it: one of its mirrors,"
                " its origin's address or its own HTTPS_PROXY leads to mirrortap itself; look for that in"
                " mirrortap config show",
            )


def passed_on(request: Request) -> list[tuple[str, str]]:
    """The header that tells an endpoint who passed the request on before us, if somebody did."""
    hops = [f"{protocol} {by}" for protocol, by in _hops(request)]
    return [("Via", ", ".join(hops))] if hops else []


def _hops(request: Request) -> list[tuple[str, str]]:
    return [hop for value in request.header_values("via") for hop in hops(value)]


def hops(value: str) -> list[tuple[str, str]]:
    """The received-protocol and received-by of each member of a Via, without what makes no sense."""
    matches = map(_HOP.fullmatch, _without_comments(value).split(","))
    return [(match[1], match[2]) for match in matches if match]


def _without_comments(value: str) -> str:
    kept, depth = [], 0
    for part in _COMMENT_PART.findall(value):
        if part == "(":
            depth += 1
        elif part == ")" and depth:
            depth -= 1
        elif not depth:
            kept.append(part)
    return "".join(kept)
