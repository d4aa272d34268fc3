"""Reads a `registries.conf` of version 2 with its drop-ins (containers-registries.conf(5) and .conf.d(5)).

What it means is what github.com/containers/image, pkg/sysregistriesv2 makes of it. Keys that are about how a client
finds a name or a login say nothing to a proxy, and are ignored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from addon.config import patterns, wellknown
from addon.config.formats import documents
from addon.config.formats.source import Source, shown, why
from addon.config.model import ConfigError, Endpoint, Tls
from addon.config.reading import Draft, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from addon.config.model import Capability, Place

_CAN: dict[str, frozenset[Capability]] = {
    "": frozenset({"pull", "resolve"}),
    "all": frozenset({"pull", "resolve"}),
    "digest-only": frozenset({"pull"}),
    "tag-only": frozenset({"resolve"}),
}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-"))


class _Mirror(_Table):
    location: str
    insecure: bool = False
    pull_from_mirror: Literal["", "all", "digest-only", "tag-only"] = ""


class _Registry(_Table):
    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror: list[_Mirror] = []
    mirror_by_digest_only: bool = False


class _File(_Table):
    registry: list[_Registry] = []
    # The client's own business.
    unqualified_search_registries: Any = Field(default=None, repr=False)
    credential_helpers: Any = Field(default=None, repr=False)
    short_name_mode: Any = Field(default=None, repr=False)
    aliases: Any = Field(default=None, repr=False)
    additional_layer_store_auth_helper: Any = Field(default=None, repr=False)


def is_one(document: Mapping[str, Any]) -> bool:
    """Whether a TOML document is one: BuildKit's `registry` is a table of tables, here it is a list."""
    return isinstance(document.get("registry"), list)


def read(path: Path) -> Reading:
    """What it says, and its drop-ins, whose tables replace those of the same prefix. Raises ConfigError."""
    folder = path.with_name(f"{path.name}.d")
    drafts: dict[str, Draft] = {}
    warnings: list[str] = []
    files = [path, *_drop_ins(folder)]
    for each in files:
        drafts |= _Reader(each, warnings).drafts()
    _refuse_blocked(drafts.values())
    return Reading(path, tuple(drafts.values()), files=frozenset({folder, *files}), warnings=tuple(warnings))


