"""When the CA in use is replaced, and when the old one has to do."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.clock import shifted

from addon import renewal as module
from addon.config.model import Lives
from addon.renewal import Renewal
from ca import clock
from ca.authority import Authority, AuthorityError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["docker.io"]
SetClock = Callable[[float], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def renewal(folder: Path) -> Renewal:
    return Renewal(folder, NAMES, Lives())


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets everybody's clock to so many days from now."""

    def to(days: float) -> None:
        monkeypatch.setattr(module, "datetime", shifted(days))
        monkeypatch.setattr(clock, "datetime", shifted(days))

    return to


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname != "INFO"]


async def test_as_long_as_nothing_is_due_nothing_is_opened(renewal: Renewal) -> None:
    made = renewal.authority
    await renewal.look()  # the first one cannot know who has written what there is now
    found = renewal.authority
    assert found.chain == made.chain
    await renewal.look()
    assert renewal.authority is found


async def test_the_intermediate_is_renewed_before_its_end(renewal: Renewal, set_clock: SetClock) -> None:
    first = renewal.authority
    set_clock(334)
    await renewal.look()
    assert renewal.authority.chain == first.chain
    set_clock(336)
    await renewal.look()
    second = renewal.authority
    assert second.chain != first.chain
    assert second.root == first.root
    assert second.leaf("docker.io").chain == second.chain
    set_clock(2 * 336)
    await renewal.look()
    assert renewal.authority.chain != second.chain


async def test_what_another_process_has_issued_is_noticed(renewal: Renewal, folder: Path) -> None:
    (folder / "intermediate.crt").unlink()
    other = Authority.open(folder, NAMES)
    await renewal.look()
    assert renewal.authority.chain == other.chain


async def test_a_root_that_another_process_has_added_is_noticed(renewal: Renewal, folder: Path) -> None:
    next_root = Authority.open(folder.with_name("next"), NAMES).root_path.read_bytes()
    (folder / "next.crt").write_bytes(next_root)
    await renewal.look()
    assert renewal.authority.roots_pem == (folder / "ca.crt").read_bytes() + next_root


async def test_two_processes_renew_once(renewal: Renewal, folder: Path, set_clock: SetClock) -> None:
    other = Renewal(folder, NAMES, Lives())
    set_clock(336)
    await asyncio.gather(renewal.look(), other.look())
    assert renewal.authority.chain == other.authority.chain


async def test_a_machine_that_has_slept_past_the_end(renewal: Renewal, set_clock: SetClock) -> None:
    first = renewal.authority
    set_clock(400)
    with pytest.raises(AuthorityError, match="ended on"):
        first.leaf("docker.io")
    several = await asyncio.gather(*(renewal.valid() for _ in range(3)))
    assert several[0].leaf("docker.io").chain != first.chain
    assert {each.chain for each in several} == {several[0].chain}


async def test_the_old_one_stays_while_there_is_no_new_one(
    renewal: Renewal, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await renewal.look()
    first = renewal.authority
    sound = (folder / "intermediate.crt").read_bytes()
    (folder / "intermediate.crt").write_text("")
    for _ in range(3):
        await renewal.look()
    assert renewal.authority is first
    assert first.leaf("docker.io")
    (line,) = told(caplog)
    assert line.startswith(f"the CA cannot be renewed: {folder}/intermediate.crt is not a CA certificate in PEM")
    end = first.chain[0].not_valid_after_utc
    assert line.endswith(f"or delete it for another; the one in use ends on {end:%Y-%m-%d at %H:%M:%S} UTC")
    (folder / "intermediate.crt").write_bytes(sound)
    await renewal.look()
    assert renewal.authority is not first
    assert renewal.authority.chain == first.chain
    (folder / "intermediate.crt").write_text("")
    await renewal.look()
    assert len(told(caplog)) == 2


async def test_no_root_is_made_while_builders_trust_another(
    renewal: Renewal, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await renewal.look()
    first = renewal.authority
    shutil.rmtree(folder)
    await renewal.look()
    assert renewal.authority is first
    assert os.listdir(folder.parent) == []
    (line,) = told(caplog)
    assert f"{folder}/ca.crt is gone; restore it from a backup; the one in use ends on" in line


async def test_warnings_are_repeated_after_a_day(
    renewal: Renewal,
    folder: Path,
    set_clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "ca.key").unlink()
    uptime = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: uptime)
    for day in (340.1, 340.5, 340.9):
        set_clock(day)
        await renewal.look()
    (line,) = told(caplog)
    assert line.startswith("the intermediate CA ends on ")
    assert "(in 24 days)" in line
    uptime += 24 * 3600
    set_clock(341.2)
    await renewal.look()
    assert "(in 23 days)" in told(caplog)[1]


async def test_it_looks_by_itself_until_it_is_closed(folder: Path) -> None:
    renewal = Renewal(folder, NAMES, Lives(3, 6))
    renewal.start()
    first = renewal.authority
    async with asyncio.timeout(20):
        while renewal.authority.chain == first.chain:
            await asyncio.sleep(0.01)
            (folder / "intermediate.crt").unlink(missing_ok=True)
    await renewal.close()
    assert len(asyncio.all_tasks()) == 1
