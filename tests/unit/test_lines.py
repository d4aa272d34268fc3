"""Lines of keys: of whatever a file says, in whichever way it is written, the line that has it."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.config import as_toml

from addon.config.lines import line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Keys = tuple[str | int, ...]

TEXT = """
title = "no [table]" # nor = this
[registry."docker.io"]
  mirrors = [ # two
    "a.io",
    "b.io", ]
  note = '''
[registry."ghcr.io"]
'''
  "quoted\\u0020key" = {inner.most = 1, list = [{x = 1}, {x = 2}]}
[[registry.prefixes]]
location = "one"
[registry.prefixes.below]
x = 1
[[registry.prefixes]]
location = 1979-05-27 07:32:00
[registry."ghcr.io".auth]
[registry."ghcr.io"]
a.b.c = 1
a.b.d = 2
"""


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("title",), 2),
        (("registry",), 3),
        (("registry", "docker.io"), 3),
        (("registry", "docker.io", "mirrors"), 4),
        (("registry", "docker.io", "mirrors", 0), 5),
        (("registry", "docker.io", "mirrors", 1), 6),
        (("registry", "docker.io", "quoted key", "inner", "most"), 10),
        (("registry", "docker.io", "quoted key", "list", 1, "x"), 10),
        (("registry", "prefixes"), 11),
        (("registry", "prefixes", 0), 11),
        (("registry", "prefixes", 0, "below", "x"), 14),
        (("registry", "prefixes", 1, "location"), 16),
        # The table's own header, not the one below it that comes first.
        (("registry", "ghcr.io"), 18),
        (("registry", "ghcr.io", "auth"), 17),
        (("registry", "ghcr.io", "a", "b", "d"), 20),
        # What is not there is where it would be.
        (("registry", "docker.io", "http"), 3),
        (("registry", "docker.io", "mirrors", 2), 4),
        (("mirrortap", "tag-ttl"), None),
        ((), None),
    ],
)
def test_lines(keys: Keys, expected: int | None, tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_text(TEXT)
    assert tomllib.loads(TEXT)
    assert line(file, keys) == expected
    file.write_text(f"\n{TEXT}")
    assert line(file, keys) == (expected and expected + 1)


def test_no_file(tmp_path: Path) -> None:
    assert line(tmp_path / "absent.toml", ("a",)) is None
    assert line(tmp_path, ("a",)) is None
    assert line(tmp_path / "\0", ("a",)) is None


def test_many_tables(tmp_path: Path) -> None:
    """Beyond the time that a test has, if each were looked for by itself."""
    file = tmp_path / "many.toml"
    file.write_text(
        "".join(f'[host."https://m{i}.test/v2"]\ncapabilities = ["pull", "resolve"]\n' for i in range(10_000))
    )
    lines = [line(file, ("host", f"https://m{i}.test/v2", "capabilities", 1)) for i in range(10_000)]
    assert lines == list(range(2, 20_001, 2))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["a", "b", "a.b", '"', "\\", "#", "["]
)
leaf = st.just(None)  # becomes a text that is nowhere else
trees = st.dictionaries(
    names,
    st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)


def numbered(value: Any, count: Iterator[int]) -> Any:
    match value:
        case dict():
            return {key: numbered(each, count) for key, each in value.items()}
        case list():
            return [numbered(each, count) for each in value]
        case _:
            return f"<{next(count)}>"


def leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(each, (*keys, key))


def written(draw: Any, table: dict[str, Any], header: tuple[str, ...] = ()) -> str:
    """As TOML: each value in one of the ways it may be written, comments between."""
    own, below = "", ""
    for key, value in table.items():
        path = ".".join(map(as_toml, (*header, key)))
        way = draw(st.sampled_from(["inline", "below", "dotted", "lines"]))
        if way == "below" and isinstance(value, dict):
            below += f"# [x]\n[ {path} ]\n{written(draw, value, (*header, key))}"
        elif way == "below" and isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            # What is below one of several tables would need their number.
            below += "".join(f"[[{path}]]\n{plain(each)}" for each in value)
        elif way == "dotted" and isinstance(value, dict) and value:
            own += "".join(f"{as_toml(key)} . {as_toml(k)} = {as_toml(v)}\n" for k, v in value.items())
        elif way == "lines" and isinstance(value, list):
            own += f"{as_toml(key)} = [ # ]\n" + "".join(f"  {as_toml(each)},\n" for each in value) + "]\n"
        else:
            own += f"{as_toml(key)} = {as_toml(value)} # = [\n"
    return own + below


def plain(table: dict[str, Any]) -> str:
    return "".join(f"{as_toml(key)} = {as_toml(value)}\n" for key, value in table.items())


def holds(file: Path, text: str, document: dict[str, Any]) -> None:
    """Each leaf is on the line that is told."""
    file.write_text(text, newline="")
    for keys, value in leaves(document):
        found = line(file, keys)
        assert found is not None, keys
        assert value in text.split("\n")[found - 1], (keys, found, text)


# The file is written anew each time; how long that takes says nothing.
anew = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anew
@given(tree=trees, data=st.data())
def test_whatever_toml_says_is_on_its_line(tmp_path: Path, tree: dict[str, Any], data: st.DataObject) -> None:
    document = numbered(tree, iter(range(1000)))
    text = written(data.draw, document)
    assert tomllib.loads(text) == document
    holds(tmp_path / "file.toml", text, document)


@anew
@given(tree=trees, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_whatever_json_says_is_on_its_line(
    tmp_path: Path, tree: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    document = numbered(tree, iter(range(1000)))
    holds(tmp_path / "file.json", json.dumps(document, indent=indent, ensure_ascii=ascii_only), document)


@anew
@given(
    content=st.text(st.sampled_from("ab=.:,[]{}\"'\\#\n\r u")) | st.binary(),
    keys=st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=4),
    suffix=st.sampled_from(["toml", "json"]),
)
@example(content="]]]}}}", keys=["a"], suffix="json")
def test_any_bytes_have_some_line_or_none(
    tmp_path: Path, content: str | bytes, keys: list[str | int], suffix: str
) -> None:
    file = tmp_path / f"file.{suffix}"
    raw = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(raw)
    found = line(file, keys)
    assert found is None or 1 <= found <= raw.count(b"\n") + 1
