"""The trace that a client's request belongs to: W3C Trace Context (https://www.w3.org/TR/trace-context/). Pure.

It is forwarded as it came, for mirrortap has no span of its own that anybody would be told of.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.reply import Request

HEADERS = frozenset({"traceparent", "tracestate"})

# 3.2.2: version, trace-id, parent-id, trace-flags; of later versions (3.2.4) more may follow. Nothing may be all zeros,
# and no version ff.
_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-[!-~]{0,200})?"
)
# 3.3.1.3: one member of a tracestate; how many there may be; and how much of them is worth passing on (3.3.1.5).
_MEMBER = re.compile(r"(?P<key>[a-z0-9][a-z0-9_*/@-]{0,255})=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MEMBERS = 32
_LONG, _LONGEST = 128, 512


def trace_id(request: Request) -> str:
    """Of the client's trace, "" where there is none, or none that is one."""
    parent = _parent(request)
    return parent["trace"] if parent else ""


def passed_on(request: Request) -> list[tuple[str, str]]:
    """The headers by which what the request causes elsewhere belongs to its trace, if it belongs to one."""
    parent = _parent(request)
    if parent is None:
        return []
    headers = [("traceparent", parent[0])]
    if state := _bounded(_members(request.header_values("tracestate"))):
        headers.append(("tracestate", state))
    return headers


def _parent(request: Request) -> re.Match[str] | None:
    values = request.header_values("traceparent")
    if len(values) != 1:
        return None
    parent = _PARENT.fullmatch(values[0])
    return None if parent and parent["more"] and parent["version"] == "00" else parent


def _members(values: Sequence[str]) -> list[str]:
    """Of a list in several headers; all of it counts for nothing when one member makes no sense."""
    members = [member for each in ",".join(values).split(",") if (member := each.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members[: _MEMBERS + 1]]
    keys = {match["key"] for match in found if match}
    return members if len(keys) == len(members) <= _MEMBERS else []


def _bounded(members: list[str]) -> str:
    """The long ones go first, then those at the end, which have been there for longest (3.3.1.5)."""
    if len(",".join(members)) > _LONGEST:
        members = [member for member in members if len(member) <= _LONG]
    while len(",".join(members)) > _LONGEST:
        members = members[:-1]
    return ",".join(members)
