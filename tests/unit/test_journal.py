"""The line that the log has for each request: for a person, and for a program."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addon import journal
from addon.config.model import Rule
from addon.counts import answered
from addon.reply import Reply, Request, Served

RULE = Rule("docker.io", ())
HEX = hashlib.sha256(b"layer").hexdigest()
HIT = Reply(200, (), b"", Served("hit"))
NOW = 86401.0259
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = (("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),)


def entry(
    target: str,
    method: str = "GET",
    reply: Reply = HIT,
    cut: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> journal.Entry:
    request = Request(RULE, method, target, headers)
    told = answered.of(request, reply, at=NOW - 0.0042, client="192.0.2.7", sent=1234, seconds=0.0042, cut=cut)
    return journal.Entry(told, reply.served)


def line(target: str, method: str = "GET", reply: Reply = HIT, cut: str | None = None) -> str:
    return str(entry(target, method, reply, cut))


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


def test_a_trace_stands_at_the_end() -> None:
    assert str(entry("/v2/", headers=TRACED)) == f"GET docker.io/v2/ 200 hit 1.2 kB 4 ms trace={TRACE}"
    assert str(entry("/v2/", cut="gone", headers=TRACED)).endswith(f" 4 ms CUT: gone trace={TRACE}")
    assert "trace" not in str(entry("/v2/", headers=(("traceparent", "x\ntrace=1"),)))


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
journal.to_stderr()
journal.to_stderr(sys.argv[1])
journal.name_worker(1)
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
        [sys.executable, "-c", PROGRAM, "text"], capture_output=True, text=True, check=True, timeout=60
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
    lines = journal.Lines()
    record = logging.makeLogRecord({"msg": "x"})
    told = []
    for created in (86400.0, 86400.9, 86401.0, 86400.5):
        record.created = created
        told.append(lines.format(record))
    monkeypatch.undo()
    time.tzset()
    assert told == [f"1970-01-02 00:00:0{second} x" for second in (0, 0, 1, 0)]


# As programs are told.


def told(message: object, *args: object, level: int = logging.INFO, worker: int | None = None) -> dict[str, Any]:
    objects = journal.Objects()
    objects.worker = worker
    record = logging.makeLogRecord({"msg": message, "args": args, "levelno": level, "created": NOW})
    record.levelname = logging.getLevelName(level)
    text = objects.format(record)
    assert text.isascii()
    assert text.isprintable()
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_a_message_has_its_time_and_level_and_whose_it_is() -> None:
    assert told("%s is %d", "this", 5, level=logging.WARNING, worker=2) == {
        "time": "1970-01-02T00:00:01.025Z",
        "level": "warning",
        "message": "this is 5",
        "worker": 2,
    }
    assert told("that")["worker"] is None


def test_a_request_has_its_fields_besides() -> None:
    headers = (("User-Agent", "containerd/2.3.0"), ("Authorization", "Bearer secret"), *TRACED)
    missed = Reply(206, (), b"", Served("miss from", "mirror.gcr.io"))
    target = f"/v2/a/blobs/sha256:{HEX}?secret"
    asked = entry(target, reply=missed, cut="the client has left", headers=headers)
    assert told("%s", asked, worker=1) == {
        "time": "1970-01-02T00:00:01.025Z",
        "level": "info",
        "message": str(asked),
        "worker": 1,
        "method": "GET",
        "registry": "docker.io",
        "repository": "a",
        "reference": f"sha256:{HEX}",
        "kind": "blob",
        "status": 206,
        "outcome": "miss",
        "endpoint": "mirror.gcr.io",
        "sent": 1234,
        "seconds": 0.0042,
        "client": "192.0.2.7",
        "agent": "containerd/2.3.0",
        "cut": "the client has left",
        "trace": TRACE,
    }
    assert list(told("%s", entry("/v2/"))) == list(told("%s", asked)), "the same fields for all"


def test_what_a_client_writes_is_cut() -> None:
    agent = "\x1b[2J" + "x" * 100_000
    fields = told("%s", entry(f"/{'y' * 100_000}", "Z" * 100_000, headers=(("User-Agent", agent),)))
    assert len(json.dumps(fields)) < 2000


@given(st.text(st.characters() | st.sampled_from("\x1b\n\x85\u2028\udc80")))
@example("\udc80")
def test_whatever_is_said_it_is_one_line_of_json(text: str) -> None:
    message = told("%s", text)["message"]
    message.encode()  # no halves of characters
    assert message == text or not text.isprintable()


def test_programs_are_told_of_faults_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "json"], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(line["message"], line["level"], line["worker"]) for line in lines] == [
        ("a line of %s", "info", 1),
        ("of mitmproxy", "error", 1),
        ("a fault", "error", 1),
        ("on it goes", "info", 1),
    ]
    assert "\nValueError: a reason" in lines[2]["exception"]
    assert all("exception" not in line for line in (*lines[:2], lines[3]))


FAULTS = """
import threading, warnings
from addon import journal
journal.to_stderr("json")

class Unclosed:
    def __del__(self):
        raise ValueError("at its end")

def odd():
    raise ValueError("in a thread")

warnings.warn("of a library")
thread = threading.Thread(target=odd)
thread.start()
thread.join()
Unclosed()
raise ValueError("at last")
"""


def test_what_python_itself_has_to_tell_is_json_as_well() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    warned, *faults = [json.loads(line) for line in done.stderr.splitlines()]
    assert "UserWarning: of a library" in warned["message"]
    assert {each["message"] for each in faults} == {"a fault in mirrortap"}
    ends = [each["exception"].splitlines()[-1] for each in faults]
    assert ends == ["ValueError: in a thread", "ValueError: at its end", "ValueError: at last"]
