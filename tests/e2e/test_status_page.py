"""The status page in a real browser (Debian's Chromium), on a real proxy that real clients use meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import re
import shutil
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright
from support.clients import Sandbox
from support.config import toml
from support.faults import Slow, Status
from support.images import make_image
from support.proxy import MIRROR, Proxy, serve
from support.registry import FakeRegistry
from support.threads import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Dialog, Page
    from support.config import Table
    from support.images import Image

pytestmark = pytest.mark.programs("chromium", "skopeo")

_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NASTY = "<img/src=x/onerror=alert(1)>"
# Programs of others share the machine.
expect.set_options(timeout=20_000)


@dataclass
class Stage:
    """A proxy that has docker.io from a mirror, and a builder of it."""

    proxy: Proxy
    mirror: FakeRegistry
    origin: FakeRegistry
    builder: Sandbox
    loop: LoopThread
    image: Image

    def pull(self, repository: str) -> None:
        self.builder.pull(f"docker.io/{repository}:1.0")

    def ask(self, path: str, agent: str = "test") -> int:
        return self.proxy.client("registry-1.docker.io").get(path, {"User-Agent": agent}).status


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    image = make_image(folder / "layouts", layer_sizes=(2_000_000,), seed=77)
    with LoopThread() as loop:
        mirror, origin = loop.enter(FakeRegistry()), loop.enter(FakeRegistry())
        for registry in mirror, origin:
            for repository in "library/app", "library/slow", "library/other", "team/tool":
                registry.add(image, repository)
        tables: dict[str, Table] = {
            "docker.io": {"mirrors": [mirror.endpoint], "server": origin.url},
            mirror.endpoint: {"http": True},
        }
        with serve(folder / "proxy", toml(tables), *MIRROR) as proxy:
            builder = Sandbox(folder / "builder", proxy=proxy.url, ca=proxy.ca)
            yield Stage(proxy, mirror, origin, builder, loop, image)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, stage: Stage) -> Iterator[Callable[..., Page]]:
    """visit(path, ...): a live page, which must have no error and ask no other host for anything."""
    asked: list[str] = []
    wrong: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    with ExitStack() as stack:

        def open_page(path: str = "/", base: str = stage.proxy.url, *, script: bool = True) -> Page:
            context = stack.enter_context(closing(browser.new_context(java_script_enabled=script)))
            page = context.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("dialog", dismiss)
            page.goto(base + path)
            if script:
                expect(page.get_by_role("status")).to_have_text("Live")
            return page

        yield open_page
    assert not wrong
    own = (f"{stage.proxy.url}/", f"http://{stage.proxy.mirror}/")
    assert [url for url in asked if not url.startswith(own)] == []


def test_a_pull_is_seen_while_it_runs(stage: Stage, visit: Callable[..., Page]) -> None:
    page = visit()
    expect(page.locator("#fills")).to_contain_text("Nothing is being downloaded")
    gate, layer = asyncio.Event(), stage.image.layers[0]
    stage.mirror.inject(Slow(gate, 1_000_000), path=f"*{layer.digest}")
    pulling = threading.Thread(target=stage.pull, args=["library/slow"])
    pulling.start()
    try:
        bar = page.get_by_role("progressbar", name=f"library/slow, {layer.digest[:19]}")
        expect(bar).to_have_js_property("max", layer.size)
        expect(bar).to_have_js_property("value", 1_000_000)
        row = page.locator("#fills tbody tr", has=bar)
        expect(row).to_contain_text("1.0 MB of 2.0 MB")
        expect(row).to_contain_text(stage.mirror.endpoint)
        expect(row).to_contain_text("clients that wait")
    finally:
        stage.loop.call(gate.set)
        pulling.join()
    expect(page.locator("#fills")).to_contain_text("Nothing is being downloaded")
    newest = page.locator("#requests tbody tr", has_text=layer.digest[:19])
    expect(newest).to_contain_text("miss")
    expect(newest).to_contain_text("skopeo/")
    expect(
        page.get_by_role("img", name=re.compile("^Last hour: .* from the cache, 2.0 MB from upstream"))
    ).to_be_visible()
    stage.pull("library/slow")
    expect(page.locator("#requests tbody tr", has_text=layer.digest[:19]).first).to_contain_text("hit")
    expect(page.locator("#cache")).to_contain_text("Evicted next")


def test_an_endpoint_that_goes_down_turns_red_and_says_why(stage: Stage, visit: Callable[..., Page]) -> None:
    page = visit()
    row = page.locator("#endpoints").get_by_role("row", name=stage.mirror.endpoint)
    state = row.locator(".state")
    stage.mirror.inject(Status(503, {"Retry-After": "60"}), kind="manifest", times=1)
    stage.pull("library/other")
    expect(state).to_have_text("down")
    expect(row).to_contain_text(re.compile(r"503.*until .*\d\d:\d\d(:\d\d)? UTC"))
    red, green, blue = map(int, re.findall(r"\d+", state.evaluate("e => getComputedStyle(e).color"))[:3])
    assert red > 2 * max(green, blue)
    warning = page.get_by_label("Warnings").get_by_role("listitem")
    expect(warning).to_contain_text(f"{stage.mirror.endpoint}, a mirror of docker.io, is asked last")
    expect(warning).to_contain_text("look at that mirror")


@pytest.mark.parametrize("script", [True, False])
def test_what_clients_write_stays_text(stage: Stage, visit: Callable[..., Page], script: bool) -> None:
    stage.ask(f"/v2/{NASTY}/tags/list", agent=f"{NASTY}</table><script>alert(2)</script>")
    page = visit(script=script)
    row = page.locator("#requests tbody tr", has_text=NASTY).first
    expect(row).to_contain_text("<script>alert(2)</script>")
    assert page.locator("img[src], script:not([src])").count() == 0
    page.goto(f"{stage.proxy.url}/?repository=%22%3E{NASTY}")
    expect(page.get_by_label("Repository", exact=True)).to_have_value(f'">{NASTY}')
    assert page.locator("img[src], script:not([src])").count() == 0


def test_requests_are_filtered_here_and_in_the_stream(stage: Stage, visit: Callable[..., Page]) -> None:
    stage.pull("team/tool")
    stage.pull("library/app")
    page = visit()
    page.get_by_label("Repository", exact=True).fill("TEAM/")
    page.get_by_label("Outcome").select_option("hit")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("status")).to_have_text("Live")
    assert "repository=TEAM%2F" in page.url
    rows = page.locator("#requests tbody tr")
    shown = rows.count()
    assert shown
    assert all("team/tool" in text and "hit" in text for text in rows.all_inner_texts())
    # What comes in is filtered as what was there.
    stage.pull("library/app")
    stage.pull("team/tool")
    expect(rows).not_to_have_count(shown)
    assert all("team/tool" in text for text in rows.all_inner_texts())
    page.get_by_role("link", name="Show all").click()
    expect(page.locator("#requests")).to_contain_text("library/app")
    page.goto(f"{stage.proxy.url}/?client=nobody")
    expect(page.locator("#requests")).to_contain_text("None of them is like that.")


def test_focus_and_what_is_open_stay_when_something_is_new(stage: Stage, visit: Callable[..., Page]) -> None:
    page = visit()
    figures = page.locator("#hour-figures")
    figures.locator("summary").click()
    log = page.locator("#requests .scroll")
    log.evaluate("e => { e.tag = 'the same'; e.style.height = '60px'; e.scrollTop = 40 }")
    log.focus()
    count = page.locator("#requests .count").inner_text()
    stage.pull("library/app")
    expect(page.locator("#requests .count")).not_to_have_text(count)
    assert page.evaluate("document.activeElement.tag") == "the same"
    assert figures.get_attribute("open") is not None
    assert log.evaluate("e => e.scrollTop") > 0


def test_it_fits_a_phone_in_light_and_dark(visit: Callable[..., Page]) -> None:
    page = visit()
    page.set_viewport_size({"width": 360, "height": 740})
    for tab in page.locator(".tabs > label").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    backs = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        backs.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", back))) for back in backs)
    assert light > 600 > 150 > dark


def test_all_of_it_is_reached_by_the_keyboard(visit: Callable[..., Page]) -> None:
    page = visit()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "(e => [e.id || e.className || e.localName, e.matches(':focus-visible')])(document.activeElement)"
        )
        if found[0] == "body":
            break
        assert found[1], f"{found[0]} has focus, and does not show it"
        reached.append(found[0])
    assert reached[0] == "skip"
    assert {"f-registry", "f-repository", "f-client", "f-outcome", "b-buildkit", "copy"} <= set(reached)
    for landmark in "banner", "navigation", "main", "search", "contentinfo":
        expect(page.get_by_role(landmark)).to_have_count(1)
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(e => +e.localName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("script", [True, False])
def test_a_builders_lines_are_for_the_name_by_which_one_came(
    stage: Stage, visit: Callable[..., Page], script: bool
) -> None:
    page = visit("/", f"http://{stage.proxy.mirror}", script=script)
    place = f"127.0.0.1:{stage.proxy.port}"
    for name, line in (
        ("podman", f"export HTTPS_PROXY=http://{place}"),
        ("containerd", f"curl -fsS -o /etc/ssl/mirrortap.crt http://{place}/ca.crt"),
        ("No proxy", f'{{"registry-mirrors": ["http://{stage.proxy.mirror}"]}}'),
    ):
        page.get_by_text(name, exact=True).click()
        expect(page.get_by_role("group", name=name)).to_contain_text(line)
        expect(page.locator(".panel:visible")).to_have_count(1)
    if script:
        page.get_by_role("radio", name="podman").focus()
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_role("group", name="containerd")).to_be_visible()
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("group", name="containerd").get_by_role("button", name="Copy").first.click()
        assert "SSL_CERT_FILE=/etc/ssl/mirrortap.crt" in page.evaluate("navigator.clipboard.readText()")
    else:
        expect(page.get_by_text("reload it for another")).to_be_visible()


def test_a_page_that_is_open_does_not_hold_up_the_end(stage: Stage) -> None:
    """The last one: the proxy is not there any more for others."""
    proxy = stage.proxy
    with ExitStack() as stack:
        streams = []
        for place in f"{proxy.host}:{proxy.port}", proxy.mirror:
            connection = stack.enter_context(closing(http.client.HTTPConnection(place, timeout=20)))
            connection.request("GET", "/events")
            streams.append(connection.getresponse())
            assert streams[-1].readline().startswith(b"retry:")
        assert proxy.program.stop() == 0
        for stream in streams:
            stream.read()  # to its end: it is not broken off
    assert not proxy.log.matching("were cut|running transfers")
