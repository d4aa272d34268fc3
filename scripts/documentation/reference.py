"""docs/reference.md, made from the tables that configuration files are held against. Pure."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from addon.config import values
from addon.config.description import SETTINGS
from addon.config.formats.tables import AuthTable, KeyPairTable, MirrorTable, MirrortapTable, RegistryTable, Table
from addon.config.model import Config

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_HEAD = """\
# Every key of the configuration

<!-- Written by scripts/reference from addon/config/formats/tables.py: change it there. -->

Of mirrortap's own format, which is BuildKit's with more keys; [other formats](formats.md) have keys of their own. What
they are for: [configuration](configuration.md), [mirrors](mirrors.md), [credentials](credentials.md),
[who may use the proxy](exposure.md), [tuning](tuning.md).

| type | as it is written |
|---|---|
| duration | `"500ms"`, `"5s"`, `"10m"`, `"2h"` or `"1d"` |
| size | `"500B"`, `"10kB"`, `"500MB"`, `"20GB"`, `"1TB"`; in powers of 1024 `"1KiB"`, `"500MiB"`, `"20GiB"`, `"1TiB"` |
| share | `"25%"`; where a size may be written as well, of the disk that the cache is on |
| network | `"10.0.0.0/8"`, `"fd00::/8"`, or one address |
| file, folder | a path, relative to the configuration file's folder |
"""

_TABLES: tuple[tuple[str, str, type[Table]], ...] = (
    (
        '[registry."HOST"]',
        "How that host is reached, and what becomes of pulls from it. Keys down to `tlsconfigdir` are BuildKit's, and "
        "mean what they mean there; the others are mirrortap's own.",
        RegistryTable,
    ),
    (
        '[[registry."HOST".mirrors]]',
        "A mirror of which more is to be said than its address, [in place of a text](mirrors.md#mirrors-as-tables).",
        MirrorTable,
    ),
    (
        '[[registry."HOST".keypair]]',
        "A client certificate that is shown to that host.",
        KeyPairTable,
    ),
    (
        '[registry."HOST".auth]',
        "What the proxy itself logs in with there: one of a user with a password, a token, or Docker's `config.json` "
        "([credentials](credentials.md)).",
        AuthTable,
    ),
    ("[mirrortap]", "What holds for the proxy as a whole.", MirrortapTable),
)

# What a field's first validator reads, which is what an alias of `values` is known by.
_WRITTEN = {
    values.Duration: "duration",
    values.Bytes: "size",
    values.Share: "share",
    values.Most: "size or share",
    values.Networks: "list: network",
    values.Tunnel: "text, or list of texts",
}
_PLAIN = {bool: "true or false", int: "integer", str: "text"}


def page() -> str:
    """The whole of docs/reference.md."""
    return "\n".join([_HEAD, *(_section(*each) for each in _TABLES)])


def undocumented() -> list[str]:
    """Keys of which nothing is said."""
    return [
        f"{table.__name__}.{name}"
        for *_, table in _TABLES
        for name, field in table.model_fields.items()
        if not field.description
    ]


def _section(heading: str, about: str, table: type[Table]) -> str:
    rows = [
        f"| `{field.alias}` | {_cell(_kind(field.annotation, field.metadata))} | {_default(table, field)} | "
        f"{_cell(' '.join((field.description or '').split()))} |"
        for field in table.model_fields.values()
    ]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## `{heading}`", "", about, "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(table: type[Table], field: FieldInfo) -> str:
    """As it would be written in the file."""
    if field.is_required():
        return "required"
    if table is MirrortapTable:
        return _toml(SETTINGS[str(field.alias)](Config({})))
    return _toml(field.get_default(call_default_factory=True))


def _toml(value: object) -> str:
    if value is None or value in ([], {}):
        return "unset"
    return f"`{_literal(value)}`"


def _literal(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case str():
            return f'"{value}"'
        case _:
            return str(value)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """What may be written for a value of this type, in an operator's words."""
    for alias, name in _WRITTEN.items():
        if get_args(alias)[1] in metadata:
            return name + _range(metadata)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(args[0], [*args[1:], *metadata])
    if origin in (Union, UnionType):
        return " or ".join(_kind(each, metadata) for each in args if each is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{_literal(each)}`" for each in args)
    if origin is list:
        return f"list: {_kind(args[0], [])}"
    if origin is dict:
        return "table of texts"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _PLAIN[annotation] + _range(metadata)


def _range(metadata: list[Any]) -> str:
    bounds = {name: getattr(each, name) for each in metadata for name in ("gt", "ge", "le") if hasattr(each, name)}
    match bounds:
        case {"ge": least, "le": most}:
            return f", {least} to {most}"
        case {"ge": least}:
            return f", at least {least}"
        case {"gt": bound}:
            return f", more than {bound}"
        case _:
            return ""
