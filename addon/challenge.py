"""`WWW-Authenticate` challenges of registries (RFC 9110, section 11.6.1; the distribution token spec). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BEARER = re.compile(r"(?:^|,)\s*bearer\s+(.+)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'\s*,?\s*([a-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.IGNORECASE)


@dataclass(frozen=True)
class Bearer:
    """Where a token is to be had, and what for."""

    realm: str
    service: str | None
    scope: str | None


def bearer(challenges: Iterable[str]) -> Bearer | None:
    """The Bearer challenge among these header values, or None when there is no usable one."""
    for value in challenges:
        found = _BEARER.search(value)
        if not found:
            continue
        parameters = {}
        position = 0
        while match := _PARAMETER.match(found[1], position):
            quoted, plain = match[2], match[3]
            parameters[match[1].lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            position = match.end()
        if parameters.get("realm"):
            return Bearer(parameters["realm"], parameters.get("service"), parameters.get("scope"))
    return None
