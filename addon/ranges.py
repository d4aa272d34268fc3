"""Byte ranges (RFC 9110, section 14). Pure."""

from __future__ import annotations

import re

_SINGLE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


class Unsatisfiable(Exception):
    """The range lies outside the content: 416."""


def single(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open slice (start, end) that a Range header asks of `size` bytes.

    None means the whole: no header, or one that may be ignored (another unit, several ranges, nonsense; RFC 9110
    14.2). Raises Unsatisfiable.
    """
    match = _SINGLE.fullmatch(header or "")
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), size if not last else min(int(last) + 1, size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise Unsatisfiable
    return start, end
