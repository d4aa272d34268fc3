"""The line a person reads for each request."""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon import journal
from addon.config.model import Rule
from addon.reply import Reply, Served

RULE = Rule("docker.io", ())
HEX = hashlib.sha256(b"layer").hexdigest()
HIT = Reply(200, (), b"", Served("hit"))


def line(target: str, method: str = "GET", reply: Reply = HIT, cut: str | None = None) -> str:
    return journal.line(RULE, method, target, reply, 1234, 0.0042, cut)


@pytest.mark.parametrize(
    ("method", "target", "begins"),
    [
        ("GET", "/v2/library/alpine/manifests/3.20", "GET docker.io/library/alpine manifest 3.20 200"),
        ("HEAD", f"/v2/a/manifests/sha256:{HEX}", f"HEAD docker.io/a manifest sha256:{HEX[:12]} 200"),
        ("GET", f"/v2/a/blobs/sha256:{HEX}?ns=x", f"GET docker.io/a blob sha256:{HEX[:12]} 200"),
        ("GET", "/v2/", "GET docker.io/v2/ 200"),
        ("GET", "/v2/A/manifests/x", "GET docker.io/v2/A/manifests/x 200"),
        ("PUT", "/v2/a/manifests/x", "PUT docker.io/v2/a/manifests/x 200"),
    ],
)
def test_what_was_asked(method: str, target: str, begins: str) -> None:
    assert line(target, method) == f"{begins} hit 1.2 kB 4 ms"


def test_a_query_is_not_told() -> None:
    """An upload's state, or a token, is as good as a password."""
    for target in ("/v2/a/blobs/uploads/1?_state=secret", "/token?password=secret", "/v2/a/manifests/x?secret"):
        assert "secret" not in line(target)
        assert "secret" not in line(target, "POST")


def test_where_it_came_from_and_how_it_ended() -> None:
    missed = Reply(206, (), b"", Served("miss from", "mirror.gcr.io"))
    assert " 206 miss from mirror.gcr.io 1.2 kB 4 ms" in line("/v2/", reply=missed)
    assert line("/v2/", cut="the client has left").endswith(" 4 ms CUT: the client has left")
    # An empty reason is still a cut.
    assert " CUT:" in line("/v2/", cut="")


@pytest.mark.parametrize(
    "target", ["/v2/\x1b[2Jx", "/v2/x\x9b31m", "/v2/A/manifests/\x1b]0;x\x07", "/\x85x", "/\u2028x"]
)
def test_a_path_cannot_steer_the_terminal(target: str) -> None:
    assert line(target).isprintable()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (99_400, "99.4 kB"),
        (99_600, "100 kB"),
        (999_499, "999 kB"),
        (999_501, "1.0 MB"),
        (28_000_000, "28.0 MB"),
        (999_600_000, "1.0 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert journal.size(count) == text


@given(st.integers(0, 10**15))
def test_a_size_is_right_to_two_digits(count: int) -> None:
    number, unit = journal.size(count).split()
    assert len(number.replace(".", "")) <= 3 or unit == "GB"
    told = float(number) * {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[unit]
    assert abs(told - count) <= 0.051 * count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0042, "4 ms"),
        (0.9, "900 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (1, "1.0 s"),
        (61.26, "61.3 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert journal.duration(seconds) == text


PROGRAM = """
import logging, sys
from addon import journal
journal.to_stderr("first ")
journal.to_stderr(sys.argv[1])
log = logging.getLogger("mirrortap")
log.info("%s", "a line of %s")
log.debug("not told")
logging.getLogger("mitmproxy.proxy").warning("not told")
logging.getLogger("mitmproxy.proxy").error("of mitmproxy")
try:
    raise ValueError("a reason")
except ValueError:
    log.exception("%s", "a fault")
log.warning("%d", "no number")
log.info("on it goes")
"""


def test_each_line_is_told_once_with_its_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "worker 1 "], capture_output=True, text=True, check=True, timeout=60
    )
    stamped = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d worker 1 (.*)$", done.stderr, re.MULTILINE)
    assert stamped == ["a line of %s", "of mitmproxy", "a fault", "on it goes"]
    assert "\nValueError: a reason\n" in done.stderr
    # A fault of ours in a line is told as well, and is the end of nothing.
    assert "--- Logging error ---" in done.stderr
    assert done.stdout == ""


def test_the_time_of_a_line_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    lines = journal.Lines("")
    record = logging.makeLogRecord({"msg": "x"})
    told = []
    for created in (86400.0, 86400.9, 86401.0, 86400.5):
        record.created = created
        told.append(lines.format(record))
    monkeypatch.undo()
    time.tzset()
    assert told == [f"1970-01-02 00:00:0{second} x" for second in (0, 0, 1, 0)]
