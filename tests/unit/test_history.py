"""What went through the proxy, by minutes, hours and days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from addon.counts.facts import Span
from addon.counts.tally import Moved
from addon.status.history import History

if TYPE_CHECKING:
    from pathlib import Path

# A minute, an hour and a day begin.
NOON = 1_700_006_400 - 1_700_006_400 % 86400


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> History:
    return History(tmp_path / "statistics.sqlite", clock)


def test_nothing_has_happened_yet(history: History) -> None:
    traffic = history.traffic()
    assert [len(each) for each in (traffic.hour, traffic.day, traffic.month)] == [60, 24, 30]
    assert set(traffic.hour) == {Span(NOON - 60 * ago, 0, 0, 0, 0) for ago in range(60)}


def test_what_happened_is_in_the_spans_of_its_time(history: History, clock: Clock) -> None:
    assert history.add(Moved(10, 20, 1, 2))
    clock.now += 59
    assert history.add(Moved(1, 2, 3, 4))
    clock.now += 61
    assert history.add(Moved(100, 0, 1, 0))
    traffic = history.traffic()
    assert traffic.hour[-3:] == [Span(NOON, 11, 22, 4, 6), Span(NOON + 60, 0, 0, 0, 0), Span(NOON + 120, 100, 0, 1, 0)]
    assert traffic.day[-1] == Span(NOON, 111, 22, 5, 6)
    assert traffic.month[-1] == Span(NOON, 111, 22, 5, 6)


def test_what_is_too_old_is_forgotten(history: History, clock: Clock, tmp_path: Path) -> None:
    history.add(Moved(10, 0, 1, 0))
    clock.now += 61 * 60
    history.add(Moved(1, 0, 1, 0))
    traffic = history.traffic()
    assert sum(each.cached for each in traffic.hour) == 1
    assert sum(each.cached for each in traffic.day) == 11
    clock.now += 40 * 86400
    history.add(Moved(1, 0, 1, 0))
    assert sum(each.cached for each in history.traffic().month) == 1


def test_several_processes_add_to_the_same(tmp_path: Path, clock: Clock) -> None:
    one, other = (History(tmp_path / "statistics.sqlite", clock) for _ in range(2))
    one.add(Moved(1, 0, 0, 0))
    other.add(Moved(2, 0, 0, 0))
    one.add(Moved(4, 0, 0, 0))
    assert other.traffic().hour[-1].cached == 7


def test_a_damaged_file_is_begun_anew(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "statistics.sqlite"
    path.write_bytes(b"nonsense" * 1000)
    history = History(path, clock)
    assert not history.add(Moved(1, 0, 0, 0))
    assert "damaged" in caplog.text
    assert str(path) in caplog.text
    assert history.add(Moved(1, 0, 0, 0))
    assert history.traffic().hour[-1].cached == 1


def test_a_folder_that_cannot_be_written_costs_the_charts_alone(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path / "missing" / "statistics.sqlite", clock)
    assert not history.add(Moved(1, 0, 0, 0))
    assert not history.add(Moved(1, 0, 0, 0))
    assert history.traffic().hour[-1].cached == 0
    assert caplog.text.count("the charts have a gap") == 1
