"""Challenges as registries really send them, and ones that nobody should send."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.upstream.challenge import Bearer, bearer

if TYPE_CHECKING:
    import random

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (HUB, Bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull")),
        (
            HUB + ',error="insufficient_scope"',
            Bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull"),
        ),
        (
            'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"',
            Bearer("https://ghcr.io/token", "ghcr.io", "repository:user/image:pull"),
        ),
        (
            'Bearer realm="https://quay.io/v2/auth",service="quay.io"',
            Bearer("https://quay.io/v2/auth", "quay.io", None),
        ),
        (
            'Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="repository:g/p:pull"'
            ',error="invalid_token"',
            Bearer("https://gitlab.com/jwt/auth", "container_registry", "repository:g/p:pull"),
        ),
        (
            'Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"',
            Bearer("https://public.ecr.aws/token/", "public.ecr.aws", "aws"),
        ),
        (
            'Bearer realm="https://x/token",service="x",scope="repository:a:pull,push repository:b:pull"',
            Bearer("https://x/token", "x", "repository:a:pull,push repository:b:pull"),
        ),
        (r'Bearer realm="https://x/t",service="a \"b\" \\ c"', Bearer("https://x/t", r'a "b" \ c', None)),
        ("bearer realm=https://x/token,service=x", Bearer("https://x/token", "x", None)),
        ('BEARER  Realm = "https://x/t" , SERVICE = x', Bearer("https://x/t", "x", None)),
        ('Bearer realm="https://x/t",service=""', Bearer("https://x/t", "", None)),
        # Several challenges in one header (RFC 9110, 11.6.1).
        ('Basic realm="https://x/", Bearer realm="https://x/t",service="x"', Bearer("https://x/t", "x", None)),
        ('Bearer realm="https://x/t", service="x", Basic realm="https://y/"', Bearer("https://x/t", "x", None)),
        ('Negotiate, Bearer realm="https://x/t"', Bearer("https://x/t", None, None)),
        # ECR
        ('Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"', None),
        ('Basic realm="Bearer realm=x"', None),
        ("Bearer", None),
        ("Bearer ", None),
        ('Bearer service="x"', None),
        ('Bearer realm=""', None),
        ('Bearer realm="unfinished', None),
        ("Bearer token68==", None),
        ('NotBearer realm="https://x/t"', None),
        ("", None),
    ],
)
def test_one_header(header: str, expected: Bearer | None) -> None:
    assert bearer([header]) == expected


def test_several_headers() -> None:
    assert bearer([]) is None
    assert bearer(['Basic realm="x"', HUB]) == bearer([HUB])
    assert bearer(['Bearer error="no realm"', HUB]) == bearer([HUB])
    assert bearer(['Bearer realm="https://first/"', HUB]) == Bearer("https://first/", None, None)


def test_a_challenge_inside_a_quoted_string_is_none() -> None:
    assert bearer(['Basic realm="log in, Bearer realm=https://evil/t"']) is None


@pytest.mark.parametrize("other", ['x-request-id="1"', "p2=1", "max_age.s=1"])
def test_other_parameters_have_any_token_for_a_name(other: str) -> None:
    assert bearer([f'Bearer {other},realm="https://x/t"']) == Bearer("https://x/t", None, None)


values = st.text(st.characters(min_codepoint=32, max_codepoint=126))


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(realm=values.filter(bool), service=st.none() | values, scope=st.none() | values, order=st.randoms())
def test_any_quoted_value_comes_back(realm: str, service: str | None, scope: str | None, order: random.Random) -> None:
    named = [("realm", realm), ("service", service), ("scope", scope)]
    parts = [f"{name}={quoted(value)}" for name, value in named if value is not None]
    order.shuffle(parts)
    assert bearer([f"Bearer {', '.join(parts)}"]) == Bearer(realm, service, scope)


pieces = st.sampled_from(["Bearer ", "Basic ", "realm", "scope", "=", '"', "\\", ",", " ", "\n", "x"]) | st.text(
    max_size=4
)


@given(st.lists(st.lists(pieces).map("".join), max_size=3))
def test_nothing_is_ever_raised(headers: list[str]) -> None:
    found = bearer(headers)
    assert found is None or found.realm


@pytest.mark.parametrize(
    "header",
    [
        "Bearer a=b" + " " * 60_000 + "!",
        "Bearer " + "a " * 30_000 + "!",
        "a b" + " " * 30_000 + "! a b" + " " * 30_000 + "!",
        "a=" * 30_000,
        "," + " " * 60_000 + "!",
        ", " * 30_000 + "!",
        "Bearer " + "a" * 60_000,
        "Bearer " + "a=b," * 15_000,
        'Bearer a="' + "\\" * 60_000,
        'Bearer a="' + '\\"' * 30_000,
        "Bearer " * 9_000,
    ],
    ids=lambda header: header[:12],
)
def test_a_hostile_header_takes_no_time(header: str) -> None:
    """Any endpoint, and any host it redirects to, may send 64 kB; meanwhile every transfer would stand still."""
    start = time.thread_time()
    bearer([header])
    # Of linear time it takes 0.06 s at most, when nothing else is in the way; of quadratic time, much longer than this.
    assert time.thread_time() - start < 2
