"""Which endpoints are in a network that the operator lets go unverified."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from addon import addresses

if TYPE_CHECKING:
    from addon.addresses import Address
    from addon.config.model import Tls

_KEPT = 30.0  # seconds that a name is not looked up again


class Leniency:
    """Names are looked up in the background, by the system's resolver; made inside a running event loop."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, frozenset[Address]]] = {}  # until when, on the monotonic clock
        self._running: dict[str, asyncio.Task[frozenset[Address]]] = {}

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    async def decided(self, tls: Tls, host: str) -> Tls:
        """The same without networks: unverified when any address of `host` is in one, as dockerd has it.

        A name that cannot be looked up is verified.
        """
        if not tls.lenient:
            return tls
        inside = tls.verify and any(
            address in network for address in await self._addresses(host) for network in tls.lenient
        )
        return replace(tls, verify=tls.verify and not inside, lenient=())

    async def _addresses(self, host: str) -> frozenset[Address]:
        try:
            return frozenset({addresses.parse(host)})
        except ValueError:
            pass
        until, found = self._found.get(host, (0.0, frozenset()))
        if time.monotonic() < until:
            return found
        task = self._running.get(host)
        if task is None:
            # A lookup may take long, and all that wait for one take a thread together.
            task = self._running[host] = asyncio.create_task(self._look_up(host))
            task.add_done_callback(lambda _: self._running.pop(host, None))
        return await asyncio.shield(task)

    async def _look_up(self, host: str) -> frozenset[Address]:
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return frozenset()  # not kept: connecting, too, will have to look it up
        found = frozenset(addresses.parse(str(info[4][0])) for info in infos)
        self._found[host] = (time.monotonic() + _KEPT, found)
        return found
