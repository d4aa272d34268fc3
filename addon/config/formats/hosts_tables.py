"""The tables of containerd's `hosts.toml`, as they are written (containerd, docs/hosts.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from addon.config.formats import documents
from addon.config.model import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# Go's time.ParseDuration.
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{0,9}})?|\.[0-9]{{1,9}})({'|'.join(_UNITS)})", re.ASCII)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _texts(value: object) -> object:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    if not isinstance(value, str):
        raise ValueError("write a text, or a list of texts")
    return [value]


def _pairs(value: object) -> object:
    """Of files with a certificate and with its key, which may be one."""
    pairs = []
    for each in value if isinstance(value, list) else [value]:
        match each:
            case str():
                pairs.append((each, each))
            case [str() as certificate, str() as key]:
                pairs.append((certificate, key or certificate))
            case _:
                raise ValueError('write "both.pem", ["both.pem", "another.pem"] or [["a.cert", "a.key"]]')
    return pairs


def _seconds(value: object) -> float | None:
    if value == "":
        return None
    parts = list(_PART.finditer(value)) if isinstance(value, str) else []
    if not parts or "".join(part[0] for part in parts) != value:
        raise ValueError('write a duration as a string, like "500ms", "10s" or "1m30s"')
    seconds = sum(float(part[1]) * _UNITS[part[2]] for part in parts)
    if seconds == 0:
        raise ValueError("no connection is made in no time")
    return seconds


Texts = Annotated[list[str], BeforeValidator(_texts)]


class HostTable(BaseModel):
    """How a host is reached, and what for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    capabilities: list[
        Annotated[Literal["pull", "resolve", "push", "referrers"], BeforeValidator(_lower)]
    ] = []  # all, when empty
    ca: Texts = []
    client: Annotated[list[tuple[str, str]], BeforeValidator(_pairs)] = []
    skip_verify: bool | None = None
    header: Annotated[dict[str, Texts], Field(repr=False)] = {}
    override_path: bool = False
    dial_timeout: Annotated[float | None, BeforeValidator(_seconds)] = None
    proxy: Annotated[str, Field(repr=False)] = ""

    @property
    def explicit(self) -> bool:
        """Whether anything is said of TLS."""
        return bool(self.ca or self.client or self.skip_verify is not None)


class HostsFile(HostTable):
    """Its own keys are for `server`."""

    server: str = ""
    host: dict[str, HostTable] = {}


def read(path: Path) -> HostsFile:
    """The tables of a file. Raises ConfigError."""
    document = documents.parse_toml(path)
    _no_login(path, document)
    return documents.validate(HostsFile, document, path)


def _no_login(path: Path, document: dict[str, Any]) -> None:
    """Looked for first, for other errors show keys and values."""
    hosts = document.get("host")
    urls = [("server", document.get("server")), *(("host", key) for key in (hosts if isinstance(hosts, dict) else ()))]
    for key, url in urls:
        if isinstance(url, str) and "@" in (url.partition("://")[2] or url).partition("/")[0]:
            raise ConfigError(
                f"{path}: {key}: a URL has a user name in it, which containerd does not send; take it out, and name"
                ' the credential in [registry."HOST".auth] of a file of mirrortap\'s own'
            )
