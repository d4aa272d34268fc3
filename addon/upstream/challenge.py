"""`WWW-Authenticate` challenges of registries (RFC 9110, section 11.6.1; the distribution token spec). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# One of: a parameter, or a scheme with the token68 that some have instead of parameters. What is taken is never given
# back (the possessive quantifiers), so that a hostile header takes no time.
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^ \t,"]++))', re.DOTALL)
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]++[A-Za-z0-9._~+/-]++=*+(?=[ \t]*+(?:,|$)))?+")
_BETWEEN = re.compile(r"[ \t,]*+")


@dataclass(frozen=True)
class Bearer:
    """Where a token is to be had, and what for."""

    realm: str
    service: str | None
    scope: str | None


def bearer(challenges: Iterable[str]) -> Bearer | None:
    """The first Bearer challenge with a realm among these header values, None when there is none."""
    for value in challenges:
        for scheme, parameters in _parse(value):
            if scheme == "bearer" and parameters.get("realm"):
                return Bearer(parameters["realm"], parameters.get("service"), parameters.get("scope"))
    return None


def basic(challenges: Iterable[str]) -> bool:
    """Whether one of these header values asks for a name and a password (RFC 7617)."""
    return any(scheme == "basic" for value in challenges for scheme, _ in _parse(value))


def _parse(value: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while match := _BETWEEN.match(value, position):
        position = match.end()
        if parameter := _PARAMETER.match(value, position):
            name, quoted, plain = parameter.groups()
            if found:
                found[-1][1][name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            position = parameter.end()
        elif scheme := _SCHEME.match(value, position):
            found.append((scheme[1].lower(), {}))
            position = scheme.end()
        else:
            break
    return found
