"""An image, an origin and a mirror that do not hold it yet, and proxies in front of them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support.images import Image, MultiArch, make_image, make_index
from support.registry import FakeRegistry

from addon.config.load import load
from engine.harness import Proxy, configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from support.certificates import Authority
    from support.config import Table

    from addon.config.model import Config


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Another image with the same tag, and no layer in common."""
    return make_image(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def multi(tmp_path_factory: pytest.TempPathFactory) -> MultiArch:
    return make_index(tmp_path_factory.mktemp("multi"), seed=2)


class Setup:
    """Starts what a test needs; all of it ends with the test, last first: clients before the servers they talk to."""

    def __init__(self, folder: Path, authority: Authority, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._authority = authority
        self._stack = stack
        self._count = 0
        self.ca_file = authority.file
        self.authority = authority

    async def registry(self, **kind: Any) -> FakeRegistry:
        """A FakeRegistry with TLS that the proxy trusts, unless told otherwise."""
        kind.setdefault("tls", self._authority)
        return await self.enter(FakeRegistry(**kind))

    async def enter[T](self, manager: AbstractAsyncContextManager[T]) -> T:
        return await self._stack.enter_async_context(manager)

    def proxy(
        self,
        origin: FakeRegistry | str | None,
        *mirrors: FakeRegistry | Table | str,
        settings: Table | None = None,
        more: Sequence[str] = (),
        **options: Any,
    ) -> Proxy:
        """A proxy with a cache of its own.

        `options` are Proxy's, `tuned` (changes the configuration as read) and keys of the registry's table.
        """
        ours = ("clock", "grace", "space", "tuned", "key", "parents", "waits")
        own = {name: options.pop(name) for name in ours if name in options}
        # Tests count what upstream is asked; those about prefetching say so.
        settings = {"prefetch": False, **(settings or {})}
        text = "\n".join((configuration(self._authority, origin, mirrors, settings=settings, **options), *more))
        return self.start(text, **own)

    def start(self, text: str, **own: Any) -> Proxy:
        """A proxy with a cache of its own, and this configuration."""
        self._count += 1
        data = self._folder / f"proxy-{self._count}"
        data.mkdir()
        (data / "mirrortap.toml").write_text(text)
        return self._start(data, **own)

    async def restart(self, proxy: Proxy) -> Proxy:
        """Another process on the same data."""
        await proxy.close()
        return self._start(proxy.cache.parent)

    def beside(self, proxy: Proxy, **own: Any) -> Proxy:
        """Another worker on the same data, as if in another process: locks are between open files."""
        return self._start(proxy.cache.parent, **own)

    def _start(self, data: Path, tuned: Callable[[Config], Config] | None = None, **own: Any) -> Proxy:
        config = load([data / "mirrortap.toml"])
        proxy = Proxy(tuned(config) if tuned else config, data, **own)
        self._stack.push_async_callback(proxy.close)
        return proxy


@pytest.fixture
async def setup(tmp_path: Path, authority: Authority) -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        yield Setup(tmp_path, authority, stack)


@pytest.fixture
async def origin(setup: Setup) -> FakeRegistry:
    return await setup.registry()


@pytest.fixture
async def mirror(setup: Setup) -> FakeRegistry:
    return await setup.registry()


@pytest.fixture(autouse=True)
async def begin_tasks_at_once() -> None:
    """As mitmproxy's loop does: what ends without waiting for anything has ended when it has been started."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
