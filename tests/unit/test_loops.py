"""What Via says of who has passed a request on (RFC 9110, 7.6.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.config.model import Rule
from addon.fingerprints import Fingerprints
from addon.loops import Via, hops, passed_on
from addon.oci import OciError
from addon.reply import Request

VIA = Via(Fingerprints(b"tests"))
OWN = VIA.header[1]
TOKEN = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
HOST = TOKEN | st.just("[::1]")
HOP = st.tuples(
    st.builds("{}{}".format, st.sampled_from(["", "HTTP/", "x/"]), TOKEN),
    st.builds("{}{}".format, HOST, st.sampled_from(["", ":", ":8080"])),
)
# Whatever may be in a comment, pairs of brackets included.
COMMENT = st.recursive(
    st.text("ab ,/1.\"'", max_size=8) | st.sampled_from([r"\(", r"\)", r"\\", f"a, {OWN}"]),
    lambda inner: st.builds("({})".format, inner) | st.builds("{}{}".format, inner, inner),
    max_leaves=6,
).map("({})".format)


def request(*values: str) -> Request:
    return Request(Rule("registry.test", ()), "GET", "/v2/", tuple(("via", value) for value in values))


@given(st.text() | st.text("(),\\ 1.a/"))
def test_nothing_raises(value: str) -> None:
    for protocol, by in hops(value):
        assert protocol in value
        assert by in value
    VIA.refuse_own(request(value.replace(VIA.header[1].split()[1], "")))


@given(st.lists(st.tuples(HOP, st.none() | COMMENT, st.sampled_from([" ", "\t", "  "]))))
def test_what_the_grammar_allows_is_understood(members: list[tuple[tuple[str, str], str | None, str]]) -> None:
    text = f"{','.join(f'{p}{space}{by}{space + comment if comment else ""} ' for (p, by), comment, space in members)}"
    assert hops(text) == [hop for hop, _, _ in members]
    again = passed_on(request(text))
    assert [hop for _, value in again for hop in hops(value)] == hops(text)


@pytest.mark.parametrize(
    "values",
    [
        [OWN],
        [f"1.0 fred, {OWN}"],
        [f"{OWN}, 1.0 fred"],
        ["1.0 fred", f"HTTP/{OWN} (somebody, somewhere)"],
        [f"1.0 fred (a \\) (b, c) \\( d), {OWN.upper()}"],
        [f"nonsense, , (, 1.1 x), {OWN}"],
    ],
)
def test_the_own_mark_is_found(values: list[str]) -> None:
    with pytest.raises(OciError, match="has come back to the proxy that sent it") as refusal:
        VIA.refuse_own(request(*values))
    assert refusal.value.status == 508


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["1.1 mirrortap"],
        [f"1.0 fred (by {OWN}, {OWN})"],
        [f"{OWN}x"],
        [OWN.split()[1]],
        [f"1.0 fred ({OWN}, {OWN}"],
    ],
)
def test_others_are_let_through(values: list[str]) -> None:
    VIA.refuse_own(request(*values))


def test_what_makes_no_sense_is_not_passed_on() -> None:
    found = passed_on(request("1.0 fred (x), \udcff, 1.1", "a b c, HTTP/1.1 p.example.net:80", "\r\nX: y"))
    assert found == [("Via", "1.0 fred, HTTP/1.1 p.example.net:80")]
    assert passed_on(request("\udcff")) == []
