"""Variables in Dockerfiles and compose files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.warming.sources.expansion import Unexpandable, Unset, expand

VALUES = {"A": "a", "LONG_1": "long", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine:3.20", "alpine:3.20"),
        ("$A", "a"),
        ("$A-$LONG_1.x", "a-long.x"),
        ("${A}b", "ab"),
        ("${A:-x}", "a"),
        ("${NONE:-x}", "x"),
        ("${NONE-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${EMPTY}|$EMPTY", "|"),
        ("${A:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NONE:+x}", ""),
        ("${NONE:-${OTHER:-$A}}", "a"),
        ("${A:-${NONE}}", "a"),
        ("${NONE:+${OTHER}}", ""),
        ("${NONE:-a:b/c-d}", "a:b/c-d"),
        ("${NONE:-}", ""),
        ("${A:?needed}", "a"),
        ("a$", "a$"),
        ("$1", "$1"),
        ("a}", "a}"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, VALUES.get) == expected


@pytest.mark.parametrize(
    ("text", "name", "demand"),
    [
        ("$NONE", "NONE", ""),
        ("x${NONE}", "NONE", ""),
        ("${OTHER:-$NONE}", "NONE", ""),
        ("${A:+$NONE}", "NONE", ""),
        ("${NONE:?say it}", "NONE", "say it"),
        ("${EMPTY:?say it}", "EMPTY", "say it"),
        ("${NONE?}", "NONE", ""),
    ],
)
def test_what_has_no_value(text: str, name: str, demand: str) -> None:
    with pytest.raises(Unset) as caught:
        expand(text, VALUES.get)
    assert (caught.value.name, caught.value.demand) == (name, demand)


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${A:}", "${A:-", "${A#x}", "${1}", "${A:-${B:-x}", "${a" * 20])
def test_what_is_no_variable(text: str) -> None:
    with pytest.raises(Unexpandable):
        expand(text, VALUES.get)


def test_variables_within_each_other_without_an_end() -> None:
    with pytest.raises(Unexpandable, match="nested too deeply"):
        expand("${N:-" * 10_000 + "}" * 10_000, VALUES.get)


def test_what_stands_for_a_dollar() -> None:
    assert expand(r"\$A\\\x", VALUES.get, escape="\\") == r"$A\x"
    assert expand("`$A$A", VALUES.get, escape="`") == "$Aa"
    assert expand("$$A$A$$", VALUES.get, doubled=True) == "$Aa$"
    assert expand(r"\$A", VALUES.get, doubled=True) == r"\a"


@given(st.text(alphabet="$A{}:-+?\\ x") | st.text(), st.booleans())
def test_any_text_is_expanded_or_refused(text: str, doubled: bool) -> None:
    try:
        found = expand(text, VALUES.get, doubled=doubled)
    except (Unset, Unexpandable):
        return
    if "$" not in text:
        assert found == text
