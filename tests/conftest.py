"""What every test may use, and the rule that a skipped test is a failed one where nothing may be missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.certificates import Authority
from support.processes import require
from support.threads import LoopThread

from addon.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# On a loaded machine the time that an example takes says nothing.
settings.register_profile("mirrortap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mirrortap")


def pytest_asyncio_loop_factories() -> dict[str, type[Loop]]:
    """As when it is served."""
    return {"loop": Loop}


NO_SKIP = os.environ.get("MIRRORTAP_NO_SKIP") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("programs"):
        require(*marker.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if NO_SKIP and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and MIRRORTAP_NO_SKIP=1: {report.longreprtext or report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if NO_SKIP and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and MIRRORTAP_NO_SKIP=1: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that signs what test servers show."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that nothing trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    """For fake registries in tests that are not async: `loop_thread.enter(FakeRegistry(...))`."""
    with LoopThread() as loop:
        yield loop
