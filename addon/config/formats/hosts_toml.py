"""Reads containerd's `hosts.toml`: through which hosts one registry is pulled.

It means what it means to containerd (https://github.com/containerd/containerd/blob/main/docs/hosts.md): its hosts in
order, then `server`, or the registry itself when there is none.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from addon.config import wellknown
from addon.config.formats import hosts_tables, tls
from addon.config.formats.source import url_of
from addon.config.model import Capability, Endpoint, Tls, host_of, is_loopback, origin_of
from addon.config.reading import Draft

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.formats.hosts_tables import HostsFile, HostTable
    from addon.config.formats.source import Source
    from addon.config.model import Place

    _Host = tuple[Endpoint, ...]  # two where TLS is tried before http

_PATH = re.compile(r"[A-Za-z0-9._~:+@=/-]*")
_ALL: frozenset[Capability] = frozenset({"pull", "resolve", "referrers"})
_PULL: frozenset[Capability] = frozenset({"pull", "resolve"})
_HUB = ("docker.io", "index.docker.io")
_PORTS = {"https": ":443", "http": ":80"}


def read(source: Source, path: Path, registry: str, warnings: list[str]) -> Draft:
    """What the file says of a registry ("*": whatever has no file). Raises ConfigError; adds to `warnings`."""
    return _Reader(source, registry, hosts_tables.read(path), warnings).draft()


def itself(registry: str, place: Place, table: HostTable, verified: Tls) -> _Host:
    """The registry as containerd reaches it when it is told no address."""
    endpoint = replace(origin_of(registry), tls=verified, place=place)
    host = host_of(registry)
    if is_loopback(host):
        port = registry.removeprefix(f"[{host}]" if ":" in host else host)
        if port != ":80":
            endpoint = replace(endpoint, tls=replace(verified, verify=False))
            table = table.model_copy(update={"skip_verify": True})
        if port:
            endpoint = replace(endpoint, url=f"http://{endpoint.authority}")
    return _fallback(endpoint, table)


class _Reader:
    def __init__(self, source: Source, registry: str, file: HostsFile, warnings: list[str]) -> None:
        self._source = source
        self._registry = registry
        self._file = file
        self._warnings = warnings

    def draft(self) -> Draft:
        hosts = [self._host(url, table) for url, table in self._file.host.items()]
        last = self._server() if self._file.server else self._itself()
        if not self._own(last):
            return self._elsewhere(hosts, last)
        # Those that come last are the registry itself, asked as the client. One that comes before others is asked in
        # its turn, as anybody.
        origins = self._as_origin(last)
        while hosts and self._own(hosts[-1]):
            origins = _joined(self._as_origin(hosts.pop()), origins)
        self._warn_unasked(origins[0])
        return Draft(
            self._registry,
            mirrors=self._mirrors(hosts),
            origins=origins if origins != (origin_of(self._registry),) else None,
            moved=origins[0].base != "/v2",
            place=self._source.place(),
        )

    def _elsewhere(self, hosts: list[_Host], server: _Host) -> Draft:
        """The registry itself is never asked: its place is taken by `server`, unless that is one of the mirrors."""
        place, named = self._source.place(), [each for host in hosts for each in host]
        if server[0].authority not in {each.authority for each in named}:
            self._warn_unasked(server[0])
            origins = tuple(replace(each, is_origin=True, can=each.can & _PULL, ns=True) for each in server)
            return Draft(self._registry, mirrors=self._mirrors(hosts), origins=origins, moved=True, place=place)
        new = tuple(
            each
            for each in server
            if not any((each.url, each.base) == (host.url, host.base) and each.can <= host.can for host in named)
        )
        mirrors = self._mirrors([*hosts, new] if new else hosts)
        if not any("pull" in mirror.can for mirror in mirrors):
            self._source.fail(
                "server", "is one of the hosts, of which none may be pulled from: add that to one's capabilities"
            )
        return Draft(self._registry, mirrors=mirrors, fallback=False, place=place)

    def _mirrors(self, hosts: list[_Host]) -> tuple[Endpoint, ...]:
        for host in hosts:
            if "pull" not in host[0].can:
                left = "is asked for referrers alone" if host[0].can else "is never asked"
                self._warnings.append(
                    f"{host[0].place.below('capabilities')}: without pull it {left}, in containerd too"
                )
        return tuple(
            replace(each, ns=False) if self._own(host) else each for host in hosts for each in host if each.can
        )

    def _as_origin(self, host: _Host) -> _Host:
        own = origin_of(self._registry)
        return tuple(
            replace(
                each,
                name=own.name,
                url=f"{each.url.partition(':')[0]}://{own.authority}" if each.authority in _HUB else each.url,
                is_origin=True,
                can=each.can & _PULL,
            )
            for each in host
        )

    def _warn_unasked(self, origin: Endpoint) -> None:
        if "pull" not in origin.can:
            where = self._source.place("capabilities")
            self._warnings.append(f"{where}: without pull {origin.name} is asked only for what is no pull, like pushes")

    def _own(self, host: _Host) -> bool:
        """Whether it is the registry that the file is about."""
        scheme, _, authority = host[0].url.partition("://")
        return host[0].is_origin or wellknown.canonical(authority.removesuffix(_PORTS[scheme])) == self._registry

    def _itself(self) -> _Host:
        file = self._file
        for key in ("capabilities", "override_path"):
            if getattr(file, key):
                self._warnings.append(f"{self._source.place(key)}: means nothing without server, to containerd too")
        self._no_proxy(file, "proxy")
        headers = self._headers(file, "header")
        plain = itself(self._registry, self._source.place(), file, self._tls(file, ""))
        return tuple(replace(each, headers=headers, dial_timeout=file.dial_timeout) for each in plain)

    def _server(self) -> _Host:
        return self._endpoints(self._file.server, self._file, "server", "", self._source.place("server"))

    def _host(self, url: str, table: HostTable) -> _Host:
        where = f'host."{url}"'
        return self._endpoints(url, table, where, f"{where}.", self._source.place("host", url))

    def _endpoints(self, text: str, table: HostTable, where: str, below: str, place: Place) -> _Host:
        scheme, authority, path = self._split(text, where)
        if not path.endswith("/v2") and not table.override_path:
            path += "/v2"
        can = frozenset(each for each in table.capabilities if each != "push") if table.capabilities else _ALL
        self._no_proxy(table, f"{below}proxy")
        endpoint = Endpoint(
            # As its author knows it.
            text.partition("://")[2].rstrip("/") or text,
            url_of(scheme, authority),
            path,
            tls=self._tls(table, below),
            can=can if "pull" in can else can & {"referrers"},
            headers=self._headers(table, f"{below}header"),
            dial_timeout=table.dial_timeout,
            place=place,
        )
        return _fallback(endpoint, table)

    def _split(self, text: str, where: str) -> tuple[str, str, str]:
        """A URL, of which the scheme may be left out."""
        scheme, slashes, rest = text.partition("://")
        if not slashes:
            if text.startswith("http"):
                self._source.fail(where, f"containerd takes {text!r} for a URL with a scheme: write https:// before it")
            scheme, rest = "https", text
        if scheme not in _PORTS:
            self._source.fail(where, f'{text!r} is not a URL: write "https://host[:port][/path]"')
        authority, _, path = rest.partition("/")
        authority = self._source.authority(authority, where)
        if not _PATH.fullmatch(path):
            self._source.fail(where, f"{path!r} cannot be a path of a registry")
        path = posixpath.normpath(f"/{path}").lstrip("/")
        return scheme, authority, f"/{path}" if path else ""

    def _tls(self, table: HostTable, below: str) -> Tls:
        ca = []
        for name in table.ca:
            where = f"{below}ca"
            ca.append(tls.authority(self._source, self._source.resolve(name, where), where))
        pairs = []
        for certificate, key in table.client:
            where = f"{below}client"
            files = self._source.resolve(certificate, where), self._source.resolve(key, where)
            pairs.append(tls.keypair(self._source, *files, where))
        return Tls(tuple(ca), tuple(pairs), verify=not table.skip_verify)

    def _headers(self, table: HostTable, where: str) -> tuple[tuple[str, str], ...]:
        headers = tuple((name, value) for name, values in table.header.items() for value in values)
        for name, value in headers:
            self._source.header(name, value, where)
        return headers

    def _no_proxy(self, table: HostTable, where: str) -> None:
        if table.proxy:
            self._source.fail(where, "mirrortap cannot reach one host through a proxy of its own; take it out")


def _fallback(endpoint: Endpoint, table: HostTable) -> _Host:
    """http for which TLS is set up: TLS is tried first, where the port does not say that there is none."""
    if not endpoint.url.startswith("http:") or not table.explicit or endpoint.authority.endswith(":80"):
        return (endpoint,)
    return replace(endpoint, url=url_of("https", endpoint.authority)), endpoint


def _joined(earlier: _Host, later: _Host) -> _Host:
    """The registry itself, named twice: asked once, where that comes to the same, as it was named first."""
    known = {(each.url, each.base): each.can for each in later}
    first = tuple(replace(each, can=each.can | known.pop((each.url, each.base), frozenset())) for each in earlier)
    return first + tuple(each for each in later if (each.url, each.base) in known)
