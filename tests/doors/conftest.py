"""A proxy of its own for each test, in front of fake registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.proxy import Proxy, serve

if TYPE_CHECKING:
    from pathlib import Path

Serve = Callable[..., Proxy]


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[Serve]:
    """start_proxy(config, *options): it runs until the test's end, where it must end well."""
    with ExitStack() as stack:
        yield lambda config, *options: stack.enter_context(serve(tmp_path / "proxy", config, *options))
