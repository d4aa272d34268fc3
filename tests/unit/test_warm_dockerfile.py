"""The images that Dockerfiles name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.warming.platforms import Platform
from addon.warming.sources.dockerfile import parse
from addon.warming.sources.mentions import Mention, Unusable

if TYPE_CHECKING:
    from collections.abc import Sequence

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def images(text: str, targets: Sequence[Platform] | None = None) -> list[Mention]:
    return parse(text, {}, AMD64, targets).images


def names(text: str, **arguments: str) -> list[str]:
    return [each.image for each in parse(text, arguments, AMD64).images]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM alpine", ["alpine"]),
        ("\ufefffrom alpine:3.20 as base\r\nRUN x\r\n", ["alpine:3.20"]),
        ("FROM golang AS build\nFROM scratch\nCOPY --from=build /a /a", ["golang"]),
        ("FROM golang AS Build\nFROM BUILD\nFROM other", ["golang", "other"]),
        ("FROM a\nFROM a\nFROM b", ["a", "a", "b"]),
        ('FROM "alpine:3"', ["alpine:3"]),
        ("FROM a\nCOPY --from=nginx:1 --chown=1:1 /x /y", ["a", "nginx:1"]),
        ("FROM a\nCOPY --chmod=1 --link --from=nginx /x /y", ["a", "nginx"]),
        ("FROM a\nCOPY --from=0 /x /y\nCOPY x --from=no /y", ["a"]),
        ("FROM a\nRUN --mount=type=bind,from=tools:1,target=/t --network=none make", ["a", "tools:1"]),
        ("FROM a\nRUN --mount=type=cache,target=/t --mount=from=two,source=/x make", ["a", "two"]),
        ("FROM a AS b\nRUN --mount=from=b,target=/t --mount=type=secret,id=x make", ["a"]),
        ("FROM a\nRUN echo --mount=from=no", ["a"]),
        ("FROM \\\n  a \\\n  # in between\n\n AS b\nFROM c", ["a", "c"]),
        ("# escape=`\nFROM `\na\nRUN dir c:\\\nFROM b", ["a", "b"]),
        ("FROM a\nRUN x \\\n # FROM b\n  y\nFROM c", ["a", "c"]),
        ("FROM a\nRUN echo \\\nFROM b", ["a"]),
        ("FROM a\nRUN <<EOF\nFROM no\nEOF\nFROM b", ["a", "b"]),
        ("FROM a\nRUN <<-EOF cat && <<'TWO' cat\n\tFROM no\n\tEOF\nFROM no\nTWO\nFROM b", ["a", "b"]),
        ('FROM a\nCOPY <<"E.F" /x\nFROM no\nE.F\nFROM b', ["a", "b"]),
        ("FROM a\nONBUILD RUN <<EOF\nFROM no\nEOF\nFROM b", ["a", "b"]),
        ("FROM a\nRUN echo $((1<<2)) && cat <<<EOF\nFROM b", ["a", "b"]),
        ("FROM a\nENV X=<<EOF\nFROM b", ["a", "b"]),
        ("FROM a\nARG V\nRUN echo $V", ["a"]),
    ],
)
def test_images(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARG V=3.20\nFROM alpine:$V", "alpine:3.20"),
        ("ARG V\nFROM alpine:${V:-3.19}", "alpine:3.19"),
        ("ARG V\nFROM alpine${V:+:$V}", "alpine"),
        ("ARG A=1 B=2\nFROM x:$A.$B", "x:1.2"),
        ("ARG A=1\nARG B=$A.2\nFROM x:$B", "x:1.2"),
        ("ARG A=\"1\"\nARG B='2'\nFROM x:$A.$B", "x:1.2"),
        ("ARG GIVEN=1\nFROM x:$GIVEN", "x:given"),
        ("ARG GIVEN\nFROM $GIVEN", "given"),
        ("ARG A=$GIVEN\nARG GIVEN\nFROM x:${A:-none}", "x:none"),
        ("FROM x-$TARGETARCH-$TARGETOS", "x-amd64-linux"),
        ("ARG TARGETARCH\nFROM x-$TARGETARCH", "x-amd64"),
        ("FROM x:a$TARGETVARIANT", "x:a"),
        ("ARG A=b\nFROM x:\\$A", "x:$A"),
    ],
)
def test_arguments(text: str, expected: str) -> None:
    assert names(text, GIVEN="given") == [expected]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("ARG V\n\nFROM a:$V", 3, "FROM a:$V: $V has no value: say it with --build-arg V=..., or give ARG V a default"),
        ("FROM a:${V}", 1, "$V has no value: no ARG V stands before the first FROM"),
        ("FROM a\nARG V=1\nFROM b:$V", 3, "no ARG V stands before the first FROM"),
        ("ARG V\nARG W=$V\nFROM a:$W", 3, "$V has no value: say it with --build-arg V=..."),
        ("ARG V\nFROM a:${V:?needed}", 2, "$V has no value: needed"),
        ("ARG V=1\nFROM a:${V#x}", 2, "is followed by what is not understood"),
        ('ARG V="1\nFROM a', 1, "ARG: No closing quotation"),
        ("FROM a\nFROM a b", 2, "FROM is followed by an image, or by IMAGE AS NAME"),
        ("FROM", 1, "FROM is followed by"),
        ("FROM --platform=$P a", 1, "$P has no value"),
        ("FROM --platform=a/b/c/d a", 1, "FROM --platform: 'a/b/c/d' is not a platform"),
        ("FROM a\nCOPY --from=$V /x /y", 2, "COPY: from=$V: a builder puts no variables in there"),
        ("FROM a\nRUN --mount=from=x:$V make", 2, "RUN: from=x:$V: a builder puts no variables"),
        ("FROM a\nRUN <<EOF\nx\n", 2, "the document that begins with <<EOF does not end"),
        ("# escape=x\nFROM a", 1, "escape='x' is none"),
        ("", 0, "there is no FROM"),
        ("# only this\n\nARG A=1", 0, "there is no FROM"),
        ("FROM a\n{}", 2, "'{}' is no instruction"),
    ],
)
def test_what_cannot_be_used(text: str, line: int, told: str) -> None:
    with pytest.raises(Unusable) as caught:
        images(text)
    assert caught.value.line == line
    assert told in str(caught.value)


def test_lines_are_told() -> None:
    text = "# syntax=docker/dockerfile:1\n\nFROM \\\n a\nRUN <<X\nX\nCOPY --from=b /x /y"
    assert [(each.image, each.line) for each in images(text)] == [("docker/dockerfile:1", 1), ("a", 3), ("b", 7)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# syntax=docker/dockerfile:1\nFROM a", ["docker/dockerfile:1", "a"]),
        ("#!/usr/bin/env x\n#Syntax = front:2 x\nFROM a", ["front:2", "a"]),
        ("# escape=\\\n# syntax=f\nFROM a", ["f", "a"]),
        ("# a comment\n# syntax=no\nFROM a", ["a"]),
        ("\n# syntax=no\nFROM a", ["a"]),
        ("FROM a\n# syntax=no", ["a"]),
    ],
)
def test_the_frontend_is_an_image_too(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_another_frontend_by_argument() -> None:
    assert names("# syntax=a\nFROM b", BUILDKIT_SYNTAX="c") == ["c", "b"]
    assert names("FROM b", BUILDKIT_SYNTAX="c") == ["c", "b"]


def test_platforms_of_stages() -> None:
    text = """# syntax=f
