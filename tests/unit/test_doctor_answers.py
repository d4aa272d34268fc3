"""What answers mean that a builder gets through the door."""

from __future__ import annotations

import json
from http.client import HTTPMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addon.cache.reference import Reference
from addon.doctor.answers import connected, found, problem, refused
from addon.doctor.door import Answer
from addon.doctor.registry import given as token_given

IMAGE = Reference.parse("docker.io/library/app:1")
URL = "http://proxy.test:3128"


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    message = HTTPMessage()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return Answer(status, "Reason", message, body)


def error(status: int, message: str, *attempts: tuple[str, str], **headers: str) -> Answer:
    detail = [{"endpoint": endpoint, "reason": reason} for endpoint, reason in attempts]
    told = {"code": "UNAVAILABLE", "message": message, **({"detail": detail} if detail else {})}
    return answer(status, json.dumps({"errors": [told]}).encode(), **headers)


@pytest.mark.parametrize(
    ("status", "text", "code", "remedy"),
    [
        (407, "mirrortap wants a login: set", "proxy-login", "HTTPS_PROXY=http://USER:PASSWORD@proxy.test:3128"),
        (407, "mirrortap does not know this user", "proxy-login", "special characters as %XX"),
        (429, "mirrortap got too many wrong logins", "proxy-login", "Wait 60 s"),
        (403, "it is not among the hosts of tunnel", "refused", "docs/exposure.md"),
        (502, "cannot connect to x: unknown", "not-through", "its environment and its DNS"),
        (504, "mirrortap is offline", "offline", "without --offline"),
        (508, "comes back to it", "not-through", "environment"),
        (400, "this port is a registry mirror, not a proxy", "not-through", "--listen"),
    ],
)
def test_refused_tunnels(status: int, text: str, code: str, remedy: str) -> None:
    finding = connected(answer(status, text.encode()), "docker.io:443", URL)
    assert (finding.verdict, finding.code) == ("failed", code)
    assert remedy in finding.remedy
    if status != 407:
        assert text in finding.what


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ('mirrortap; fwd=miss; detail="mirror.test"', "miss, from mirror.test"),
        ('mirrortap; fwd=miss; collapsed; detail="mirror.test"', "miss, from mirror.test"),
        ("mirrortap; hit", "Cache-Status: hit)"),
        ("mirrortap; hit; ttl=-9; detail=stale", "hit, stale"),
    ],
)
def test_where_a_tag_comes_from(status: str, expected: str) -> None:
    assert expected in found(answer(200, Cache_Status=status), IMAGE).what
    assert "not said" in found(answer(200), IMAGE).what


@pytest.mark.parametrize(
    ("told", "user", "code", "remedy"),
    [
        (error(401, "log in"), None, "login", "docker login docker.io"),
        (error(401, "no"), "alice", "denied", "docker login docker.io"),
        (error(403, "denied"), "alice", "denied", "Have alice let in"),
        (error(403, "library is blocked here"), None, "denied", "names the setting"),
        (error(403, "refused", ("m.test", "HTTP 401")), "alice", "denied", "m.test: give the proxy a login"),
        (error(404, "is at no endpoint"), None, "unknown-image", "mirrortap doctor IMAGE"),
        (error(429, "HTTP 429 (0 of 100 requests left)", Retry_After="9"), None, "quota", "docker login docker.io"),
        (error(502, "no", ("a.test:5000", "DNS: a.test is not known")), None, "dns", "getent hosts a.test"),
        (
            error(502, "no", ("a.test", "DNS: no"), ("b.test", "Connection refused")),
            None,
            "mirror-down",
            "b.test: start",
        ),
        (error(502, "no", ("a.test", "TLS: self-signed certificate")), None, "mirror-down", "name its CA"),
        (error(504, "mirrortap is offline"), None, "offline", "without --offline"),
        (error(500, "what"), None, "registry", "config check"),
        (answer(502, b"<html>"), None, "registry", "config check"),
    ],
)
def test_refused_images(told: Answer, user: str | None, code: str, remedy: str) -> None:
    finding = refused(told, IMAGE, user)
    assert (finding.verdict, finding.code) == ("failed", code)
    assert remedy in finding.remedy


def test_every_endpoint_is_named_with_its_reason() -> None:
    told = error(502, "no endpoint", ("a.test", "HTTP 503"), ("b.test", "Connection refused"))
    assert problem(told).attempts == (("a.test", "HTTP 503"), ("b.test", "Connection refused"))
    assert "a.test: HTTP 503; b.test: Connection refused" in refused(told, IMAGE, None).what


@given(st.binary(), st.integers(100, 599), st.none() | st.just("alice"))
def test_any_answer_is_judged(body: bytes, status: int, user: str | None) -> None:
    """Whatever it is, it can be shown on a terminal."""
    finding = refused(answer(status, body), IMAGE, user)
    assert finding.remedy
    assert finding.what.isprintable()


_words = st.sampled_from(["errors", "message", "detail", "endpoint", "reason", "token"])
_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_words, inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=50)
@given(_json)
def test_any_json_is_judged(value: object) -> None:
    told = answer(502, json.dumps(value).encode())
    assert refused(told, IMAGE, None).what.isprintable()
    token = token_given(told)
    assert token is None or token.isascii()
