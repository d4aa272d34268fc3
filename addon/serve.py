"""Runs the proxy door in a mitmproxy of its own, with only what interception needs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from mitmproxy.addons.core import Core
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.master import Master
from mitmproxy.options import Options

from addon import welcome
from addon.doors.listening import bind, listen
from addon.doors.proxy import ProxyDoor
from addon.service import StartError
from addon.workers import supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from addon.doors.listening import Listener
    from addon.service import Service
    from addon.workers import Worker

log = logging.getLogger("mirrortap")


class _Start:
    """An addon that tells when mitmproxy is up."""

    def __init__(self, up: Callable[[], None]) -> None:
        self._up = up

    def running(self) -> None:
        self._up()


def serve(service: Service, host: str, port: int, workers: int) -> None:
    """Serves until SIGTERM or SIGINT, in this process or, if more than one are asked for, in `workers` forks of it.

    Raises ListenError, and StartError when no worker comes up or the parent proxy is this one.
    """
    _log_to_stderr()
    listeners = bind(host, port)

    def close() -> None:
        for listener in listeners:
            listener.close()

    try:
        service.refuse_itself([listener.getsockname()[:2] for listener in listeners])
    except StartError:
        close()
        raise

    def greet() -> None:
        host, port, *_ = listeners[0].getsockname()
        print(welcome.text(service, host, port), flush=True)

    def work(worker: Worker) -> None:
        _log_to_stderr(f"worker {worker.number} ")
        service.after_fork()
        asyncio.run(_serve(service, listeners, lambda: _begin(worker), worker.lifeline))

    if workers == 1:
        asyncio.run(_serve(service, listeners, greet))
    else:
        service.before_fork()
        supervise(workers, work, ready=greet, stopping=close)


def _begin(worker: Worker) -> None:
    log.info("is up, pid %d", os.getpid())
    worker.up()


async def _serve(
    service: Service, listeners: Sequence[Listener], up: Callable[[], None], lifeline: int | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, or until there is something to be read from `lifeline`."""
    master = Master(Options())
    proxyserver = Proxyserver()
    # The door first, as scripts are: it must see a connection before mitmproxy's own NextLayer does.
    master.addons.add(Core(), ProxyDoor(service), NextLayer(), proxyserver, _Start(up))
    await listen(proxyserver, listeners)
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, master.shutdown)

    def orphaned(fd: int) -> None:
        loop.remove_reader(fd)
        log.error("the process that started this one is gone: stopping")
        master.shutdown()

    if lifeline is not None:
        loop.add_reader(lifeline, orphaned, lifeline)
    await master.run()


def _log_to_stderr(whose: str = "") -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {whose}%(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # mitmproxy has several lines for each connection, of which only what is wrong is news.
    logging.getLogger("mitmproxy").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
