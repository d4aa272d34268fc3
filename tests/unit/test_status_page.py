"""Facts in words, as HTML, as JSON and in a terminal; the lines for builders; the stream of what changes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.facts import DIGEST, NASTY, NOW, answered, empty, example

from addon.counts.facts import OUTCOMES, Counters, EndpointFacts, Facts, Listening, Span
from addon.status import document, terminal, words
from addon.status.events import Events, event
from addon.status.page import chart, render, setup
from addon.status.page.selection import Selection

if TYPE_CHECKING:
    from addon.status.page.setup import Door

DOCS = Path(__file__).resolve().parents[2] / "docs"
REACH = setup.Reach("proxy.corp:3128")
_VOID = {"meta", "link", "input", "img", "br", "line", "rect", "path"}


class Outline(HTMLParser):
    """The elements and the text of a page; fails where one is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(facts: Facts, selection: Selection | None = None, at: setup.Reach = REACH) -> Outline:
    return Outline(render.page(facts, selection or Selection(), at))


# --- the page ---


@pytest.mark.parametrize("facts", [example(), empty(), replace(example(), offline=True)], ids=["full", "empty", "off"])
def test_it_is_sound_whatever_there_is_to_show(facts: Facts) -> None:
    found = page(facts)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pointed = {
        name
        for _, a in found.elements
        for key in ("aria-labelledby", "for", "list")
        for name in (a.get(key) or "").split()
    }
    assert pointed <= set(ids)
    assert {a["href"] for a in found.of("a") if (a["href"] or "").startswith("#")} <= {f"#{name}" for name in ids}
    assert all("scope" in a for a in found.of("th"))
    assert {a["id"] for _, a in found.elements if "data-live" in a} == set(render.SECTIONS)


def test_nothing_is_from_elsewhere_or_inline() -> None:
    found = page(example())
    assert [a["src"] for a in found.of("script")] == ["/status.js"]
    for _, attributes in found.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in "src", "href", "action":
            assert (attributes.get(name) or "/")[0] in "/#"


def test_everything_is_told() -> None:
    text = " ".join(page(example()).text.split())
    for part in (
        "1.2.3",
        "The disk has little room: 1.2 GB are free. Give the cache another disk, or less: max-size.",
        "31.5 MB of 126 MB, 25 % 20.0 MB/s mirror.corp:5000 clients that wait",
        "(private) quay.io, blob",
        "ahead of clients",
        "down connection refused, until 12:01:05 UTC 12 ms 40 3",
        "limited 429, too many, until 14:00:00 UTC",
        "not asked yet",
        "registry-1.docker.io anonymous 76 of 100 left, per 6 h",
        "registry-1.docker.io client 3f2a 12 left, per 1 h",
        "11:59:56 relayed team/app quay.io, GET blob sha256:0123456789ab cut: the client has left",
        "32.2 GB of 53.7 GB, 60 %",
        "mirrortap intermediate valid 2026-11-20 to 2027-11-20, 364 d left",
    ):
        assert part in text


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_clients_and_registries_write_is_text(outcome: str) -> None:
    facts = example()
    fill, endpoint = facts.fills[0], facts.endpoints[0]
    facts = replace(
        facts,
        requests=[
            replace(
                each,
                registry=NASTY,
                repository=NASTY,
                reference=NASTY,
                path=NASTY,
                client=NASTY,
                agent=NASTY,
                method=NASTY,
                cut=NASTY,
                endpoint=NASTY,
            )
            for each in facts.requests
        ],
        fills=[replace(fill, registry=NASTY, repository=NASTY, endpoint=NASTY)],
        endpoints=[replace(endpoint, registry=NASTY, endpoint=NASTY, reason=NASTY)],
    )
    found = page(facts, Selection(NASTY, "", "", outcome))
    assert found.of("img") == []
    assert len(found.of("script")) == 1
    assert NASTY in found.text
    for html in (*render.shared(facts).values(), render.requests(facts, Selection())):
        assert "<script" not in html
        assert "<img" not in html


# --- what is selected ---


@pytest.mark.parametrize(
    ("query", "outcomes"),
    [
        ("", ["miss", "hit", "refused", "relayed", "stale", "redirected"]),
        ("outcome=hit", ["hit"]),
        ("registry=QUAY", ["relayed"]),
        ("repository=library%2Fapp&outcome=stale", ["stale"]),
        ("client=10.0.0.8", ["refused"]),
        ("client=script", ["miss"]),
        ("outcome=nonsense", ["miss", "hit", "refused", "relayed", "stale", "redirected"]),
        ("repository=private", []),
    ],
)
def test_requests_are_selected(query: str, outcomes: list[str]) -> None:
    assert [each.outcome for each in Selection.parse(query).of(example().requests)] == outcomes


@given(st.text())
def test_any_query_selects_something_sensible(query: str) -> None:
    selection = Selection.parse(query)
    assert all(len(each) <= 200 for each in vars(selection).values())
    assert set(selection.of(example().requests)) <= set(example().requests)


