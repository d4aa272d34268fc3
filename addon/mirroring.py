"""What a request to a mirror of many registries means: which registry, and what of it. Pure.

`?ns=REGISTRY` says which (distribution-spec, "Registry Proxying"), else the first part of the path does
(`/v2/REGISTRY/...`), else it is Docker Hub, for which dockerd says neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from addon import oci
from addon.config import wellknown
from addon.memo import remembered
from addon.oci import OciError

_HUB = "docker.io"
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)
_HTTPS = 443
# A link to the next page of a list (distribution-spec, "Listing Tags").
_LINK = re.compile(r"<(?:https?://[^/<>]*)?/v2(?P<path>/[^<>?]*)(?:\?(?P<query>[^<>]*))?>")


@dataclass(frozen=True)
class Meant:
    """`target` is what the registry would have been asked; `prefix` and `ns` are how the client named the registry."""

    host: str
    port: int
    target: str
    prefix: str = ""  # of the path, with its slash
    ns: str | None = None  # as it stood in the query

    @property
    def registry(self) -> str:
        """As in image names."""
        return self.host if self.port == _HTTPS else f"{self.host}:{self.port}"

    def leading_back(self, link: str) -> str:
        """The value of a Link header of the registry's, as the client has to ask for it here."""

        def back(match: re.Match[str]) -> str:
            query = "&".join(filter(None, (match["query"], self.ns and f"ns={self.ns}")))
            return f"</v2{self.prefix}{match['path']}{'?' if query else ''}{query}>"

        return _LINK.sub(back, link)


def at(registry: str, target: str) -> Meant:
    """What is asked for by `target` of a registry that was named by itself. Raises OciError (400)."""
    return Meant(*_said(registry), target)


@remembered
def meant(target: str) -> Meant:
    """What is asked for by `target`, a path below /v2/ with its query. Raises OciError (400) for an ns that is none."""
    path, _, query = target.partition("?")
    ns, query = _without_ns(query)
    first, _, rest = path.removeprefix("/v2/").partition("/")
    # A repository whose name has but one part may have a dot in it as well.
    named = None if oci.repository(path) == unquote(first) else _in_path(unquote(first))
    if ns is not None:
        host, port = _said(unquote(ns))
    else:
        host, port = named or (_HUB, _HTTPS)
    prefix = ""
    if named == (host, port):
        # BuildKit says both to a mirror with a path.
        path, prefix = f"/v2/{rest}", f"/{first}"
    if (host, port) == (_HUB, _HTTPS) and (repository := oci.repository(path)) and "/" not in repository:
        path = path.replace("/v2/", "/v2/library/", 1)
    return Meant(host, port, f"{path}?{query}" if query else path, prefix, ns)


def _without_ns(query: str) -> tuple[str | None, str]:
    """The value of ns as it is written, and the query without it."""
    ns, kept = None, []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote(name) != "ns":
            kept.append(part)
        elif ns is not None and unquote(value) != unquote(ns):
            raise OciError(400, "NAME_INVALID", "ns names two registries")
        else:
            ns = value
    return ns, "&".join(kept)


def _said(ns: str) -> tuple[str, int]:
    found = _authority(ns)
    if found is None:
        raise OciError(400, "NAME_INVALID", f"ns={ns[:100]!a} is not a registry: host or host:port is")
    return found


def _in_path(first: str) -> tuple[str, int] | None:
    """The registry that the first part of a path is, by what tells one from a repository in image names."""
    return _authority(first) if "." in first or ":" in first or first == "localhost" else None


def _authority(text: str) -> tuple[str, int] | None:
    """Host and port, where Docker Hub's names are one."""
    match = _AUTHORITY.fullmatch(text)
    if not match or int(match["port"] or 0) > 65535:
        return None
    host, port = match["host"].lower(), int(match["port"] or _HTTPS)
    return (wellknown.canonical(host) if port == _HTTPS else host), port
