"""Reads htpasswd files (https://httpd.apache.org/docs/2.4/programs/htpasswd.html): who may log in to the proxy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mitmproxy.utils.htpasswd import HtpasswdFile

if TYPE_CHECKING:
    from pathlib import Path

# The cost doubles with each step; at 15 one login takes seconds.
_BCRYPT = re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-5])\$[./A-Za-z0-9]{53}")
_SHA1 = re.compile(r"\{SHA\}[A-Za-z0-9+/]{27}=")


def read(path: Path) -> tuple[HtpasswdFile, list[str]]:
    """Its users, and what is wrong with it: one sentence a line, with the file and the line's number.

    A line that is wrong counts for nothing. No sentence tells what a line holds. Raises OSError.
    """
    users, faults = HtpasswdFile(""), []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            name, hashed = _line(line)
            if name in users.users:
                raise ValueError("is about a user whom another line names; keep one of them")
        except ValueError as fault:
            faults.append(f"{path}:{number}: {fault}")
        else:
            users.users[name] = hashed
    if not users.users and not faults:
        faults.append(f"{path}: names no user, so that nobody can log in; add one with: htpasswd -B {path} USER")
    return users, faults


def weak(users: HtpasswdFile) -> list[str]:
    """The users whose hash is quickly guessed from."""
    return sorted(name for name, hashed in users.users.items() if not _BCRYPT.fullmatch(hashed))


def _line(line: bytes) -> tuple[str, str]:
    try:
        name, colon, hashed = line.decode().strip().partition(":")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not name or not colon or not name.isprintable():
        raise ValueError('is not "user:hash"; write it with: htpasswd -B FILE USER')
    if not _BCRYPT.fullmatch(hashed) and not _SHA1.fullmatch(hashed):
        raise ValueError(
            "has no hash that is supported (bcrypt with a cost of 4 to 15, or {SHA}); "
            "write it with: htpasswd -B FILE USER"
        )
    return name, hashed
