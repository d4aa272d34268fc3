"""Reads BuildKit's `buildkitd.toml`, and mirrortap's own settings, which live in the same format.

The `[registry."host"]` tables mean what they mean to BuildKit
(https://github.com/moby/buildkit/blob/master/docs/buildkitd.toml.md); its other tables are ignored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from addon.config import admission, auth, tables, tls, wellknown
from addon.config.model import (
    Beliefs,
    Config,
    Downloads,
    Endpoint,
    Lives,
    Rule,
    Space,
    Timeouts,
    Tls,
    host_of,
    is_address,
    is_loopback,
    origin_of,
)
from addon.config.source import Source
from addon.config.tables import File, RegistryTable
from ca.authority import AuthorityError, dns_name
from ca.lives import ROOT_LIFE

if TYPE_CHECKING:
    from pathlib import Path

_PATH = re.compile(r"[a-z0-9._/-]*")
_SHORTEST_LEAF = 3.0  # seconds


def defaults() -> Config:
    """What holds when the operator says nothing."""
    return _Reader(None, File()).config()


def read(path: Path) -> Config:
    """The configuration in a TOML file. Raises ConfigError."""
    return _Reader(path, tables.read(path)).config()


class _Reader:
    """Turns the tables of one file into the model."""

    def __init__(self, path: Path | None, file: File) -> None:
        self._source = Source(path)
        self._fail = self._source.fail
        self._file = file
        self._tables: dict[str, tuple[str, RegistryTable]] = {}
        for key, table in file.registry.items():
            registry = _registry(self._source.authority(key, f'registry."{key}"'))
            if registry in self._tables:
                other = self._tables[registry][0]
                self._fail(f'registry."{key}"', f'is the same registry as registry."{other}"; keep one of the two')
            self._tables[registry] = (key, table)
        self._tls = {registry: tls.read(self._source, key, table) for registry, (key, table) in self._tables.items()}
        self._auths = {
            registry: auth.read(self._source, registry, key, table.auth)
            for registry, (key, table) in self._tables.items()
            if table.auth
        }

    def config(self) -> Config:
        own = self._file.mirrortap
        if own.cache_size.share + own.min_free.share > 1 and own.model_fields_set >= {"cache_size", "min_free"}:
            self._fail("mirrortap.min-free", "and cache-size together are more than the disk; lower one of them")
        rules = {}
        warnings = []
        for registry, (key, table) in self._tables.items():
            host = host_of(registry)
            if is_address(host) or "_" in host:
                # Such tables are common: they say how a mirror is reached.
                reason = "a registry that clients name by IP address, or with an underscore, cannot be intercepted"
                if table.server or not table.fallback or table.mode == "offline":
                    ours = "server" if table.server else "mode" if table.fallback else "fallback"
                    self._fail(f'registry."{key}".{ours}', f"cannot be kept: {reason}")
                if table.mirrors:
                    warnings.append(
                        f'registry."{key}": its mirrors are not used: {reason}, for no certificate may stand for it'
                    )
                continue
            try:
                dns_name(host)
            except AuthorityError as error:
                self._fail(f'registry."{key}"', f"no certificate can stand for it: {error}")
            rules[registry] = self._rule(registry, key, table)
        for registry in self._auths:
            key, table = self._tables[registry]
            if exposed := auth.exposed(registry, table):
                warnings.append(f'registry."{key}".auth: {exposed}')
        for registry, mirrors in wellknown.DEFAULT_MIRRORS.items():
            if registry not in rules:
                endpoints = tuple(e for m in mirrors for e in self._mirror(m, "default"))
                rules[registry] = Rule(registry, (origin_of(registry),), endpoints, own.tag_ttl)
        config = Config(
            rules,
            self._tls,
            Timeouts(own.connect_timeout, own.first_byte_timeout, own.stall_timeout, own.hedge_delay, own.stale_after),
            Space(own.cache_size, own.min_free),
            Downloads(own.min_rate, own.keep_filling_from, own.hedge_origin, own.quota_floor),
            Beliefs(own.public_ttl, own.private_ttl, own.access_ttl, own.access_grace),
            admission.read(self._source, own, warnings),
            self._lives(),
            tag_ttl=own.tag_ttl,
            source=self._source.path,
            warnings=tuple(warnings),
        )
        return config.taken_offline() if own.offline else config

    def _rule(self, registry: str, key: str, table: RegistryTable) -> Rule:
        where = f'registry."{key}"'
        if not table.fallback and not table.mirrors:
            self._fail(f"{where}.fallback", "is false, and there are no mirrors: nothing could answer")
        if not table.fallback and table.server:
            self._fail(f"{where}.server", "says where the origin is, but fallback = false forbids asking it")
        if table.mode == "online" and self._file.mirrortap.offline:
            self._fail(f"{where}.mode", "cannot be online while offline = true in [mirrortap]; take one of them out")
        mirrors = tuple(
            e for i, mirror in enumerate(table.mirrors) for e in self._mirror(mirror, f"{where}.mirrors[{i}]")
        )
        origins: tuple[Endpoint, ...] = ()
        if table.fallback:
            origins = self._origin(registry, key, table)
        if not (table.access == "open" or origins) and all(mirror.auth for mirror in mirrors):
            self._fail(
                where,
                "who may read cannot be found out: the proxy logs in to all its mirrors, and its origin is never asked;"
                ' add access = "open" to let everybody who may use the proxy read all of it',
            )
        ttl = self._file.mirrortap.tag_ttl if table.tag_ttl is None else table.tag_ttl
        rule = Rule(registry, origins, mirrors, ttl, open=table.access == "open")
        return rule.taken_offline() if table.mode == "offline" else rule

    def _origin(self, registry: str, key: str, table: RegistryTable) -> tuple[Endpoint, ...]:
        if table.server is None:
            api_host = wellknown.api_host(registry)
            return self._endpoints(registry, api_host, "", is_origin=True)
        where = f'registry."{key}".server'
        try:
            url = urlsplit(table.server)
        except ValueError as error:
            self._fail(where, f"{table.server!r} is not a URL: {error}")
        if url.scheme not in ("http", "https") or not url.netloc:
            self._fail(where, f'{table.server!r} is not a URL: write "https://host[:port]"')
        if url.path.strip("/") not in ("", "v2") or url.query or url.fragment:
            self._fail(where, f'{table.server!r} has a path: only "scheme://host[:port]" can be an origin')
        authority = self._source.authority(url.netloc, where)
        tls = self._tls[registry]
        auth = self._auths.get(registry)
        return (Endpoint(_registry(authority), _url(url.scheme, authority), tls=tls, is_origin=True, auth=auth),)

    def _mirror(self, mirror: str, where: str) -> tuple[Endpoint, ...]:
        if "://" in mirror:
            rest = mirror.partition("://")[2].partition("/")[0]
            hint = f'; for plain http add [registry."{rest}"] http = true' if mirror.startswith("http:") else ""
            self._fail(where, f'{mirror!r} has a scheme: write "host[:port][/path]"{hint}')
        authority, _, path = mirror.partition("/")
        authority = self._source.authority(authority, where)
        path = path.strip("/")
        if not _PATH.fullmatch(path) or ".." in path:
            self._fail(where, f"{path!r} cannot be a path of a mirror")
        name = f"{authority}/{path}" if path else authority
        return self._endpoints(name, authority, path)

    def _endpoints(self, name: str, authority: str, path: str, *, is_origin: bool = False) -> tuple[Endpoint, ...]:
        """One endpoint, or two where BuildKit too tries both: https unverified, then http."""
        registry = _registry(authority)
        table = self._tables[registry][1] if registry in self._tables else RegistryTable()
        host = host_of(authority)
        http = is_loopback(host) if table.http is None else table.http
        tls = self._tls.get(registry, Tls())
        schemes = ["https"] if table.insecure or not http else []
        schemes += ["http"] if http else []
        auth = self._auths.get(registry)
        return tuple(Endpoint(name, _url(s, authority), path, tls, is_origin, auth) for s in schemes)

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


def _registry(authority: str) -> str:
    """The name that a registry goes by: 443 is where it is anyway."""
    return wellknown.canonical(authority.removesuffix(":443"))


def _url(scheme: str, authority: str) -> str:
    return f"{scheme}://{authority.removesuffix(':443') if scheme == 'https' else authority}"
