"""At which line of a TOML or JSON file something is said. For people: what cannot be found has no line."""

from __future__ import annotations

import json
import re
import tomllib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Keys = tuple[str | int, ...]

_STRING = r"""\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'"""
_TOKEN = re.compile(rf"[ \t\r]+|\#[^\n]*|(?P<word>{_STRING}|[A-Za-z0-9_-]+)|(?P<mark>.)", re.DOTALL)


def line(path: Path, keys: Sequence[str | int]) -> int | None:
    """The line, from 1, at which the keys lead to something in the file; or as many of them as do. Never raises."""
    try:
        stat = path.stat()
        known = _read(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):
        return None
    keys = tuple(keys)
    return next((known[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in known), None)


@lru_cache(maxsize=32)
def _read(path: Path, _changed: int, _size: int) -> dict[Keys, int]:
    scan = _Scan(of_json=path.suffix == ".json")
    for token in _TOKEN.finditer(path.read_bytes().decode(errors="replace")):
        scan.token(token)
    return scan.found


class _Scan:
    """Goes through the tokens of a well-formed file; what it makes of any other is of no use, and no harm."""

    def __init__(self, *, of_json: bool) -> None:
        self.found: dict[Keys, int] = {}
        self._json = of_json
        self._line = 1
        self._prefix: Keys = ()  # what the last header says
        self._tables: dict[Keys, int] = {}  # how many each array of tables has
        self._open: list[tuple[Keys, list[int] | None]] = []  # what is open, and of an array how far it is
        self._brackets = 0  # of a header that has begun
        self._key: list[str] = []
        self._state = self._value if of_json else self._name

    def token(self, token: re.Match[str]) -> None:
        text = token[0]
        if text == "\n" and not self._open and not self._json:
            self._state, self._key, self._brackets = self._name, [], 0
        elif text != "\n" and token.lastgroup:
            self._state(text, word=token.lastgroup == "word")
        self._line += text.count("\n")

    def _name(self, text: str, *, word: bool) -> None:
        """In a key, or in a header."""
        if word:
            self._key.append(self._plain(text))
        elif text == "[" and not self._open:
            self._brackets += 1
        elif text == "]" and self._brackets:
            self._header()
        elif text in "=:":
            self._note(self._base, self._key)
            self._state = self._value
        elif text == "}":
            self._close()

    def _value(self, text: str, *, word: bool) -> None:
        """Where a value begins."""
        if text == "]" and not word:
            self._close()
            return
        path = (*self._base, *self._key)
        if self._open and (at := self._open[-1][1]) is not None:
            path = (*self._open[-1][0], at[0])
            self.found.setdefault(path, self._line)
        self._state = self._rest
        if text in ("[", "{") and not word:
            self._open.append((path, [0] if text == "[" else None))
            self._key, self._state = [], self._value if text == "[" else self._name

    def _rest(self, text: str, *, word: bool) -> None:
        """Up to what comes after a value."""
        if text in ("]", "}") and not word:
            self._close()
        elif text == "," and self._open:
            self._key, self._state = [], self._name
            if (at := self._open[-1][1]) is not None:
                at[0] += 1
                self._state = self._value

    def _close(self) -> None:
        if self._open:
            self._open.pop()
        self._state = self._rest

    def _header(self) -> None:
        path: Keys = ()
        for i, part in enumerate(self._key, 1):
            path = (*path, part)
            if i == len(self._key) and self._brackets == 2:
                self.found.setdefault(path, self._line)
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
            self.found.setdefault(path, self._line)
        # A table may have been told of before, by one below it.
        self.found[path] = self._line
        self._prefix, self._state, self._brackets = path, self._rest, 0

    def _note(self, base: Keys, key: Sequence[str]) -> None:
        for n in range(1, len(key)):
            self.found.setdefault((*base, *key[:n]), self._line)
        # JSON's last one counts.
        self.found[(*base, *key)] = self._line

    @property
    def _base(self) -> Keys:
        return self._open[-1][0] if self._open else self._prefix

    def _plain(self, text: str) -> str:
        if text[0] not in "\"'":
            return text
        try:
            if "\\" in text and text[0] == '"':
                return str(json.loads(text) if self._json else tomllib.loads(f"key = {text}")["key"])
        except ValueError:
            pass
        return text[1:-1]
