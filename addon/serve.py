"""Runs the proxy door in a mitmproxy of its own, with only what interception needs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mitmproxy.addons.core import Core
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.log import LegacyLogEvents
from mitmproxy.master import Master
from mitmproxy.options import Options

from addon import __version__, journal, running, welcome
from addon.admission import rules
from addon.counts.facts import Listening
from addon.counts.slots import Slots
from addon.doors.closing import Closing
from addon.doors.listening import ListenError, adopt, bind, listen
from addon.doors.mirror import MirrorDoor
from addon.doors.proxy import ProxyDoor
from addon.loop import Loop
from addon.notify import notify
from addon.running import Running
from addon.service import StartError
from addon.status.reporter import Place
from addon.upgrade import InLoop, Upgrade
from addon.workers import supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from addon.doors.listening import Listener, Mode
    from addon.service import Service
    from addon.upgrade import Inherited
    from addon.workers import Worker

log = logging.getLogger("mirrortap")


class _Start:
    """An addon that tells when mitmproxy is up."""

    def __init__(self, up: Callable[[], None]) -> None:
        self._up = up

    def running(self) -> None:
        self._up()


@dataclass(frozen=True)
class Ports:
    """Where to listen (host and port): for clients with a proxy, who come in this `mode`, and, where asked for, for
    those with a mirror.

    `mirror_names`: the DNS names that the mirror shows a certificate for; plain http without any.
    """

    proxy: tuple[str, int]
    mirror: tuple[str, int] | None = None
    mirror_names: tuple[str, ...] = ()
    mode: Mode = "regular"


@dataclass(frozen=True)
class _Bound:
    """What is listened on."""

    proxy: Sequence[Listener]
    mirror: Sequence[Listener]
    mirror_names: tuple[str, ...]
    mode: Mode

    @property
    def descriptors(self) -> tuple[list[int], list[int]]:
        """Of the proxy and the mirror."""
        return [each.fileno() for each in self.proxy], [each.fileno() for each in self.mirror]

    def close(self) -> None:
        for listener in (*self.proxy, *self.mirror):
            listener.close()


class _Ends(Protocol):
    """How a process that serves ends: told to, or because another one has taken over."""

    def upgrade(self) -> None:
        """On SIGUSR2."""

    def stop(self) -> None:
        """On SIGTERM and SIGINT, before it is done."""


def serve(service: Service, ports: Ports, workers: int, inherited: Inherited | None = None) -> None:
    """Serves until SIGTERM or SIGINT, or until another process has taken over (SIGUSR2), in this process or, if more
    than one are asked for, in `workers` forks of it. `inherited`: what there is of a process to take over from.

    Raises ListenError, and StartError when no worker comes up or the parent proxy is this one.
    """
    bound = _bind(ports, inherited)
    try:
        service.refuse_itself([listener.getsockname()[:2] for listener in bound.proxy])
    except StartError:
        bound.close()
        raise

    if bound.mode == "regular" and not bound.mirror_names:
        service.plain_doors = [listener.getsockname()[:2] for listener in bound.mirror]

    service.place = Place(
        workers=workers,
        slots=Slots(workers) if workers > 1 else None,
        started=time.time(),
        listening=_listening(bound),
    )

    def greet() -> None:
        mirror = _address(bound.mirror) if bound.mirror else None
        # Before anything is told: should this fail, it is the process to take over from that runs.
        told = welcome.text(service, *_address(bound.proxy), ports.mode, mirror, ports.mirror_names)
        _tell(
            service,
            Running(
                pid=os.getpid(),
                version=__version__,
                mode=bound.mode,
                proxy=_address(bound.proxy),
                mirror=mirror,
                mirror_names=bound.mirror_names,
                workers=workers,
                since=time.time(),
            ),
        )
        with suppress(OSError):  # whoever was to read it may have gone
            print(told, flush=True)
        # Before the other process ends: systemd would take that for the end of the service.
        notify(*([f"MAINPID={os.getpid()}"] if inherited else []), "READY=1")
        if inherited:
            inherited.up()

    upgrade = Upgrade(service.data, lambda: (service.lock, bound.descriptors))

    def work(worker: Worker) -> None:
        journal.name_worker(worker.number)
        service.after_fork(worker.number)
        ends = partial(_WorkersEnds, worker)
        asyncio.run(_serve(service, bound, lambda: _begin(worker), ends, worker.lifeline), loop_factory=Loop)

    def stopping() -> None:
        notify("STOPPING=1")
        bound.close()

    def succeeded() -> None:
        service.release()
        bound.close()

    try:
        if workers == 1:
            asyncio.run(_serve(service, bound, greet, partial(_OwnEnds, upgrade)), loop_factory=Loop)
        else:
            service.before_fork()
            supervise(
                workers,
                work,
                ready=greet,
                stopping=stopping,
                look=service.look,
                upgrade=upgrade,
                succeeded=succeeded,
            )
    finally:
        running.forget(service.data, os.getpid())


def _listening(bound: _Bound) -> Listening:
    proxy = rules.place(*_address(bound.proxy))
    scheme = "https" if bound.mirror_names else "http"
    if not bound.mirror:
        return Listening(proxy, "", bound.mode)
    host, port = _address(bound.mirror)
    named = bound.mirror_names[0] if bound.mirror_names else host
    return Listening(proxy, f"{scheme}://{rules.place(named, port)}", bound.mode)


def _tell(service: Service, told: Running) -> None:
    try:
        running.tell(service.data, told)
    except OSError as error:
        log.warning("%s: commands will not find this proxy: %s", service.data, error.strerror)


class _OwnEnds:
    """Of the only process."""

    def __init__(self, upgrade: Upgrade, leave: Callable[[], int]) -> None:
        self._upgrade = upgrade
        self._in_loop = InLoop(upgrade, lambda: upgrade.finishing(leave()))

    def upgrade(self) -> None:
        self._in_loop.begin()

    def stop(self) -> None:
        self._in_loop.abandon()
        if not self._upgrade.over:
            notify("STOPPING=1")


class _WorkersEnds:
    """Of a worker: that another process has taken over is known already."""

    def __init__(self, worker: Worker, leave: Callable[[], int]) -> None:
        self._worker = worker
        self._leave = leave

    def upgrade(self) -> None:
        self._worker.leaving(self._leave())

    def stop(self) -> None:
        pass


def _bind(ports: Ports, inherited: Inherited | None) -> _Bound:
    """Raises ListenError, and then listens nowhere."""

    def listeners(host: str, port: int, option: str, descriptors: Sequence[int]) -> list[Listener]:
        return adopt(descriptors, host, port, option) if inherited else bind(host, port, option)

    proxy = listeners(*ports.proxy, "--listen", inherited.proxy if inherited else ())
    try:
        mirror = (
            listeners(*ports.mirror, "--mirror-listen", inherited.mirror if inherited else ()) if ports.mirror else []
        )
    except ListenError:
        for listener in proxy:
            listener.close()
        raise
    return _Bound(proxy, mirror, ports.mirror_names, ports.mode)


def _address(listeners: Sequence[Listener]) -> tuple[str, int]:
    host, port, *_ = listeners[0].getsockname()
    return host, port


def _begin(worker: Worker) -> None:
    log.info("is up, pid %d", os.getpid())
    worker.up()


async def _serve(
    service: Service,
    bound: _Bound,
    up: Callable[[], None],
    ends: Callable[[Callable[[], int]], _Ends],
    lifeline: int | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, or until there is something to be read from `lifeline`.

    What `ends` gets lets this process end by itself, as soon as what it has begun is through, and returns how many
    transfers that are.
    """
    master = Master(Options(mode=[bound.mode]))
    # It would tell each line to addons that are not here, by way of the event loop.
    for handler in [each for each in logging.getLogger().handlers if isinstance(each, LegacyLogEvents)]:
        handler.uninstall()
    proxyserver = Proxyserver()
    doors: list[ProxyDoor | MirrorDoor] = [ProxyDoor(service, hand_over=True)]
    if bound.mirror:
        doors.append(MirrorDoor(service, bound.mirror, bound.mirror_names))
    # The doors first, as scripts are: the proxy's must see a connection before mitmproxy's own NextLayer does.
    closing = Closing(service, doors)
    master.addons.add(Core(), *doors, closing, NextLayer(), proxyserver, _Start(up))
    await listen(proxyserver, bound.proxy, bound.mode)
    loop = asyncio.get_running_loop()
    leaving: asyncio.Task[None] | None = None

    async def finish() -> None:
        try:
            await closing.leave()
        finally:
            master.shutdown()

    def leave() -> int:
        nonlocal leaving
        running = closing.busy()
        leaving = leaving or loop.create_task(finish())
        return running

    end = ends(leave)

    def stop() -> None:
        end.stop()
        master.shutdown()

    heeded = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: service.reload,
        signal.SIGUSR2: end.upgrade,
    }
    for number, act in heeded.items():
        loop.add_signal_handler(number, act)

    def orphaned(fd: int) -> None:
        loop.remove_reader(fd)
        log.error("the process that started this one is gone: stopping")
        master.shutdown()

    if lifeline is not None:
        loop.add_reader(lifeline, orphaned, lifeline)
    await master.run()
    # With the loop their defaults would come back: told once more, a process that is about to end would die of that.
    for number in heeded:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
