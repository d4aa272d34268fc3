"""Byte ranges (RFC 9110, section 14). Pure."""

from __future__ import annotations

import re

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
# Each range costs a part of the answer, and may cost a request upstream; who wants more of them wants the whole.
_MAX_RANGES = 50
_MAX_HEADER = 2000  # characters, enough for so many; also what keeps the numbers short


class Unsatisfiable(Exception):
    """Every range lies outside the content: 416."""


def parse(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """The half-open slices (start, end) that a Range header asks of `size` bytes, in the order it has them.

    None means the whole: no header, or one that may be ignored (another unit, nonsense, abuse; RFC 9110, 14.2). What
    lies outside the content is left out, or raises Unsatisfiable when nothing else was asked for.
    """
    if header is None or len(header) > _MAX_HEADER:
        return None
    unit, _, listed = header.partition("=")
    if unit.lower() != "bytes":
        return None
    # A list may have empty elements (RFC 9110, 5.6.1.2).
    specs = [spec for each in listed.split(",") if (spec := each.strip(" \t"))]
    if not 0 < len(specs) <= _MAX_RANGES:
        return None
    slices = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if not match or spec == "-":
            return None
        first, last = match.groups()
        if not first:
            start, end = max(0, size - int(last)), size
        elif not last:
            start, end = int(first), size
        elif int(last) < int(first):
            return None
        else:
            start, end = int(first), min(int(last) + 1, size)
        if start < end:
            slices.append((start, end))
    if not slices:
        raise Unsatisfiable
    # Ranges that overlap may multiply what a short header makes us send (RFC 9110, 17.15); the whole has it all once.
    return slices if sum(end - start for start, end in slices) <= size else None