FROM --platform=$BUILDPLATFORM golang AS build
FROM --platform=linux/s390x alpine
FROM --platform=$TARGETPLATFORM debian
FROM busybox
COPY --from=tools /x /y
"""
    s390x = Platform("linux", "s390x")
    assert [(each.image, each.platform) for each in images(text, [ARM64])] == [
        ("f", AMD64),
        ("golang", AMD64),
        ("alpine", s390x),
        ("debian", ARM64),
        ("busybox", ARM64),
        ("tools", ARM64),
    ]


def test_images_that_differ_by_platform() -> None:
    found = images("FROM x-$TARGETARCH\nFROM same", [AMD64, ARM64])
    assert [(each.image, each.platform) for each in found] == [
        ("x-amd64", AMD64),
        ("same", AMD64),
        ("x-arm64", ARM64),
        ("same", ARM64),
    ]


def test_for_whatever_platforms_are_asked_for() -> None:
    assert [each.platform for each in images("FROM a\nFROM --platform=linux/arm64 b")] == [None, ARM64]


@given(st.text(alphabet="FROMARGCPY a=$\\\n<#\"'-{}:") | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = images(text)
    except Unusable:
        return
    assert all(1 <= each.line <= len(text.splitlines()) for each in found)


NAME = st.sampled_from(["alpine", "alpine:3.20", "ghcr.io/o/r:1", "localhost:5000/x"])


@given(
    st.lists(NAME, min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n# FROM no\n", "\nRUN <<E\nFROM n\nE\n"]),
)
def test_all_stages_are_found(stages: list[str], between: str) -> None:
    assert names("".join(f"FROM {name}{between}" for name in stages)) == stages
