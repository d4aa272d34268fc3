"""The proxy's configuration, written from plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Table = Mapping[str, Any]

# For tests of faults: a hanging endpoint must not cost a test more than this.
QUICK: Table = {"connect-timeout": "2s", "first-byte-timeout": "1s"}


def toml(registries: Mapping[str, Table], settings: Table | None = None) -> str:
    """`toml({"docker.io": {"mirrors": ["127.0.0.1:5001"]}}, {"tag-ttl": "5m"})`"""
    lines = ["[mirrortap]", *_pairs(settings or {})]
    for host, table in registries.items():
        lines += [f"[registry.{json.dumps(host)}]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _pairs(table: Table) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    match value:
        case bool() | int():
            return json.dumps(value)
        case list() | tuple():
            return f"[{', '.join(_value(each) for each in value)}]"
        case dict():
            return f"{{{', '.join(_pairs(value))}}}"
        case _:
            # JSON's strings are TOML's. Paths and the like are told as text.
            return json.dumps(str(value))


def as_toml(value: Any) -> str:
    """TOML 1.0, everything inline."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            # JSON's escapes are TOML's, but for surrogate pairs and DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{as_toml(key)} = {as_toml(each)}" for key, each in value.items()) + "}"
        case _:
            return str(value)
