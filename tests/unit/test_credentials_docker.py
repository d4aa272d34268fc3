"""What Docker's config.json and its helpers say, and that nothing of a secret is in a complaint about them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.helper import jwt

from addon.config.docker_config import Helper, find
from addon.config.login import IdentityToken, Login, Password, RegistryToken
from addon.upstream import helpers
from addon.upstream.helpers import HelperError, understand

HUB = "https://index.docker.io/v1/"
SECRET = "s3cret-Value"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ENTRY = {"auth": encoded(f"u:{SECRET}")}
LOGIN = Password("u", SECRET)


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        (ENTRY, LOGIN),
        ({"auth": encoded("u:p:q")}, Password("u", "p:q")),
        ({"auth": encoded("u:p\0\0")}, Password("u", "p")),
        ({"auth": encoded("u:pässword")}, Password("u", "pässword")),
        ({"username": "u", "password": "p"}, Password("u", "p")),
        ({"auth": encoded("u:p"), "username": "other", "password": "other"}, Password("u", "p")),
        ({"auth": encoded("00000000-0000:"), "identitytoken": "i"}, IdentityToken("i")),
        ({"identitytoken": "i", "registrytoken": "r", "auth": encoded("u:p")}, RegistryToken("r")),
        ({"auth": "", "email": "a@b"}, None),
        ({}, None),
    ],
)
def test_the_kinds_of_entries(entry: Any, login: Login | None) -> None:
    assert find({"auths": {"m.io": entry}}, "m.io") == login


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("m.io", "m.io"),
        ("https://m.io", "m.io"),
        ("https://m.io/v1/", "m.io"),
        ("http://m.io:5000/v2/", "m.io:5000"),
        ("M.io:443", "m.io"),
        (HUB, "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_the_keys_of_a_registry(key: str, registry: str) -> None:
    assert find({"auths": {"other.io": {"auth": "?"}, key: ENTRY}}, registry) == LOGIN
    assert find({"credHelpers": {key: "x"}}, registry) == Helper(
        "docker-credential-x", HUB if registry == "docker.io" else registry
    )


@pytest.mark.parametrize(
    "key", ["m.io:5000", "sub.m.io", "m.io.evil.io", "m.io/team", "https://m.io/team/", "docker.io"]
)
def test_the_keys_of_others(key: str) -> None:
    assert find({"auths": {key: ENTRY}, "credHelpers": {key: "x"}}, "m.io") is None


def test_the_plainest_key_wins() -> None:
    other = {"auth": encoded("other:other")}
    assert find({"auths": {"https://m.io": other, "m.io": ENTRY}}, "m.io") == LOGIN
    assert find({"auths": {"docker.io": other, HUB: ENTRY}}, "docker.io") == LOGIN


def test_a_helper_of_the_registry_then_the_store_then_the_file() -> None:
    document = {"credHelpers": {"m.io": "its-own"}, "credsStore": "the.store", "auths": {"m.io": ENTRY}}
    assert find(document, "m.io") == Helper("docker-credential-its-own", "m.io")
    document["credHelpers"] = {"m.io": ""}
    assert find(document, "m.io") == Helper("docker-credential-the.store", "m.io")
    document["credsStore"] = ""
    assert find(document, "m.io") == LOGIN


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "not a JSON object"),
        ({"auths": [1]}, "auths is not an object"),
        ({"auths": {"m.io": SECRET}}, "m.io in auths is not an object"),
        ({"auths": {"m.io": {"auth": [SECRET]}}}, "auth is not a string"),
        ({"auths": {"m.io": {"auth": f"u:{SECRET}"}}}, "not the base64"),
        ({"auths": {"m.io": {"auth": encoded(SECRET)}}}, "not the base64 of username:password"),
        ({"auths": {"m.io": {"password": SECRET}}}, "empty"),
        ({"auths": {"m.io": {"identitytoken": f"{SECRET} "}}}, "spaces"),
        ({"auths": {"m.io": {"registrytoken": f"{SECRET}\r\nX-More: 1"}}}, "line breaks"),
        ({"credsStore": "../bin/sh"}, "not the name of a credential helper"),
        ({"credHelpers": {"m.io": ["x"]}}, "not the name of a credential helper"),
    ],
)
def test_what_makes_no_sense(document: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        find(document, "m.io")
    assert SECRET not in str(raised.value)


ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner))
ENTRIES = st.dictionaries(st.sampled_from(["auth", "username", "password", "identitytoken", "registrytoken"]), ANYTHING)
TABLES = st.dictionaries(st.sampled_from(["m.io", "https://m.io/v1/", "://", "n.io"]), ANYTHING | ENTRIES) | ANYTHING


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["auths", "credHelpers", "credsStore"]), TABLES) | ANYTHING)
def test_whatever_there_is_is_a_login_a_helper_none_or_an_error(document: Any) -> None:
    try:
        found = find(document, "m.io")
    except ValueError:
        return
    assert found is None or isinstance(found, Login | Helper)


def answer(username: Any, secret: Any) -> bytes:
    return json.dumps({"ServerURL": "m.io", "Username": username, "Secret": secret}).encode()


def test_what_helpers_answer() -> None:
    assert understand(answer("AWS", SECRET)) == Password("AWS", SECRET)
    assert understand(answer("<token>", SECRET)) == IdentityToken(SECRET)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (b"", "not JSON"),
        (SECRET.encode(), "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["%s"]' % SECRET.encode(), "without Username and Secret"),
        (answer(None, SECRET), "without Username and Secret"),
        (answer("u", 5), "without Username and Secret"),
        (answer("", ""), "knows no credential"),
        (answer("", SECRET), "cannot be sent: .* empty"),
        (answer("u", f"{SECRET}\n"), "cannot be sent: .* line break"),
        (answer("<token>", f"{SECRET} "), "cannot be sent: .* spaces"),
    ],
)
def test_what_helpers_must_not_answer(output: bytes, told: str) -> None:
    with pytest.raises(HelperError, match=told) as raised:
        understand(output)
    assert SECRET not in str(raised.value)


def test_secrets_that_say_when_they_end() -> None:
    assert helpers.expiry(Password("u", jwt({"exp": 1700000000}))) == 1700000000
    assert helpers.expiry(IdentityToken(jwt({"exp": 1.5, "sub": "u"}))) == 1.5
    none: list[Any] = [None, "1700000000", [], float("nan"), float("inf"), 10**400]
    for silent in SECRET, "a.b.c", jwt({}), jwt([]), *(jwt({"exp": exp}) for exp in none):
        assert helpers.expiry(Password("u", silent)) is None


def test_a_login_shows_no_secret() -> None:
    for login in Password("u", SECRET), IdentityToken(SECRET), RegistryToken(SECRET):
        assert SECRET not in f"{login} {login!r}"
