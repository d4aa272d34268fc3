"""Memory that forked processes share."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from addon.counts.slots import Slots


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=80)), max_size=30))
def test_each_slot_has_what_was_written_there_last(written: list[tuple[int, bytes]]) -> None:
    slots = Slots(3, size=100)
    last = {1: b"", 2: b"", 3: b""}
    for number, content in written:
        assert slots.write(number, content)
        last[number] = content
    assert {number: slots.read(number) for number in last} == last


def test_what_is_too_much_leaves_what_was_there() -> None:
    slots = Slots(2, size=100)
    slots.write(1, b"sums")
    assert not slots.write(1, bytes(93))
    assert slots.read(1) == b"sums"


# A process of its own, which has no other thread.
FORKING = """
import os
from addon.counts.slots import Slots
slots = Slots(2)
if not (pid := os.fork()):
    slots.write(2, b"from the other one" * 1000)
    os._exit(0)
os.waitpid(pid, 0)
assert slots.read(2) == b"from the other one" * 1000
assert slots.read(1) == b""
"""


def test_what_a_forked_process_writes_is_read_by_the_others() -> None:
    subprocess.run([sys.executable, "-c", FORKING], check=True)


def test_half_of_what_is_being_written_is_never_read() -> None:
    slots = Slots(1, size=100)
    slots.write(1, b"before")
    # As by a process that was killed in the middle: the half that is not shown, and then the one that is.
    other = slots._begin(0, 1 - slots._memory[0])
    slots._memory[other : other + 20] = b"\xff" * 20
    assert slots.read(1) == b"before"
    shown = slots._begin(0, slots._memory[0])
    slots._memory[shown + 8] = 0
    assert slots.read(1) == b""
