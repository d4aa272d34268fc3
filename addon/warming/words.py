"""What files and registries have written, for people's terminals. Pure."""

from __future__ import annotations


def plain(text: str) -> str:
    """In one line, and without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
