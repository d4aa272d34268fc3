"""Facts as JSON, for /status.json, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pydantic import TypeAdapter

from addon.counts.facts import Counters, Facts

# What the parts of a counter's key are called.
_KEYS = {
    "requests": ("registry", "kind", "outcome"),
    "sent": ("registry", "outcome"),
    "received": ("registry", "endpoint"),
    "asked": ("registry", "endpoint"),
    "failed": ("registry", "endpoint"),
    "fills": ("registry", "end"),
    "joined": ("registry",),
    "request_seconds": ("kind", "outcome"),
    "first_byte_seconds": ("registry",),
    "fill_seconds": ("registry",),
}

_facts: TypeAdapter[Facts] = TypeAdapter(Facts)
_facts.rebuild(_types_namespace={"Mapping": Mapping, "Sequence": Sequence})
_value: TypeAdapter[Any] = TypeAdapter(Any)


def write(facts: Facts) -> bytes:
    """Counters become lists of objects, since objects have no keys of several parts."""
    document = _facts.dump_python(replace(facts, counters=Counters()), mode="json")
    document["counters"] = {field.name: _listed(field.name, facts.counters) for field in fields(Counters)}
    return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"


def read(document: bytes) -> Facts:
    """All but the counters, which are there for other programs. Raises ValueError."""
    found = json.loads(document)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return _facts.validate_python({**found, "counters": {}})


def _listed(name: str, counters: Counters) -> Any:
    value = getattr(counters, name)
    if name not in _KEYS:
        return value
    return [
        {**dict(zip(_KEYS[name], (key,) if isinstance(key, str) else key, strict=True)), "value": _plain(count)}
        for key, count in value.items()
    ]


def _plain(count: object) -> Any:
    return _value.dump_python(count, mode="json")
