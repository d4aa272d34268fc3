"""A warm image is pulled by tag while nothing upstream answers.

The timeouts are so long that a pull that waits for one of them does not end in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.clients import Pulled
from support.config import toml
from support.processes import needs, run
from support.registry import FakeRegistry
from support.wire import Wire

from e2e.conftest import APP

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from support.certificates import Authority
    from support.clients import Sandbox
    from support.images import Image
    from support.threads import LoopThread

    from e2e.conftest import Builder, Serve

pytestmark = needs("skopeo")

FOREVER = {"connect-timeout": "1h", "first-byte-timeout": "1h"}
SECONDS = 30  # by far more than it takes, on the slowest machine


def pull(machine: Sandbox, folder: str) -> Pulled:
    """Sandbox.pull, in time."""
    pulled = machine.home / folder
    options = [f"--policy={machine.policy}", f"--registries.d={machine.home / 'registries.d'}"]
    run(["skopeo", *options, "copy", f"docker://{APP}", f"dir:{pulled}"], env=machine.env, timeout=SECONDS)
    return Pulled(pulled)


@pytest.mark.parametrize("dies", [Wire.refuse, Wire.go_dark], ids=["refused", "black-holed"])
@pytest.mark.parametrize("mirrors", [0, 2])
def test_a_warm_image(
    dies: Callable[[Wire], Coroutine[Any, Any, None]],
    mirrors: int,
    app: Image,
    authority: Authority,
    loop_thread: LoopThread,
    start_proxy: Serve,
    builder: Builder,
) -> None:
    """Right after it was warmed, while connections are still kept, and again."""
    registry = loop_thread.enter(FakeRegistry(tls=authority))
    registry.add(app, "library/app")
    wires = [loop_thread.enter(Wire(registry.endpoint)) for _ in range(mirrors + 1)]
    origin, *others = [wire.endpoint for wire in wires]
    docker_io = {"server": f"https://{origin}", "mirrors": others, "ca": [authority.file]}
    tables = {endpoint: {"http": False, "ca": [authority.file]} for endpoint in others}
    machine = builder(start_proxy(toml({"docker.io": docker_io, **tables}, FOREVER)))
    machine.pull(APP)

    for wire in wires:
        loop_thread.run(dies(wire))
    for folder in "first", "again":
        pulled = pull(machine, folder)
        assert pulled.digest == app.manifest.digest
        assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}
