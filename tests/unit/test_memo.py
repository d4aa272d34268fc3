"""Answers that are remembered: few, of short questions, and none that was an error."""

from __future__ import annotations

import pytest

from addon.memo import remembered


class Asked:
    """A function that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, one: str, two: str = "") -> str:
        self.count += 1
        if not one:
            raise ValueError(one)
        return one + two


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_what_was_asked_is_remembered(asked: Asked) -> None:
    ask = remembered(asked.__call__)
    assert [ask("a", "b"), ask("a", "b"), ask("ab"), ask("ab")] == ["ab"] * 4
    assert asked.count == 2
    assert ask("a", two="c") == "ac"


def test_long_questions_are_not(asked: Asked) -> None:
    ask = remembered(asked.__call__)
    for _ in range(2):
        assert ask("a" * 300, "b" * 300) == "a" * 300 + "b" * 300
    assert asked.count == 2


def test_errors_are_not(asked: Asked) -> None:
    ask = remembered(asked.__call__)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            ask("")
    assert asked.count == 2
