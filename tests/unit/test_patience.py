"""What is remembered for a while and no longer, and how long upstream is waited for because of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from addon.pulls.patience import Lately, Patience


def test_what_has_happened_lately() -> None:
    lately: Lately[str] = Lately(5)
    assert not lately.has("a", now=100)
    lately.note("a", now=100)
    assert [lately.has("a", now=now) for now in (100, 104.9, 105)] == [True, True, False]
    assert not lately.has("b", now=100)
    lately.forget("a")
    lately.forget("b")
    assert not lately.has("a", now=100)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 10))),
    st.sampled_from("abc"),
    st.integers(0, 20),
)
def test_only_the_last_word_on_a_key_counts(events: list[tuple[str, bool, int]], key: str, later: int) -> None:
    lately: Lately[str] = Lately(5)
    now, noted = 0, None
    for each, happened, passed in events:
        now += passed
        lately.note(each, now) if happened else lately.forget(each)
        if each == key:
            noted = now if happened else None
    assert lately.has(key, now + later) is (noted is not None and now + later < noted + 5)


def test_silence_makes_impatient_until_an_answer_or_for_a_while() -> None:
    patience = Patience(lambda: 2)
    assert patience.seconds("a.io", now=0) == 2
    patience.ended("a.io", now=0)
    assert 0 < patience.seconds("a.io", now=1) < 2
    assert patience.seconds("b.io", now=1) == 2
    assert patience.seconds("a.io", now=1000) == 2
    patience.ended("a.io", now=0)
    patience.answered("a.io")
    assert patience.seconds("a.io", now=1) == 2
    assert patience.seconds("a.io", now=1, suspect=True) < 2


@given(st.floats(0, 1000), st.booleans())
def test_nobody_waits_longer_for_that(usual: float, suspect: bool) -> None:
    patience = Patience(lambda: usual)
    patience.ended("a.io", now=0)
    for registry in "a.io", "b.io":
        assert patience.seconds(registry, now=1, suspect=suspect) <= usual