# --- words ---


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86400 * 3 + 7200, "3 d 2 h"),
        (86400 * 730, "2 y"),
        (-5, "0 s"),
    ],
)
def test_how_long(seconds: float, told: str) -> None:
    assert words.lasting(seconds) == told


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_only_all_is_all(part: int, rest: int) -> None:
    told = words.share(part, part + rest)
    assert (told == "100 %") == (rest == 0 and part > 0)
    assert (told == "0 %") == (part == 0 and rest > 0)


def test_moments_have_a_date_when_that_is_another() -> None:
    assert words.moment(NOW - 1, NOW) == "11:59:59"
    assert words.moment(NOW - 86400, NOW) == "2026-11-20 12:00"


def test_only_what_is_marked_down_says_why() -> None:
    endpoint = EndpointFacts("docker.io", "m", False, "down", "timed out", NOW + 5, None, 1, 1)
    assert words.standing(endpoint, NOW) == "timed out, until 12:00:05 UTC"
    assert words.standing(endpoint, NOW + 6) == "timed out"
    assert words.standing(replace(endpoint, state="up"), NOW) == ""
    # Its rest is over, and nobody has asked it since.
    rested = replace(endpoint, state="unknown", until=NOW - 1)
    assert (words.state(rested), words.standing(rested, NOW)) == ("not asked since it failed", "timed out")
    assert words.state(replace(rested, failed=0)) == "not asked yet"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CN=root\\, made 2026,O=mirrortap", "root, made 2026"),
        ("O=Acme,CN=Acme CA", "Acme CA"),
        ("O=Acme", "O=Acme"),
    ],
)
def test_a_certificate_goes_by_its_common_name(name: str, told: str) -> None:
    assert words.subject(name) == told


# --- charts ---


@given(st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 10**13)), max_size=60))
def test_bars_stay_in_the_drawing_and_their_heights_are_the_bytes(bytes_: list[tuple[int, int]]) -> None:
    spans = [Span(NOW + n * 60, cached, fetched, 1, 1) for n, (cached, fetched) in enumerate(bytes_)]
    drawn = chart.chart("hour", "Last hour", spans, "%H:%M")
    assert len(drawn.bars) == sum(any(each) for each in bytes_)
    room = 112 - 18
    for bar, (cached, fetched) in zip(drawn.bars, (each for each in bytes_ if any(each)), strict=True):
        assert 0 <= bar.x <= bar.x + bar.width <= chart.WIDTH + 0.02
        assert bar.fetched_y >= 18 - 0.02
        assert bar.cached_height == pytest.approx(room * cached / drawn.highest, abs=0.01)
        assert bar.fetched_height == pytest.approx(room * fetched / drawn.highest, abs=0.01)
        assert bar.cached_y + bar.cached_height == pytest.approx(112, abs=0.02)
        assert bar.fetched_y + bar.fetched_height == pytest.approx(bar.cached_y, abs=0.02)


# --- builders ---


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("Proxy.corp:3128", ("proxy.corp", "3128")),
        ("proxy.corp", ("proxy.corp", "")),
        ("10.0.0.7:80", ("10.0.0.7", "80")),
        ("[FD00::1]:3128", ("[fd00::1]", "3128")),
        (None, None),
        ("", None),
        ("a;rm -rf ~", None),
        ("$(id)", None),
        ("a'b", None),
        ("a\nb", None),
        ("a\n", None),
        ("[::1", None),
        ("[1:2]", None),
        ("-o", None),
        ("a:1:2", None),
        ("a" * 300, None),
        ("proxy.corp:9999999", None),
    ],
)
def test_a_host_header_counts_when_it_is_a_hosts_name(host: str | None, told: tuple[str, str] | None) -> None:
    assert setup.named(host) == told


@given(st.text())
def test_no_host_header_writes_into_a_shell(host: str) -> None:
    at = setup.reach(Listening("127.0.0.1:3128", "http://127.0.0.1:5000", "regular"), host, "proxy")
    assert re.fullmatch(r"[a-z0-9_.-]+:[0-9]+|\[[0-9a-f:.]+\]:[0-9]+", at.place)


@pytest.mark.parametrize(
    ("host", "door", "place", "mirror"),
    [
        # A forwarded port is another one than we listen on.
        ("proxy.corp:8080", "proxy", "proxy.corp:8080", "http://proxy.corp:5000"),
        ("mirror.corp:5001", "mirror", "mirror.corp:3128", "http://mirror.corp:5001"),
        ("<script>", "mirror", "{here}:3128", "http://{here}:5000"),
    ],
)
def test_the_name_by_which_one_came_is_where_builders_go(host: str, door: Door, place: str, mirror: str) -> None:
    here = os.uname().nodename
    at = setup.reach(Listening("0.0.0.0:3128", "http://0.0.0.0:5000", "regular"), host, door)
    assert (at.place, at.mirror) == (place.format(here=here), mirror.format(here=here))
    assert not at.alone


def test_a_proxy_that_nobody_else_reaches_says_so() -> None:
    at = setup.reach(Listening("127.0.0.1:3128", "", "regular"), None, "proxy")
    assert (at.place, at.alone) == ("127.0.0.1:3128", True)
    assert "--listen :3128" in page(empty(), at=at).text
    assert setup.reach(Listening("[::1]:3128", "", "regular"), None, "proxy").place == "[::1]:3128"


