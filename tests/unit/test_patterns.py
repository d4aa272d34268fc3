"""Which rule a repository falls under: the longest pattern's, found without going through the rules."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addon.config import patterns

# --- against a definition that goes through all of them ---


def covers(pattern: str, registry: str, repository: str) -> bool:
    """containers-registries.conf(5), "prefix"; wildcards may have a path, too."""
    host, _, within = pattern.partition("/")
    here = registry.endswith(host[1:]) and registry != host[1:] if host.startswith("*.") else registry == host
    return here and f"{repository}/".startswith(f"{within}/" if within else "")


def naive(known: set[str], registry: str, repository: str) -> str | None:
    found = [pattern for pattern in known if covers(pattern, registry, repository)]

    def length(pattern: str) -> tuple[int, int, bool]:
        # Of equal ones whichever says more of the host; a name says more than a wildcard for its one letter.
        host, _, within = pattern.partition("/")
        return len(host) + len(within), len(host), "*" not in host

    return max(found, key=length, default=None)


def ours(known: set[str], registry: str, repository: str) -> str | None:
    table: dict[str, dict[str, str]] = {}
    for pattern in known:
        host, _, within = pattern.partition("/")
        table.setdefault(host, {})[within] = pattern
    return patterns.longest(patterns.hosts(registry, table), repository, table)


labels = st.sampled_from(["a", "b", "aa", "io"])
registries = st.builds(
    lambda labels, port: ".".join(labels) + port,
    st.lists(labels, min_size=1, max_size=4),
    st.sampled_from(["", "", ":5000"]),
)
paths = st.lists(st.sampled_from(["a", "b", "aa", "a-b"]), max_size=3).map("/".join)
hosts = registries | registries.map(lambda host: f"*.{host}")
known_patterns = st.sets(st.builds(lambda host, path: f"{host}/{path}".rstrip("/"), hosts, paths), max_size=12)


@given(known_patterns, registries, paths)
@example({"*.io/aa", "*.a.io"}, "b.a.io", "aa")
@example({"*.io", "a.io"}, "a.io", "")
@example({"*.a.io/aa/b", "b.a.io"}, "b.a.io", "aa/b")
def test_the_longest_wins(known: set[str], registry: str, repository: str) -> None:
    assert ours(known, registry, repository) == naive(known, registry, repository)


@given(known_patterns, known_patterns, registries, paths)
def test_more_rules_only_make_it_longer(some: set[str], more: set[str], registry: str, repository: str) -> None:
    before, after = ours(some, registry, repository), ours(some | more, registry, repository)
    assert before is None or (after is not None and len(after) >= len(before))


# --- by example ---


@pytest.mark.parametrize(
    ("registry", "repository", "expected"),
    [
        ("r.io", "library/app", "r.io/library"),
        ("r.io", "library", "r.io/library"),
        ("r.io", "library-two/app", "r.io"),
        ("r.io", "library/app/deep", "r.io/library/app"),
        ("r.io", "", "r.io"),
        ("r.io:5000", "library/app", None),
        ("x.r.io", "library/app", "*.r.io"),
        ("x.y.r.io", "library/app", "*.y.r.io"),
        ("z.y.r.io", "a", "z.y.r.io"),
        ("z.y.r.io", "b", "*.y.r.io"),
        ("x.z.y.r.io", "", "*.y.r.io"),
        ("xr.io", "", None),
        ("[::1]:5000", "a", None),
    ],
)
def test_by_example(registry: str, repository: str, expected: str | None) -> None:
    known = {"r.io", "r.io/library", "r.io/library/app/deep", "*.r.io", "*.y.r.io", "z.y.r.io/a"}
    found = ours(known, registry, repository)
    assert found == {"r.io/library/app": "r.io/library/app/deep", "z.y.r.io": "z.y.r.io/a"}.get(
        expected or "", expected
    )


def test_the_hosts_from_the_name_itself_to_ever_wider_wildcards() -> None:
    assert list(patterns.covering("a.b.io:5000")) == ["a.b.io:5000", "*.b.io:5000", "*.io:5000"]
    assert list(patterns.covering("localhost")) == ["localhost"]
    # A wildcard over an address would be a wildcard over whatever ends like it.
    assert list(patterns.covering("[fe80::1.2.3.4]")) == ["[fe80::1.2.3.4]"]
