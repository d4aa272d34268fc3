"""The proxy's own pages at its doors: who gets them, with which headers, how many watch, and `mirrortap status`."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import pty
import re
import threading
import time
from contextlib import ExitStack, closing, redirect_stdout, suppress
from typing import TYPE_CHECKING

import bcrypt
import pytest
from click.testing import CliRunner, Result
from support.access import basic
from support.config import toml
from support.mirror import Mirror
from support.proxy import MIRROR, Proxy, exchange, mitmdump, serve

from addon.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxy import Response

DOORS = pytest.mark.parametrize("door", ["proxy", "mirror"])
PAGES = ("/", "/status.json", "/events", "/status.css", "/status.js", "/favicon.svg", "/ca.crt")
RIGHT, WRONG = {"Authorization": basic("ann", "s3cret")}, {"Authorization": basic("ann", "wr0ng")}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Whoever wants to see how it is has to log in."""
    folder = tmp_path_factory.mktemp("proxy")
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    (folder / "users").write_text(f"ann:{hashed}\n")
    (folder / "users").chmod(0o600)
    with serve(folder, toml({}, {"proxy-users": "users"}), *MIRROR) as proxy:
        yield proxy


def connect(proxy: Proxy, door: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(proxy.mirror if door == "mirror" else f"{proxy.host}:{proxy.port}", timeout=30)


def get(proxy: Proxy, door: str, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Response:
    with closing(connect(proxy, door)) as connection:
        return exchange(connection, method, path, headers)


@DOORS
def test_pages_and_the_headers_that_guard_them(proxy: Proxy, door: str) -> None:
    for path, begins in (
        ("/", b"<!doctype html>"),
        ("/?repository=app", b"<!doctype html>"),
        ("/status.json", b"{"),
        ("/status.css", b":root"),
        ("/status.js", b"//"),
        ("/favicon.svg", b"<svg"),
    ):
        answer = get(proxy, door, path, RIGHT)
        assert answer.status == 200
        assert answer.body.startswith(begins)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    assert get(proxy, door, "/ca.crt").body == proxy.ca.read_bytes()


@DOORS
def test_without_a_login_there_is_the_ca_alone(proxy: Proxy, door: str) -> None:
    for path in PAGES:
        for headers in {}, WRONG:
            answer = get(proxy, door, path, headers)
            assert answer.status == (200 if path == "/ca.crt" else 401)
            if answer.status == 401:
                assert answer.headers["WWW-Authenticate"] == 'Basic realm="mirrortap", charset="UTF-8"'
                assert b"proxy-users" in answer.body


@DOORS
def test_pages_are_read_only(proxy: Proxy, door: str) -> None:
    with closing(connect(proxy, door)) as connection:
        for path in PAGES:
            # On one connection: a body that came after all would be taken for the next answer.
            head = exchange(connection, "HEAD", path, RIGHT)
            assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(proxy.ca.stat().st_size)
        for method in "POST", "PUT", "DELETE":
            answer = exchange(connection, method, "/", RIGHT)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert get(proxy, door, "/nothing", RIGHT).status == 404


@DOORS
def test_so_many_may_watch_and_no_more(proxy: Proxy, door: str) -> None:
    with ExitStack() as stack:
        statuses = []
        while 503 not in statuses:
            stream = stack.enter_context(closing(connect(proxy, door)))
            stream.request("GET", "/events", headers=RIGHT)
            answer = stream.getresponse()
            statuses.append(answer.status)
            if len(statuses) == 1:
                assert answer.headers["Content-Type"] == "text/event-stream"
                assert answer.readline() == b"retry: 3000\n"
        # Who has left the test before may not have been missed yet.
        assert 16 < len(statuses) <= 33
        assert answer.headers["Retry-After"] == "10"
        assert get(proxy, door, "/", RIGHT).status == 200
    # Who has left makes room as soon as there is something to tell them.
    while watch(proxy, door) != 200:
        time.sleep(0.05)


def watch(proxy: Proxy, door: str) -> int:
    """The status with which a stream begins."""
    with closing(connect(proxy, door)) as stream:
        stream.request("GET", "/events", headers=RIGHT)
        return stream.getresponse().status


async def test_who_looks_on_and_does_not_leave_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # Its streams are not told of the end: a browser that has been suspended does not hear of it, either.
    mirror = Mirror(tmp_path, toml({}))
    async with mirror:
        reader, writer = await asyncio.open_connection(*mirror.address[:2])
        writer.write(b"GET /events HTTP/1.1\r\nHost: mirror\r\n\r\n")
        await reader.readuntil(b"retry: 3000\n")
    writer.close()
    assert "were cut" not in caplog.text
    assert "running transfers" not in caplog.text


def test_the_pages_of_mitmdump(tmp_path: Path) -> None:
    with mitmdump(tmp_path, toml({})) as proxy:
        answer = get(proxy, "proxy", "/")
        assert answer.status == 200
        assert f"HTTPS_PROXY=http://{proxy.host}:{proxy.port}" in answer.body.decode()
        with closing(connect(proxy, "proxy")) as stream:
            stream.request("GET", "/events")
            assert stream.getresponse().readline() == b"retry: 3000\n"


# --- mirrortap status ---


def status(data: Path, *options: str, login: str | None = "ann:s3cret") -> Result:
    return CliRunner(env={"MIRRORTAP_USER": login}).invoke(main, ["status", "--data", str(data), *options])


def test_the_terminal_has_what_the_page_has(proxy: Proxy) -> None:
    told = status(proxy.data)
    assert (told.exit_code, told.stderr) == (0, "")
    assert f"proxy {proxy.host}:{proxy.port}" in told.stdout
    assert f"Cache in {proxy.cache}" in told.stdout
    document = json.loads(status(proxy.data, "--json").stdout)
    assert document["listening"]["mirror"] == f"http://{proxy.mirror}"
    assert document["ca"] == json.loads(get(proxy, "proxy", "/status.json", RIGHT).body)["ca"]


def test_a_narrow_terminal(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MIRRORTAP_USER": "ann:s3cret", "COLUMNS": "40", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    terminal, ours = pty.openpty()
    drawn = bytearray()
    reading = threading.Thread(target=_read, args=(terminal, drawn))
    reading.start()
    with open(ours, "w") as tty, redirect_stdout(tty):
        main(["status", "--data", str(proxy.data)], standalone_mode=False)
    reading.join()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", drawn.decode())
    assert "Certificate authority" in shown
    assert max(map(len, shown.splitlines())) <= 40


def _read(terminal: int, drawn: bytearray) -> None:
    # Linux: an error when the other end has been closed.
    with closing(io.FileIO(terminal)) as reader, suppress(OSError):
        while piece := reader.read(1 << 16):
            drawn += piece


@pytest.mark.parametrize(
    ("login", "told"),
    [
        (None, "wants a login; put one into MIRRORTAP_USER=USER:PASSWORD (proxy-users)"),
        ("ann:wr0ng", "does not know the user or password in MIRRORTAP_USER=USER:PASSWORD"),
    ],
)
def test_a_login_that_is_missing_or_wrong(proxy: Proxy, login: str | None, told: str) -> None:
    ended = status(proxy.data, login=login)
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"mirrortap: the proxy at {proxy.host}:{proxy.port} {told}")
    assert "wr0ng" not in ended.stderr


def test_no_proxy_runs(tmp_path: Path) -> None:
    ended = status(tmp_path / "data")
    assert (ended.exit_code, ended.stdout) == (2, "")
    remedy = "start it with mirrortap serve, or name its folder with --data"
    assert ended.stderr == f"mirrortap: no proxy runs with {tmp_path}/data; {remedy}\n"
    assert not (tmp_path / "data").exists()
