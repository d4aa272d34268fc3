"""The proxy behind which this one stands, as its own environment says: HTTPS_PROXY and the like. Pure."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote_to_bytes

from addon.no_proxy import NoProxy, in_ascii

if TYPE_CHECKING:
    from collections.abc import Mapping

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<login>[^@/?#\s]*)@)?"
    rf"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>{_LABEL}(?:\.{_LABEL})*\.?))(?::(?P<port>[0-9]{{1,5}}))?/?"
)
_SOCKS = ("socks", "socks4", "socks4a", "socks5", "socks5h")


class ParentError(Exception):
    """A variable's value is of no use; the message names the variable, and shows nothing of the value."""


@dataclass(frozen=True)
class Parent:
    """A proxy, the variable that names it, and what it is shown in Proxy-Authorization (RFC 9110, 11.7.2)."""

    variable: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Those that are for it alone."""
        return (("Proxy-Authorization", self.authorization),) if self.authorization else ()

    def refusal(self, status: int, reason: str) -> str:
        """Why there is no way through it, when this is its answer to a CONNECT or its own to a request."""
        reason = "".join(c for c in reason if c.isprintable())[:80]
        answer = f"{self} answered {status} {reason}".rstrip()
        if status == 407:
            mends = "does not take this user and password" if self.authorization else "wants USER:PASSWORD@ before HOST"
            return f"{answer}: it {mends}"
        return answer

    def __str__(self) -> str:
        return f"the parent proxy {self.authority} (${self.variable})"


class Parents:
    """Through which proxy what is reached."""

    def __init__(self, by_scheme: Mapping[str, Parent] | None = None, past: NoProxy | None = None) -> None:
        """`by_scheme`: for "http" and "https" URLs; without, everything is reached directly."""
        self._by_scheme = dict(by_scheme or {})
        self._past = past or NoProxy()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Parents:
        """HTTPS_PROXY for https URLs and tunnels, HTTP_PROXY for http URLs, ALL_PROXY for what has none of its own
        (curl(1)), NO_PROXY; upper case before lower (Go). Raises ParentError."""
        by_scheme = {}
        for scheme in "https", "http":
            for variable in _spellings(f"{scheme}_proxy"), _spellings("all_proxy"):
                if name := next((name for name in variable if environment.get(name)), None):
                    by_scheme[scheme] = _parse(name, environment[name])
                    break
        past = next((environment[name] for name in _spellings("no_proxy") if environment.get(name)), "")
        return cls(by_scheme, NoProxy(past))

    def way(self, scheme: str, host: str, port: int) -> Parent | None:
        """The proxy for this; None: it is reached directly."""
        parent = self._by_scheme.get(scheme)
        return None if parent is None or self._past.holds(host, port) else parent

    @property
    def all(self) -> tuple[Parent, ...]:
        return tuple(self._by_scheme.values())

    @property
    def told(self) -> list[str]:
        """What people are told of it, in lines: no credential is in them."""
        if not self._by_scheme:
            return []
        places = {scheme: f"{parent.authority} (${parent.variable})" for scheme, parent in self._by_scheme.items()}
        if len({parent.authority for parent in self._by_scheme.values()}) == 1 and len(places) == 2:
            lines = [f"everything upstream goes through {places['https']}, except what NO_PROXY names"]
        else:
            lines = [
                f"{scheme} upstream goes {f'through {places[scheme]}' if scheme in places else 'directly'}"
                for scheme in ("https", "http")
            ]
        return [*lines, *(f"WARNING NO_PROXY: {entry!r} names no host and is ignored" for entry in self._past.ignored)]


def authority(host: str, port: int) -> str:
    """What a CONNECT asks for (RFC 9112, 3.2.3)."""
    host = in_ascii(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _spellings(name: str) -> tuple[str, str]:
    return name.upper(), name


def _parse(variable: str, value: str) -> Parent:
    match = _URL.fullmatch(value.strip())
    scheme = match["scheme"].lower() if match and match["scheme"] else "http"
    if scheme in _SOCKS:
        _fail(variable, "names a SOCKS proxy, and mirrortap speaks http to a parent proxy: name its http:// port")
    if scheme == "https":
        _fail(variable, "names a proxy that is spoken to over TLS, which mirrortap cannot: name its http:// port")
    if not match or scheme != "http" or not _usable(match):
        _fail(variable, "is not http://[USER:PASSWORD@]HOST[:PORT], with special characters of the password as %XX")
    return Parent(variable, in_ascii(match["v6"] or match["host"]), int(match["port"] or 80), _basic(match["login"]))


def _usable(match: re.Match[str]) -> bool:
    if match["v6"]:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            return False
    user, _, password = map(unquote_to_bytes, (match["login"] or "").partition(":"))
    sendable = b":" not in user and not re.search(rb"[\x00-\x1f\x7f]", user + password)
    return sendable and 0 < int(match["port"] or 80) < 65536


def _basic(login: str | None) -> str | None:
    """RFC 7617."""
    if not login:
        return None
    user, _, password = login.partition(":")
    return "Basic " + base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()


def _fail(variable: str, problem: str) -> NoReturn:
    raise ParentError(f"{variable}: {problem}")
