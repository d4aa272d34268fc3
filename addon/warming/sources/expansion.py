"""Variables in Dockerfiles and compose files: $NAME, ${NAME}, ${NAME:-word} and its kind. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-+?]")
# Variables within each other: nobody writes more than two.
_DEPTH = 16


class Unset(Exception):
    """A variable has no value, and what is written gives it none."""

    def __init__(self, name: str, demand: str = "") -> None:
        super().__init__(name)
        self.name = name
        self.demand = demand  # what is written of that: ${NAME:?demand}


class Unexpandable(Exception):
    """It is written as no variable can be; the message says how."""


def expand(text: str, value: Callable[[str], str | None], *, escape: str = "", doubled: bool = False) -> str:
    """`text` with the values of its variables; None is that of one that is not set.

    `escape` before a character stands for that; `doubled`: $$ stands for $. Raises Unset or Unexpandable.
    """
    return _Expansion(text, value, escape, doubled).all()


class _Expansion:
    def __init__(self, text: str, value: Callable[[str], str | None], escape: str, doubled: bool) -> None:
        self._text = text
        self._value = value
        self._escape = escape
        self._doubled = doubled
        self._at = 0

    def all(self) -> str:
        return self._run(live=True, depth=0)

    def _run(self, *, live: bool, depth: int) -> str:
        """Up to the end, or to the brace that closes what is being read. What is not `live` will not be used."""
        if depth > _DEPTH:
            raise Unexpandable("its variables are nested too deeply")
        done = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "}" and depth:
                break
            self._at += 1
            if char == self._escape and self._at < len(self._text):
                done.append(self._take())
            elif char != "$":
                done.append(char)
            elif self._doubled and self._text.startswith("$", self._at):
                done.append(self._take())
            elif self._text.startswith("{", self._at):
                self._at += 1
                done.append(self._braced(live, depth))
            elif name := self._name():
                done.append(self._plain(name, live))
            else:
                done.append(char)
        return "".join(done)

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        self._at += len(found[0]) if found else 0
        return found[0] if found else ""

    def _plain(self, name: str, live: bool) -> str:
        value = self._value(name)
        if value is None and live:
            raise Unset(name)
        return value or ""

    def _braced(self, live: bool, depth: int) -> str:
        name, operator = self._name(), _OPERATOR.match(self._text, self._at)
        if not name or not (operator or self._text.startswith("}", self._at)):
            raise Unexpandable(
                "${ is followed by what is not understood here: ${NAME}, ${NAME:-word} and ${NAME:+word} are"
            )
        if not operator:
            self._at += 1
            return self._plain(name, live)
        self._at += len(operator[0])
        value = self._value(name)
        there = bool(value) if operator[0].startswith(":") else value is not None
        wants_word = there if operator[0].endswith("+") else not there
        word = self._run(live=live and wants_word and not operator[0].endswith("?"), depth=depth + 1)
        if not self._text.startswith("}", self._at):
            raise Unexpandable("${ is not closed by }")
        self._at += 1
        if operator[0].endswith("+"):
            return word if there else ""
        if not there and operator[0].endswith("?") and live:
            raise Unset(name, word)
        return (value or "") if there else word
