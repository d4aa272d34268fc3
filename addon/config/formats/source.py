"""A configuration file: what its values refer to (files beside it, hosts), and errors that name the key."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import NoReturn

from addon.config import wellknown
from addon.config.model import ConfigError, Place, host_of, is_address

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_AUTHORITY = re.compile(rf"(?:\[([0-9a-f:.]+)\]|{_LABEL}(?:\.{_LABEL})*)(?::([1-9][0-9]{{0,4}}))?")
# The distribution-spec's grammar of names.
_WITHIN = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept", "accept-encoding", "range"})


class Source:
    """`path` is None for what is built in."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.files: set[Path] = {path} if path else set()  # and folders that were looked at

    def place(self, *keys: str | int) -> Place:
        return Place(self.path, keys) if self.path else Place()

    def resolve(self, name: str, where: str) -> Path:
        """A file that is named relative to this one, from now on one of its `files`."""
        try:
            path = Path(name).expanduser()
        except RuntimeError:
            user = name.partition("/")[0].removeprefix("~")
            why = f"there is no user {user!r}" if user else "no home folder is known; write the path out"
            self.fail(where, f"{name!r}: {why}")
        found = path if self.path is None else self.path.parent / path
        self.files.add(found)
        return found

    def authority(self, text: str, where: str) -> str:
        authority = text.lower()
        match = _AUTHORITY.fullmatch(authority)
        if not match or int(match[2] or 443) > 65535 or (match[1] and not _is_ipv6(match[1])):
            self.fail(where, f"{text!r} is not host[:port]")
        return authority

    def pattern(self, text: str, where: str) -> tuple[str, str]:
        """`[*.]host[:port][/path]` as a registry and what it is within. Raises ConfigError."""
        host, _, within = text.partition("/")
        hosts = self.hosts(host, where)
        if within and not _WITHIN.fullmatch(within):
            self.fail(where, f"{within!r} is no part of a repository's name; write host/name/name")
        return registry_of(hosts), within

    def hosts(self, text: str, where: str) -> str:
        """`host[:port]` or `*.host[:port]`. Raises ConfigError."""
        wildcard = "*." if text.startswith("*.") else ""
        authority = self.authority(text.removeprefix(wildcard), where)
        if wildcard and is_address(host_of(authority)):
            self.fail(where, f"{text!r} is not a name and its subdomains; addresses are named one by one")
        return wildcard + authority

    def header(self, name: str, value: str, where: str) -> None:
        """Raises ConfigError unless both can stand in a request (RFC 9110, 5.1 and 5.5)."""
        if not _HEADER.fullmatch(name):
            self.fail(where, f"{name!r} is no name of a header")
        if name.lower() in _OURS:
            self.fail(where, f"{name} is set for each request; take it out")
        if value != value.strip() or not value.isprintable() or not value.isascii():
            # Not shown: it may be a secret.
            self.fail(where, f"the value of {name} cannot be sent: printable ASCII can")

    def fail(self, key: str, message: str) -> NoReturn:
        raise ConfigError(f"{self.path}: {key}: {message}")


def registry_of(authority: str) -> str:
    """The name that a registry goes by: 443 is where it is anyway."""
    return wellknown.canonical(authority.removesuffix(":443"))


def url_of(scheme: str, authority: str) -> str:
    """The same for a URL, in which 443 is https' own port."""
    return f"{scheme}://{authority.removesuffix(':443') if scheme == 'https' else authority}"


def shown(path: Path) -> str:
    return str(path) if str(path).isprintable() else repr(str(path))


def why(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
