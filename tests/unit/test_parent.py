"""What the proxy's own environment says of a parent proxy."""

from __future__ import annotations

import base64
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.parent import Parent, ParentError, Parents, authority


def only(value: str, variable: str = "HTTPS_PROXY") -> Parent:
    parent = Parents.from_environment({variable: value}).way("https", "registry.example", 443)
    assert parent
    return parent


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("http://proxy.corp:3128", "proxy.corp", 3128),
        ("http://proxy.corp:3128/", "proxy.corp", 3128),
        ("HTTP://Proxy.Corp.", "proxy.corp", 80),
        ("proxy", "proxy", 80),
        ("proxy:8080", "proxy", 8080),
        ("10.0.0.1:3128", "10.0.0.1", 3128),
        ("http://[fd00::1]:3128", "fd00::1", 3128),
        ("http://ann:secret@proxy.corp:3128", "proxy.corp", 3128),
        ("ann:secret@proxy.corp:3128", "proxy.corp", 3128),
    ],
)
def test_where_it_is(value: str, host: str, port: int) -> None:
    parent = only(value)
    assert (parent.host, parent.port) == (host, port)


WORD = st.text(st.characters(codec="utf-8", min_codepoint=0xA0) | st.sampled_from(string.printable[:95]))
NAME = WORD.map(lambda word: word.replace(":", "")).filter(bool)


@given(NAME, WORD)
def test_the_login_is_decoded_and_told_to_nobody(user: str, password: str) -> None:
    parent = only(f"http://{quote(user, safe='')}:{quote(password, safe='')}@proxy.corp:3128")
    assert parent.authorization
    scheme, _, encoded = parent.authorization.partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(encoded).decode() == f"{user}:{password}"
    assert parent.headers == (("Proxy-Authorization", parent.authorization),)
    for told in str(parent), repr(parent), parent.refusal(407, "No"), *Parents({"https": parent}).told:
        assert encoded not in told
    assert only("http://proxy.corp").headers == ()
    assert repr(only(f"http://proxy.corp:{3128}")) == repr(only(f"http://{quote(user, safe='')}@proxy.corp:3128"))


S3CRET = "s3cret"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"socks5://ann:{S3CRET}@proxy.corp:1080", "SOCKS"),
        (f"socks5h://ann:{S3CRET}@proxy.corp:1080", "SOCKS"),
        (f"https://ann:{S3CRET}@proxy.corp:3128", "over TLS"),
        (f"ftp://ann:{S3CRET}@proxy.corp:3128", "is not http://"),
        (f"http://ann:{S3CRET}/x@proxy.corp:3128", "as %XX"),
        (f"http://ann:{S3CRET}#x@proxy.corp:3128", "as %XX"),
        (f"http://ann:{S3CRET}@x@proxy.corp:3128", "as %XX"),
        (f"http://a%3Ann:{S3CRET}@proxy.corp:3128", "as %XX"),
        (f"http://ann:{S3CRET}%0A@proxy.corp:3128", "as %XX"),
        (f"http://ann:{S3CRET}@proxy.corp:0", "HOST[:PORT]"),
        (f"http://ann:{S3CRET}@proxy.corp:99999", "HOST[:PORT]"),
        (f"http://ann:{S3CRET}@proxy.corp:port", "HOST[:PORT]"),
        (f"http://ann:{S3CRET}@proxy.corp/path", "HOST[:PORT]"),
        (f"http://ann:{S3CRET}@[::::1]:80", "HOST[:PORT]"),
        (f"http://ann:{S3CRET}@", "HOST[:PORT]"),
        ("http://", "HOST[:PORT]"),
        ("http://proxy corp", "HOST[:PORT]"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_what_is_wrong_is_said_without_the_password(value: str, said: str, variable: str) -> None:
    with pytest.raises(ParentError) as error:
        Parents.from_environment({variable: value})
    assert str(error.value).startswith(f"{variable}: ")
    assert said in str(error.value)
    assert S3CRET not in str(error.value)


@given(st.text(string.printable + "é[]@:/%", min_size=1))
def test_anything_else_is_a_parent_or_an_error(value: str) -> None:
    try:
        parents = Parents.from_environment({"HTTPS_PROXY": value})
    except ParentError:
        pass
    else:
        (parent,) = parents.all
        assert parent.host
        assert 0 < parent.port < 65536


@pytest.mark.parametrize(
    ("environment", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "a", "HTTP_PROXY": "b"}, "a", "b"),
        ({"https_proxy": "a", "http_proxy": "b"}, "a", "b"),
        ({"HTTPS_PROXY": "a", "https_proxy": "b"}, "a", None),
        ({"HTTPS_PROXY": "", "https_proxy": "b"}, "b", None),
        ({"HTTPS_PROXY": "a"}, "a", None),
        ({"HTTP_PROXY": "b"}, None, "b"),
        ({"ALL_PROXY": "c"}, "c", "c"),
        ({"all_proxy": "c", "HTTP_PROXY": "b"}, "c", "b"),
        # What is not used need not be of use.
        ({"ALL_PROXY": "socks5://c", "HTTPS_PROXY": "a", "HTTP_PROXY": "b"}, "a", "b"),
        ({"HTTPS_PROXY": "a", "HTTP_PROXY": "b", "NO_PROXY": "registry.example"}, None, None),
        ({"HTTPS_PROXY": "a", "HTTP_PROXY": "b", "no_proxy": "registry.example:80"}, "a", None),
        ({"HTTPS_PROXY": "a", "NO_PROXY": "x", "no_proxy": "registry.example"}, "a", None),
    ],
)
def test_which_variable_counts(environment: dict[str, str], https: str | None, http: str | None) -> None:
    parents = Parents.from_environment(environment)
    found = [parents.way("https", "registry.example", 443), parents.way("http", "registry.example", 80)]
    assert [parent and parent.host for parent in found] == [https, http]


def test_what_people_are_told() -> None:
    url = "http://ann:s3cret@proxy.corp:3128"
    assert Parents().told == []
    (both,) = Parents.from_environment({"HTTPS_PROXY": url, "http_proxy": url}).told
    assert both == "everything upstream goes through proxy.corp:3128 ($HTTPS_PROXY), except what NO_PROXY names"
    one = Parents.from_environment({"HTTPS_PROXY": url, "NO_PROXY": "a.corp,10.*"}).told
    assert one == [
        "https upstream goes through proxy.corp:3128 ($HTTPS_PROXY)",
        "http upstream goes directly",
        "WARNING NO_PROXY: '10.*' names no host and is ignored",
    ]


def test_a_refusal_says_what_to_do() -> None:
    assert only("http://proxy.corp").refusal(407, "No\r\n") == (
        "the parent proxy proxy.corp:80 ($HTTPS_PROXY) answered 407 No: it wants USER:PASSWORD@ before HOST"
    )
    assert only("http://a:b@proxy.corp").refusal(407, "").endswith(": it does not take this user and password")
    assert only("http://proxy.corp").refusal(403, "Denied").endswith("answered 403 Denied")


def test_what_a_connect_asks_for() -> None:
    assert authority("Registry.Example.", 443) == "registry.example:443"
    assert authority("::1", 5000) == "[::1]:5000"
    assert authority("bücher.example", 443) == "xn--bcher-kva.example:443"
