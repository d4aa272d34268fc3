"""Whatever comes first, answers, failures or a cancellation: one answer is open at most, and no task runs on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.config.model import Endpoint
from addon.upstream.race import Race
from addon.upstream.response import EndpointError

A, B, C = (Endpoint(name, f"https://{name}") for name in ("a.io", "b.io", "c.io"))


@dataclass
class Answer:
    """Stands in for a connection that must be closed."""

    endpoint: Endpoint
    open: bool = True

    async def close(self) -> None:
        self.open = False


class Stable:
    """Endpoints that answer when they are told to."""

    def __init__(self) -> None:
        self.told: dict[Endpoint, asyncio.Future[None]] = {}
        self.answers: list[Answer] = []
        self.stubborn: set[Endpoint] = set()  # who answers even though it was told to stop
        self.ended: list[Endpoint] = []

    async def ask(self, endpoint: Endpoint) -> Answer:
        self.told[endpoint] = asyncio.get_running_loop().create_future()
        try:
            await self.told[endpoint]
        except asyncio.CancelledError:
            if endpoint not in self.stubborn:
                raise
        finally:
            self.ended.append(endpoint)
        self.answers.append(Answer(endpoint))
        return self.answers[-1]

    @property
    def open(self) -> list[Endpoint]:
        return [answer.endpoint for answer in self.answers if answer.open]


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def no_task_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


async def taking_the_first(stable: Stable, *endpoints: Endpoint) -> Answer:
    """Takes the first answer, closing others that were told with it."""
    async with Race(stable.ask) as race:
        for endpoint in endpoints:
            race.start(endpoint)
        while True:
            found = [answer for _, answer in await race.ended(None) if isinstance(answer, Answer)]
            for late in found[1:]:
                await late.close()
            if found:
                return race.take(found[0])


async def test_the_loser_is_ended() -> None:
    stable = Stable()
    racing = asyncio.create_task(taking_the_first(stable, A, B))
    await turns()
    stable.told[B].set_result(None)
    assert (await racing).endpoint == B
    assert (stable.open, stable.ended) == ([B], [B, A])
    assert no_task_left()


async def test_answers_in_the_same_turn() -> None:
    stable = Stable()
    racing = asyncio.create_task(taking_the_first(stable, A, B, C))
    await turns()
    for endpoint in B, C, A:
        stable.told[endpoint].set_result(None)
    assert (await racing).endpoint == A, "in the order they were asked"
    assert stable.open == [A]
    assert len(stable.answers) == 3
    assert no_task_left()


async def test_an_answer_that_comes_although_it_was_called_off() -> None:
    stable = Stable()
    stable.stubborn = {A, C}
    racing = asyncio.create_task(taking_the_first(stable, A, B, C))
    await turns()
    stable.told[B].set_result(None)
    assert (await racing).endpoint == B
    assert (stable.open, len(stable.answers)) == ([B], 3)


async def test_one_that_ends_unseen_before_the_block_does() -> None:
    stable = Stable()
    async with Race(stable.ask) as race:
        race.start(A)
        await turns()
        stable.told[A].set_result(None)
        await turns()
        assert stable.open == [A]
    assert stable.open == []


async def test_who_has_ended_and_who_runs() -> None:
    stable = Stable()
    async with Race(stable.ask) as race:
        assert await race.ended(None) == []
        race.start(A)
        race.start(B)
        assert race.running == [A, B]
        assert await race.ended(0) == []
        stable.told[A].set_exception(EndpointError("Connection refused"))
        ((endpoint, error),) = await race.ended(None)
        assert (endpoint, str(error)) == (A, "Connection refused")
        assert race.running == [B]
    assert stable.ended == [A, B]


async def test_a_fault_of_ours_is_raised_as_it_is() -> None:
    stable = Stable()

    async def broken(endpoint: Endpoint) -> Answer:
        if endpoint == B:
            raise ZeroDivisionError
        return await stable.ask(endpoint)

    async def racing() -> None:
        async with Race(broken) as race:
            race.start(A)
            race.start(B)
            await race.ended(None)

    with pytest.raises(ZeroDivisionError):
        await racing()
    assert no_task_left()


@given(
    stubborn=st.sets(st.sampled_from([A, B, C])),
    answering=st.permutations([A, B, C]).flatmap(lambda e: st.integers(0, 3).map(lambda n: e[:n])),
    failing=st.booleans(),
    between=st.integers(0, 4),
    cancelled_after=st.none() | st.integers(0, 6),
    twice=st.booleans(),
)
def test_nothing_leaks(
    stubborn: set[Endpoint],
    answering: list[Endpoint],
    failing: bool,
    between: int,
    cancelled_after: int | None,
    twice: bool,
) -> None:
    """Answers `between` turns of the loop apart, and a cancellation (or two) somewhere among them."""

    async def scenario() -> None:
        stable = Stable()
        stable.stubborn = stubborn
        racing = asyncio.create_task(taking_the_first(stable, A, B, C))
        await turns()

        async def call_off() -> None:
            if cancelled_after is not None:
                await turns(cancelled_after)
                racing.cancel()
                if twice:
                    await turns(1)
                    racing.cancel()

        calling_off = asyncio.create_task(call_off())
        for number, endpoint in enumerate(answering):
            if not stable.told[endpoint].done():
                if failing and number == 0:
                    stable.told[endpoint].set_exception(EndpointError("reset"))
                else:
                    stable.told[endpoint].set_result(None)
            await turns(between)
        await calling_off
        if not racing.done():
            await turns(10)
        if not racing.done():
            racing.cancel()
        (result,) = await asyncio.gather(racing, return_exceptions=True)
        assert stable.open == ([result.endpoint] if isinstance(result, Answer) else [])
        assert no_task_left()

    asyncio.run(scenario())
