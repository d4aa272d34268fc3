"""The image most tests pull, the registries that hold it, and the proxy in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.images import Image, MultiArch, make_image, make_index
from support.programs import RealRegistry, docker_registry
from support.proxy import Proxy, serve

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority

APP = "docker.io/library/app:1.0"
MULTI = "docker.io/library/multi:1.0"

Serve = Callable[[str], Proxy]
Builder = Callable[..., Sandbox]
Registries = Callable[..., RealRegistry]


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Small layers, a large one, and busybox, so that containers run."""
    return make_image(tmp_path_factory.mktemp("app"), layer_sizes=(10_000, 300_000, 2_000_000), seed=1, busybox=True)


@pytest.fixture(scope="session")
def multi(tmp_path_factory: pytest.TempPathFactory) -> MultiArch:
    return make_index(tmp_path_factory.mktemp("multi"), seed=3)


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory, app: Image, multi: MultiArch) -> Iterator[RealRegistry]:
    """A real registry, plain http, with app and multi. Shared: tests read it, and do not push or stop it."""
    folder = tmp_path_factory.mktemp("mirror")
    with docker_registry(folder / "registry") as registry:
        sandbox = Sandbox(folder / "home")
        fill(sandbox, registry, app, "library/app:1.0")
        fill(sandbox, registry, multi, "library/multi:1.0", "--all")
        yield registry


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[Registries]:
    """Real registries of a test's own: registries("name", tls=..., token_auth=...)."""
    with ExitStack() as stack:

        def start(name: str, **options: object) -> RealRegistry:
            return stack.enter_context(docker_registry(tmp_path / name, **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[Serve]:
    """start_proxy(config): it runs until the test's end, where it must end well."""
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(serve(tmp_path / "proxy", config))


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """A machine with only HTTPS_PROXY and the CA set: builder(proxy), or with another bundle or name."""

    def make(proxy: Proxy, name: str = "builder", ca: Path | None = None) -> Sandbox:
        return Sandbox(tmp_path / name, proxy=proxy.url, ca=ca or proxy.ca)

    return make


@pytest.fixture
def direct(tmp_path: Path, authority: Authority) -> Sandbox:
    """A machine that knows no proxy and trusts the tests' CA: to fill registries and to look into them."""
    return Sandbox(tmp_path / "direct", ca=authority.file)


def fill(sandbox: Sandbox, registry: RealRegistry, image: Image | MultiArch, name: str, *options: str) -> None:
    sandbox.push(image.reference, f"{registry.endpoint}/{name}", "--dest-tls-verify=false", *options)