def _drop_ins(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.name.endswith(".conf") and not each.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{shown(folder)}: is where drop-ins are, and cannot be read: {why(error)}") from None


def _refuse_blocked(drafts: Collection[Draft]) -> None:
    """Raises ConfigError where something is to come from a place of which nothing may be had."""
    known: dict[str, dict[str, Draft]] = {}
    for draft in drafts:
        known.setdefault(draft.registry, {})[draft.within] = draft
    for draft in drafts:
        for endpoint in (*draft.mirrors, *(draft.origins or ())):
            registry, _, path = endpoint.name.partition("/")
            there = patterns.longest(patterns.hosts(registry, known), path, known)
            if there and (there.blocked or there.fallback is False):
                what = f"{endpoint.name} is blocked by {there.place}, for whoever leads there"
                raise ConfigError(f"{endpoint.place}.location: {what}; take one of the two out")


class _Reader:
    """Turns the tables of one file into what is said by prefix."""

    def __init__(self, path: Path, warnings: list[str]) -> None:
        self._path = path
        self._source = Source(path)
        self._fail = self._source.fail
        self._warnings = warnings

    def drafts(self) -> dict[str, Draft]:
        document = documents.parse_toml(self._path)
        if "registries" in document:
            self._fail(
                "registries",
                "is of version 1 of the format. Write instead, for each host that is insecure or blocked:"
                ' [[registry]] location = "HOST" and insecure = true or blocked = true; and for [registries.search]:'
                ' unqualified-search-registries = ["HOST"]',
            )
        if isinstance(document.get("registry"), dict):
            self._fail(
                "registry", 'is written [[registry]] here; BuildKit\'s [registry."HOST"] belongs in a .toml file'
            )
        tables = documents.validate(_File, document, self._path).registry
        drafts: dict[str, tuple[int, Draft]] = {}
        for i, table in enumerate(tables):
            draft = self._draft(i, table)
            first, _ = drafts.setdefault(draft.pattern, (i, draft))
            if first != i and table != tables[first]:
                self._warnings.append(
                    f"{draft.place}: is not used: registry[{first}] is about the same, {draft.pattern}, and comes first"
                )
        self._hold_together(tables)
        return {pattern: draft for pattern, (_, draft) in drafts.items()}

    def _draft(self, i: int, table: _Registry) -> Draft:
        where, place = f"registry[{i}]", self._source.place("registry", i)
        if not table.prefix and not table.location:
            self._fail(where, 'has neither prefix nor location: write location = "host[:port][/path]"')
        if not table.location and not table.prefix.startswith("*."):
            remedy = f'write location = "{table.prefix}" to leave it where it is'
            self._fail(
                f"{where}.location", f"is missing, which only a prefix like *.example.com can do without; {remedy}"
            )
        if table.location.startswith("*."):
            self._fail(f"{where}.location", f"{table.location!r} names no one place; write it as prefix")
        pattern = self._place(table.prefix or table.location, f"{where}.{'prefix' if table.prefix else 'location'}")
        location = self._place(table.location, f"{where}.location") if table.location else pattern
        mirrors = [
            endpoint for j, mirror in enumerate(table.mirror) for endpoint in self._mirror(i, j, table, mirror, pattern)
        ]
        registry, within = pattern
        if table.blocked:
            # As it is used where mirrors are not to be got round: they are asked, and the location never is.
            return Draft(
                registry, within, tuple(mirrors), fallback=False if mirrors else None, blocked=not mirrors, place=place
            )
        moved = location != pattern
        origins = None
        if moved or table.insecure:
            origin = replace(_endpoint(location, within, place), is_origin=True)
            origins = _reached(origin, insecure=table.insecure)
        return Draft(registry, within, tuple(mirrors), origins, moved, place=place)

    def _mirror(
        self, i: int, j: int, table: _Registry, mirror: _Mirror, pattern: tuple[str, str]
    ) -> tuple[Endpoint, ...]:
        where = f"registry[{i}].mirror[{j}]"
        if table.mirror_by_digest_only and mirror.pull_from_mirror:
            what = "mirror-by-digest-only = true says the same of all mirrors of the registry"
            self._fail(f"{where}.pull-from-mirror", f"cannot be said where {what}; keep one of the two")
        location = self._place(mirror.location, f"{where}.location")
        if location[0].startswith("*"):
            self._fail(f"{where}.location", f"{mirror.location!r} names no one place")
        endpoint = _endpoint(location, pattern[1], self._source.place("registry", i, "mirror", j))
        can = _CAN["digest-only" if table.mirror_by_digest_only else mirror.pull_from_mirror]
        # The client has no way to tell mirrors which registry is meant, so they may not know what to do with it.
        return _reached(replace(endpoint, can=can, ns=False), insecure=mirror.insecure)

    def _place(self, text: str, where: str) -> tuple[str, str]:
        """`host[:port][/path]` or `*.host`."""
        if "://" in text:
            hint = "; for plain http add insecure = true" if text.startswith("http:") else ""
            self._fail(where, f'{text!r} has a scheme: write "host[:port][/path]"{hint}')
        text = text.rstrip("/")
        host, _, path = text.partition("/")
        if "@" in path or ":" in path:
            self._fail(
                where, f"{text!r} is about one tag or digest: tables are about whole repositories, so leave that out"
            )
        if host.startswith("*.") and (path or ":" in host):
            self._fail(where, f"{text!r} is no wildcard: that is *.host, without a port or a path")
        return self._source.pattern(text, where)

    def _hold_together(self, tables: Sequence[_Registry]) -> None:
        """Raises ConfigError where tables contradict each other about one location."""
        known: dict[str, int] = {}
        for i, table in enumerate(tables):
            location = (table.location or table.prefix).rstrip("/")
            first = known.setdefault(location, i)
            for key in "insecure", "blocked":
                if getattr(table, key) != getattr(tables[first], key):
                    self._fail(
                        f"registry[{i}].{key}",
                        f"is not what registry[{first}] says of the same location, {location}; say the same in both",
                    )


def _endpoint(location: tuple[str, str], within: str, place: Place) -> Endpoint:
    """At a location that stands for what is `within` a registry."""
    registry, path = location
    url = f"https://{wellknown.api_host(registry)}"
    if path == within:
        return Endpoint("/".join(filter(None, location)), url, place=place)
    base = "/".join(filter(None, ("/v2", path)))
    return Endpoint("/".join(filter(None, location)), url, base, within, place=place)


def _reached(endpoint: Endpoint, *, insecure: bool) -> tuple[Endpoint, ...]:
    """One, or two as the client has them: https unverified, and http for who does not speak TLS."""
    if not insecure:
        return (endpoint,)
    return replace(endpoint, tls=Tls(verify=False)), replace(endpoint, url=f"http://{endpoint.authority}")
