"""What a piece of Python costs, in counts that are the same in each run: calls, not seconds."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from types import CodeType

_TOOL = 3  # one of sys.monitoring's that nobody has a name for
_SYSTEM: dict[object, str] = {
    os.stat: "stat",
    os.fstat: "fstat",
    os.open: "open",
    open: "open",
    os.close: "close",
    os.pread: "read",
    os.preadv: "read",
    os.read: "read",
    os.listdir: "list",
    os.scandir: "list",
    fcntl.flock: "flock",
}


@dataclass
class Costs:
    functions: Counter[str] = field(default_factory=Counter)  # by how often they were called, those in C included
    statements: list[str] = field(default_factory=list)  # of SQL
    files: Counter[str] = field(default_factory=Counter)  # the calls of the file system among them

    @property
    def calls(self) -> int:
        return self.functions.total()

    def __str__(self) -> str:
        often = "\n".join(f"  {count:3} {name}" for name, count in self.functions.most_common())
        return f"{self.calls} calls:\n{often}\nSQL: {self.statements}\nfiles: {dict(self.files)}"


@contextmanager
def counted(connection: sqlite3.Connection) -> Iterator[Costs]:
    """Counts what happens meanwhile, in other threads too: there must be none that does anything."""
    costs = Costs()
    monitoring, events = sys.monitoring, sys.monitoring.events

    def began(code: CodeType, _: int) -> None:
        costs.functions[code.co_qualname] += 1

    def called(_: CodeType, __: int, function: object, ___: object) -> None:
        if isinstance(function, FunctionType | MethodType | type):
            return  # which begins, if it is written in Python
        costs.functions[getattr(function, "__qualname__", repr(type(function)))] += 1
        if isinstance(function, BuiltinFunctionType) and (name := _SYSTEM.get(function)):
            costs.files[name] += 1

    monitoring.use_tool_id(_TOOL, "costs")
    monitoring.register_callback(_TOOL, events.PY_START, began)
    monitoring.register_callback(_TOOL, events.CALL, called)
    connection.set_trace_callback(costs.statements.append)
    # What the garbage collector calls is called by chance.
    gc.collect()
    gc.disable()
    monitoring.set_events(_TOOL, events.PY_START | events.CALL)
    try:
        yield costs
    finally:
        monitoring.set_events(_TOOL, events.NO_EVENTS)
        gc.enable()
        connection.set_trace_callback(None)
        monitoring.free_tool_id(_TOOL)
