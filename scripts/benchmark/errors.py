"""What goes wrong in a benchmark, for people."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement could not be made; the message says why."""
