"""What a rule is about: `host[:port]`, `*.host[:port]`, `*`; and with a path, the repositories at or below it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping


def hosts(registry: str, known: Container[str]) -> list[str]:
    """Those of the `known` host patterns that a registry's `host[:port]` matches, itself included."""
    return [pattern for pattern in covering(registry) if pattern in known]


def longest[T](matching: Iterable[str], repository: str, known: Mapping[str, Mapping[str, T]]) -> T | None:
    """Of what is known by host pattern and path, what the longest pattern leads to that covers the repository.

    As many look-ups as the names have parts, however much is known.
    """
    found: tuple[int, T] | None = None
    for host in matching:
        paths = known[host]
        for path in _paths(repository):
            if path in paths:
                length = len(host) + len(path)
                if found is None or length > found[0]:
                    found = length, paths[path]
                break
    return found[1] if found else None


def covering(registry: str) -> Iterator[str]:
    """The host itself, then the wildcards that cover it, ever wider ones."""
    yield registry
    if not registry.startswith("["):
        _, dot, rest = registry.partition(".")
        while dot:
            yield f"*.{rest}"
            _, dot, rest = rest.partition(".")


def _paths(repository: str) -> Iterator[str]:
    """From the repository itself up to all of them."""
    while repository:
        yield repository
        repository = repository.rpartition("/")[0]
    yield ""
