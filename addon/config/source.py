"""A configuration file: what its values refer to (files beside it, hosts), and errors that name the key."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import NoReturn

from addon.config.model import ConfigError

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_AUTHORITY = re.compile(rf"(?:\[([0-9a-f:.]+)\]|{_LABEL}(?:\.{_LABEL})*)(?::([1-9][0-9]{{0,4}}))?")


class Source:
    """`path` is None for what is built in."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def resolve(self, name: str, where: str) -> Path:
        try:
            path = Path(name).expanduser()
        except RuntimeError:
            self.fail(where, f"{name!r}: there is no such user")
        return path if self.path is None else self.path.parent / path

    def authority(self, text: str, where: str) -> str:
        authority = text.lower()
        match = _AUTHORITY.fullmatch(authority)
        if not match or int(match[2] or 443) > 65535 or (match[1] and not _is_ipv6(match[1])):
            self.fail(where, f"{text!r} is not host[:port]")
        return authority

    def fail(self, key: str, message: str) -> NoReturn:
        raise ConfigError(f"{self.path}: {key}: {message}")


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
