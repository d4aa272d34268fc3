"""Reads BuildKit's `buildkitd.toml`, and mirrortap's own settings, which live in the same format.

The `[registry."host"]` tables mean what they mean to BuildKit
(https://github.com/moby/buildkit/blob/master/docs/buildkitd.toml.md); its other tables are ignored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from addon.config import wellknown
from addon.config.formats import admission, auth, tables, tls
from addon.config.formats.source import Source, registry_of, url_of
from addon.config.formats.tables import File, MirrorTable, RegistryTable
from addon.config.model import (
    Beliefs,
    Config,
    Downloads,
    Endpoint,
    Lives,
    Place,
    Space,
    Timeouts,
    Tls,
    host_of,
    is_loopback,
)
from addon.config.reading import Draft, Reading
from ca.lives import ROOT_LIFE

if TYPE_CHECKING:
    from pathlib import Path

_PATH = re.compile(r"[a-z0-9._/-]*")
_SHORTEST_LEAF = 3.0  # seconds
_BASES = {"after-v2": "/v2{path}", "before-v2": "{path}/v2", "as-is": "{path}", "replaced": "/v2{path}"}


def nothing() -> Reading:
    """What holds when the operator says nothing."""
    return _Reader(None, File()).reading()


def read(path: Path) -> Reading:
    """What a TOML file says. Raises ConfigError."""
    return _Reader(path, tables.read(path)).reading()


class _Reader:
    """Turns the tables of one file into the model. They are known by their patterns, the mirrors' own included."""

    def __init__(self, path: Path | None, file: File) -> None:
        self._source = Source(path)
        self._fail = self._source.fail
        self._file = file
        self._tables: dict[tuple[str, str], tuple[str, RegistryTable]] = {}
        for key, table in file.registry.items():
            pattern = self._source.pattern(key, f'registry."{key}"')
            if pattern in self._tables:
                other = self._tables[pattern][0]
                self._fail(f'registry."{key}"', f'is the same registry as registry."{other}"; keep one of the two')
            self._tables[pattern] = (key, table)
        self._tls = {
            pattern: tls.read(self._source, f'registry."{key}"', table)
            for pattern, (key, table) in self._tables.items()
        }
        self._auths = {
            pattern: auth.read(self._source, pattern[0], key, table.auth)
            for pattern, (key, table) in self._tables.items()
            if table.auth
        }

    def reading(self) -> Reading:
        own = self._file.mirrortap
        warnings: list[str] = []
        settings = self._settings(warnings)
        drafts = tuple(self._draft(*pattern, key, table) for pattern, (key, table) in self._tables.items())
        for pattern in self._auths:
            key, table = self._tables[pattern]
            if pattern[0].startswith("*"):
                self._fail(f'registry."{key}".auth', "is for one host: write it in that host's own table")
            if exposed := auth.exposed(pattern[0], table):
                warnings.append(f'registry."{key}".auth: {exposed}')
        standby = tuple(
            Draft(registry, mirrors=tuple(e for mirror in mirrors for e in self._mirror(mirror, Place(), "")))
            for registry, mirrors in wellknown.DEFAULT_MIRRORS.items()
        )
        hosts = {host: (host, "") for host, within in self._tables if not within and not host.startswith("*")}
        return Reading(
            self._source.path,
            drafts,
            {host: self._tls[pattern] for host, pattern in hosts.items()},
            {host: self._auths[pattern] for host, pattern in hosts.items() if pattern in self._auths},
            # A buildkitd.toml has none, and may stand beside a file that does.
            settings if own.model_fields_set else None,
            standby,
            frozenset(self._source.files),
            tuple(warnings),
        )

    def _settings(self, warnings: list[str]) -> Config:
        own = self._file.mirrortap
        if own.cache_size.share + own.min_free.share > 1 and own.model_fields_set >= {"cache_size", "min_free"}:
            self._fail("mirrortap.min-free", "and cache-size together are more than the disk; lower one of them")
        return Config(
            {},
            {},
            Timeouts(own.connect_timeout, own.first_byte_timeout, own.stall_timeout, own.hedge_delay, own.stale_after),
            Space(own.cache_size, own.min_free),
            Downloads(
                own.min_rate,
                own.keep_filling_from,
                own.hedge_origin,
                own.quota_floor,
                own.prefetch,
                own.segment_size,
                own.connections_per_fill,
            ),
            Beliefs(own.public_ttl, own.private_ttl, own.access_ttl, own.access_grace),
            admission.read(self._source, own, warnings),
            self._lives(),
            tag_ttl=own.tag_ttl,
            redirect=own.redirect == "public",
            show_private=own.show_private,
            offline=own.offline,
        )

    def _draft(self, registry: str, within: str, key: str, table: RegistryTable) -> Draft:
        where, place = f'registry."{key}"', self._source.place("registry", key)
        if table.fallback is False and table.server:
            self._fail(f"{where}.server", "says where the origin is, but fallback = false forbids asking it")
        if table.mode == "online" and self._file.mirrortap.offline:
            self._fail(f"{where}.mode", "cannot be online while offline = true in [mirrortap]; take one of them out")
        if table.blocked and (table.mirrors or table.server or table.fallback is not None):
            self._fail(f"{where}.blocked", "is true: nothing is served of it, and no endpoint can be named for it")
        mirrors: list[Endpoint] = []
        for i, mirror in enumerate(table.mirrors):
            where_in, place_in = f"{where}.mirrors[{i}]", self._source.place("registry", key, "mirrors", i)
            if isinstance(mirror, str):
                mirrors += self._mirror(mirror, place_in, where_in)
            else:
                mirrors.append(self._mirror_table(mirror, place_in, where_in, within))
        origins: tuple[Endpoint, ...] | None = None
        if table.fallback is not False and not table.blocked:
            origins = self._origins(registry, within, key, table)
        return Draft(
            registry,
            within,
            tuple(mirrors),
            origins,
            moved=table.server is not None,
            fallback=table.fallback,
            blocked=table.blocked,
            tag_ttl=table.tag_ttl,
            prefetch=table.prefetch,
            offline=table.mode and table.mode == "offline",
            open=table.access and table.access == "open",
            redirect=table.redirect and table.redirect == "public",
            place=place,
        )

    def _origins(self, registry: str, within: str, key: str, table: RegistryTable) -> tuple[Endpoint, ...] | None:
        """None when nothing is said but what holds for the host anyway."""
        place = self._source.place("registry", key)
        own, of_host = self._tls[registry, within], self._tls.get((registry, ""), Tls())
        verified = own if own != Tls() else of_host
        pattern = (registry, within) if (registry, within) in self._auths else (registry, "")
        login = self._auths.get(pattern)
        if table.server is None:
            authority = wellknown.api_host(registry)
            schemes = self._schemes(registry, table if within else None)
            if schemes == ["https"] and (not (within or registry.startswith("*")) or (own == Tls() and login is None)):
                return None
            name = registry
        else:
            scheme, authority = self._server(table.server, f'registry."{key}".server')
            schemes, name = [scheme], registry_of(authority)
        urls = [url_of(scheme, authority) for scheme in schemes]
        return tuple(Endpoint(name, url, is_origin=True, auth=login, place=place, tls=verified) for url in urls)

    def _server(self, text: str, where: str) -> tuple[str, str]:
        try:
            url = urlsplit(text)
        except ValueError as error:
            self._fail(where, f"{text!r} is not a URL: {error}")
        if url.scheme not in ("http", "https") or not url.netloc:
            self._fail(where, f'{text!r} is not a URL: write "https://host[:port]"')
        if url.path.strip("/") not in ("", "v2") or url.query or url.fragment:
            self._fail(where, f'{text!r} has a path: only "scheme://host[:port]" can be an origin')
        return url.scheme, self._source.authority(url.netloc, where)

    def _mirror(self, mirror: str, place: Place, where: str) -> tuple[Endpoint, ...]:
        """As BuildKit writes one."""
        if "://" in mirror:
            rest = mirror.partition("://")[2].partition("/")[0]
            hint = f'; for plain http add [registry."{rest}"] http = true' if mirror.startswith("http:") else ""
            self._fail(where, f'{mirror!r} has a scheme: write "host[:port][/path]"{hint}')
        authority, _, path = mirror.partition("/")
        authority = self._source.authority(authority, where)
        path = self._path(path, where)
        registry = registry_of(authority)
        return tuple(
            Endpoint(
                f"{authority}{path}",
                url_of(scheme, authority),
                f"/v2{path}",
                tls=self._tls.get((registry, ""), Tls()),
                auth=self._auths.get((registry, "")),
                place=place,
            )
            for scheme in self._schemes(registry)
        )

    def _mirror_table(self, mirror: MirrorTable, place: Place, where: str, within: str) -> Endpoint:
        scheme, slashes, rest = mirror.url.partition("://")
        authority, _, path = rest.partition("/")
        if not slashes or scheme not in ("http", "https"):
            self._fail(f"{where}.url", f'{mirror.url!r} is not a URL: write "https://host[:port][/path]"')
        authority = self._source.authority(authority, f"{where}.url")
        path = self._path(path, f"{where}.url")
        if not mirror.capabilities:
            self._fail(f"{where}.capabilities", "is empty: it could answer nothing; take the mirror out")
        registry = registry_of(authority)
        own = tls.read(self._source, where, mirror)
        return Endpoint(
            f"{authority}{path}",
            url_of(scheme, authority),
            _BASES[mirror.path_mode].format(path=path),
            within if mirror.path_mode == "replaced" else "",
            tls=self._tls.get((registry, ""), own) if own == Tls() else own,
            auth=self._auths.get((registry, "")),
            can=frozenset(mirror.capabilities),
            headers=self._headers(mirror.headers, f"{where}.headers"),
            dial_timeout=mirror.dial_timeout,
            ns=mirror.ns,
            place=place,
        )

    def _headers(self, headers: dict[str, str], where: str) -> tuple[tuple[str, str], ...]:
        for name, value in headers.items():
            self._source.header(name, value, where)
        return tuple(headers.items())

    def _path(self, path: str, where: str) -> str:
        path = path.strip("/")
        if not _PATH.fullmatch(path) or ".." in path:
            self._fail(where, f"{path!r} cannot be a path of a mirror")
        return f"/{path}" if path else ""

    def _schemes(self, registry: str, table: RegistryTable | None = None) -> list[str]:
        """One, or two where BuildKit too tries both: https unverified, then http. `table`: one that says more."""
        of_host = self._tables[registry, ""][1] if (registry, "") in self._tables else RegistryTable()
        table = table or of_host
        said = of_host.http if table.http is None else table.http
        http = is_loopback(host_of(registry)) if said is None else said
        insecure = table.insecure or of_host.insecure
        return (["https"] if insecure or not http else []) + (["http"] if http else [])

    def _lives(self) -> Lives:
        lives = Lives(self._file.mirrortap.leaf_life, self._file.mirrortap.intermediate_life)
        if lives.leaf < _SHORTEST_LEAF:
            why = "certificates end on whole seconds, and one must not end during a handshake"
            self._fail("mirrortap.leaf-life", f"is shorter than {_SHORTEST_LEAF:g}s: {why}; raise it")
        if lives.intermediate > ROOT_LIFE.total_seconds():
            self._fail("mirrortap.intermediate-life", f"is longer than a root's, {ROOT_LIFE.days}d; lower it")
        if lives.intermediate < 2 * lives.leaf:
            self._fail("mirrortap.intermediate-life", "must be at least twice leaf-life; raise it, or lower that")
        return lives
