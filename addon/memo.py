"""Answers of pure functions that are remembered: clients ask for the same few things again and again."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST = 2048
# Characters of all arguments together: clients choose them, and must not fill the memory.
_LONG = 512


def remembered[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """For a function of strings, given by position. What it raises is not remembered."""
    known = lru_cache(_MOST)(function)

    @wraps(function)
    def asked(*args: P.args, **named: P.kwargs) -> R:
        if named or sum(map(len, args)) > _LONG:  # type: ignore[arg-type]
            return function(*args, **named)
        return known(*args)

    return asked
