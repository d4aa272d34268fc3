"""Questions that are shared: none dies unseen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from addon.body import BodyCut
from addon.pulls.questions import Questions
from addon.upstream.sources import NotFound


async def ended() -> None:
    """Until what was asked is answered, and that was noticed."""
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "question"])
    await asyncio.sleep(0)


async def test_a_question_with_an_answer_is_asked_anew() -> None:
    questions: Questions[str, int] = Questions()
    counted = iter(range(10))

    async def ask() -> int:
        return next(counted)

    first, second = questions.put("a", ask), questions.put("a", ask)
    assert first is second
    other = questions.put("b", ask)
    assert [await each.answer() for each in (first, second, other)] == [0, 0, 1]
    assert await questions.put("a", ask).answer() == 2


async def test_everybody_hears_of_a_failure() -> None:
    questions: Questions[str, int] = Questions()

    async def ask() -> int:
        raise NotFound([])

    question = questions.put("a", ask)
    for _ in range(2):
        with pytest.raises(NotFound):
            await question.answer()


@pytest.mark.parametrize(("problem", "lines"), [(NotFound([]), 0), (ZeroDivisionError("here"), 1)])
async def test_what_nobody_waits_for_any_more(problem: Exception, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    """What endpoints do has been logged already; a fault of our own must be."""
    questions: Questions[str, int] = Questions()

    async def ask() -> int:
        raise problem

    with caplog.at_level(logging.DEBUG):
        questions.put("a tag", ask)
        await ended()
    assert [record.name for record in caplog.records if "a tag" in record.getMessage()] == ["mirrortap"] * lines
    assert all(record.name != "asyncio" or record.levelno < logging.ERROR for record in caplog.records)


async def test_the_end_of_all() -> None:
    questions: Questions[str, int] = Questions()
    question = questions.put("a", lambda: asyncio.sleep(3600, 0))
    waiting = asyncio.create_task(question.answer())
    await asyncio.sleep(0)
    await questions.close()
    with pytest.raises(BodyCut, match="the proxy is stopping"):
        await waiting
    assert question.task.cancelled()