@pytest.mark.parametrize(
    ("builder", "file"), [("containerd", "containerd.md"), ("podman", "containers.md"), ("buildkit", "buildkit.md")]
)
def test_the_lines_are_those_of_the_documentation(builder: str, file: str) -> None:
    """The first of them are; docs have one path or address where the page has another."""
    told = re.sub(r"proxy\.corp:3128|127\.0\.0\.1:3128", "PLACE", (DOCS / "builders" / file).read_text())
    given_ = next(each for each in setup.builders(setup.Reach("PLACE")) if each.id == builder)
    lines = [line.strip() for step in given_.steps for line in step.lines.splitlines()]
    known = [line for line in lines if line in told]
    assert len(known) >= {"containerd": 5, "podman": 2, "buildkit": 3}[builder], (known, lines)


@pytest.mark.parametrize(
    ("at", "there", "absent"),
    [
        (setup.Reach("p:1", login=True), "HTTPS_PROXY=http://USER:PASSWORD@p:1", "HTTPS_PROXY=http://p:1"),
        (setup.Reach("p:1", "socks5"), "HTTPS_PROXY=socks5://p:1", "http://p:1 "),
        (setup.Reach("p:1", "transparent"), "http://p:1/ca.crt", "HTTPS_PROXY="),
        (setup.Reach("p:1", mirror="https://m:2"), 'location = "m:2/docker.io"', "insecure"),
    ],
)
def test_how_the_proxy_is_reached_is_in_the_lines(at: setup.Reach, there: str, absent: str) -> None:
    lines = "\n".join(step.lines for builder in setup.builders(at) for step in builder.steps)
    assert there in lines
    assert absent not in lines


# --- JSON ---


def test_json_has_every_field_and_comes_back() -> None:
    facts = example()
    written = document.write(facts)
    found = json.loads(written)
    assert set(found) == set(vars(facts))
    assert found["counters"]["requests"][0] == {"registry": "docker.io", "kind": "blob", "outcome": "hit", "value": 3}
    assert found["counters"]["joined"] == [{"registry": "docker.io", "value": 4}]
    assert found["counters"]["fill_seconds"][0]["value"]["counts"] == [3, 1, 0]
    assert found["counters"]["evicted_bytes"] == 100
    assert document.write(document.read(written)) == document.write(replace(facts, counters=Counters()))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"version": 1}', b"\xff"])
def test_json_of_something_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        document.read(text)


# --- a terminal ---


@pytest.mark.parametrize("facts", [example(), empty()], ids=["full", "empty"])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_is_as_wide_as_it_is(facts: Facts, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(terminal.drawn(facts, width))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, drawn.splitlines())) <= width
    flat = "".join(drawn.split())
    for cell in (each for line in terminal.plain(facts).splitlines() for each in line.split("  ")):
        for word in cell.split():
            assert word in flat


def test_a_terminal_is_told_nothing_by_clients() -> None:
    nasty = "\x1b[2J\x9b[bold]\r\n"
    facts = replace(example(), requests=[answered("hit", repository=nasty, client=nasty)])
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    console.print(terminal.drawn(facts, 100))
    for told in console.file.getvalue(), terminal.plain(facts):  # type: ignore[attr-defined]
        assert "\x1b" not in told
        assert "\x9b" not in told
        assert "[bold]" in told


# --- the stream ---


async def test_a_stream_sends_what_has_changed_and_nothing_else() -> None:
    looks = iter([{"a": "1", "b": "1"}, {"a": "1", "b": "2\n3"}])
    closed = []

    async def look() -> dict[str, str]:
        return next(looks)

    ending = asyncio.Event()
    stream = Events(look, ending, lambda: closed.append(True))
    assert await stream.read() == b"retry: 3000\n\nevent: a\ndata: 1\n\nevent: b\ndata: 1\n\n"
    assert await stream.read() == b"event: b\ndata: 2\ndata: 3\n\n"
    ending.set()
    assert await stream.read() == b""
    await stream.close()
    await stream.close()
    assert closed == [True]


@given(st.text())
def test_no_text_ends_an_event_or_begins_a_field(text: str) -> None:
    sent = event("name", text).decode()
    # As a browser takes it apart: lines end by CRLF, LF or CR (WHATWG HTML, 9.2.6).
    first, *lines = re.split(r"\r\n|\n|\r", sent)
    assert first == "event: name"
    assert lines[-2:] == ["", ""]
    assert all(line.startswith("data: ") for line in lines[:-2])


@pytest.mark.parametrize(("count", "told"), [(999, "999 B"), (999_499_999_999, "999 GB"), (12 * 10**12, "12.0 TB")])
def test_sizes_of_a_month(count: int, told: str) -> None:
    assert words.size(count) == told


def test_digests_are_shown_short() -> None:
    assert words.short(DIGEST) == "sha256:0123456789ab"
    assert words.reference(answered("hit", reference="3.20")) == "3.20"
