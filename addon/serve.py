"""Runs the proxy door in a mitmproxy of its own, with only what interception needs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from mitmproxy import ctx
from mitmproxy.addons.core import Core
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.master import Master
from mitmproxy.options import Options

from addon import welcome
from addon.doors.proxy import ProxyDoor

if TYPE_CHECKING:
    from addon.service import Service


class ListenError(Exception):
    """The proxy's address cannot be listened on."""


class _Startup:
    """Stops a start that went wrong, and says when it went right. mitmproxy asks the addon of this name."""

    name = "errorcheck"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def shutdown_if_errored(self) -> None:
        for server in ctx.master.addons.get("proxyserver").servers:
            if isinstance(problem := server.last_exception, OSError):
                where = f"{ctx.options.listen_host}:{ctx.options.listen_port}"
                # Negative numbers are those of name resolution.
                number = problem.errno or 0
                why = os.strerror(number) if number > 0 else "there is no such address"
                raise ListenError(f"{where}: cannot be listened on: {why}; choose another address with --listen")

    def finish(self) -> None:
        logging.getLogger("mitmproxy").setLevel(logging.ERROR)
        (host, port, *_), *_ = ctx.master.addons.get("proxyserver").listen_addrs()
        print(welcome.text(self._service, host, port), flush=True)


def serve(service: Service, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT. Raises ListenError."""
    _log_to_stderr()
    try:
        asyncio.run(_serve(service, host, port))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _serve(service: Service, host: str, port: int) -> None:
    options = Options()
    master = Master(options)
    # The door first, as scripts are: it must see a connection before mitmproxy's own NextLayer does.
    master.addons.add(Core(), ProxyDoor(service), NextLayer(), Proxyserver(), _Startup(service))
    options.update(listen_host=host, listen_port=port)
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, master.shutdown)
    await master.run()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # mitmproxy has several lines for each connection, of which only what is wrong is news; and of a start that
    # goes wrong we tell ourselves.
    logging.getLogger("mitmproxy").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
