"""What the log says: one line per request, for a person or for a program; and of a lasting trouble, a few a minute."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from addon.counts.facts import Answered
    from addon.reply import Served

Format = Literal["text", "json"]


def to_stderr(form: Format = "text") -> None:
    """Sends the log there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if form == "text" else Objects())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # No line says where in the program it is from ("Optimization" in the logging HOWTO of Python).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # mitmproxy has several lines for each connection, of which only what is wrong is news.
    logging.getLogger("mitmproxy").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # What Python itself would write to stderr would be no line of the log.
    logging.captureWarnings(True)
    sys.excepthook = _fault
    threading.excepthook = lambda told: _fault(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: _fault(told.exc_type, told.exc_value, told.exc_traceback)


def _fault(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Tells of an exception that nothing has caught."""
    told = (kind, error or kind(), traceback)
    logging.getLogger("mirrortap").critical("a fault in mirrortap", exc_info=told)


def name_worker(number: int) -> None:
    """From now on this process' log says that it is this worker's."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Lines | Objects):
            handler.formatter.worker = number


class _Form(logging.Formatter):
    """`worker`: its number, where there are several."""

    def __init__(self) -> None:
        super().__init__()
        self.worker: int | None = None
        self._second = -1
        self._time = ""

    def _to_second(self, record: logging.LogRecord, form: str, convert: Callable[[float], time.struct_time]) -> str:
        """When it was, as text, which is made once a second."""
        if self._second != int(record.created):
            self._time = time.strftime(form, convert(record.created))
            self._second = int(record.created)
        return self._time


class Lines(_Form):
    """For people: the time, to the second, and the message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        whose = "" if self.worker is None else f" worker {self.worker}"
        return f"{self._to_second(record, '%Y-%m-%d %H:%M:%S', time.localtime)}{whose} {record.message}"


class Objects(_Form):
    """For programs: a JSON object (RFC 8259) a line, all of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        at = self._to_second(record, "%Y-%m-%dT%H:%M:%S", time.gmtime)
        told: dict[str, Any] = {
            "time": f"{at}.{int(record.created % 1 * 1000):03}Z",  # RFC 3339
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "worker": self.worker,
        }
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], Entry):
            told |= record.args[0].fields()
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: _sound(value) for name, value in told.items()})


def _sound(value: Any) -> Any:
    """Bytes that were no UTF-8 are halves of characters in Python, with which no JSON is well-formed everywhere."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@dataclass(frozen=True)
class Entry:
    """One request in the log. As text it is a line for people."""

    answered: Answered
    served: Served

    def __str__(self) -> str:
        its = self.answered
        is_content = its.kind in ("manifest", "blob")
        what = f"/{its.repository} {its.kind} {_short(its.reference)}" if is_content else its.path
        cut = f" CUT: {its.cut}" if its.cut else ""
        trace = f" trace={its.trace}" if its.trace else ""
        return (
            f"{its.method} {its.registry}{what} {its.status} {self.served} {size(its.sent)} {duration(its.seconds)}"
            f"{cut}{trace}"
        )

    def fields(self) -> dict[str, str | int | float]:
        """What programs are told of it besides the line."""
        its = self.answered
        return {
            "method": its.method,
            "registry": its.registry,
            "repository": its.repository,
            "reference": its.reference,
            "kind": its.kind,
            "status": its.status,
            "outcome": its.outcome,
            "endpoint": its.endpoint,
            "sent": its.sent,
            "seconds": round(its.seconds, 6),
            "client": its.client,
            "agent": its.agent,
            "cut": its.cut,
            "trace": its.trace,
        }


def _short(reference: str) -> str:
    """Of a digest as much as tells it from others at sight; a tag has no colon."""
    algorithm, colon, encoded = reference.partition(":")
    return f"{algorithm}{colon}{encoded[:12]}"


def size(count: int) -> str:
    """A number of bytes for people, in powers of ten."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


class Seldom:
    """Warnings of one kind, of which the log gets no more than `most` in so many seconds."""

    def __init__(self, log: logging.Logger, most: int = 1, seconds: float = 60.0) -> None:
        self._log = log
        self._most = most
        self._seconds = seconds
        self._told: deque[float] = deque()
        self._held = 0

    def warning(self, message: str, *args: object) -> None:
        now = time.monotonic()
        while self._told and self._told[0] <= now - self._seconds:
            self._told.popleft()
        if len(self._told) >= self._most:
            self._held += 1
            return
        more = f" (and {self._held} more like this in the last minutes)" if self._held else ""
        self._held = 0
        self._told.append(now)
        self._log.warning(message + more, *args)
