"""The steps, in the order in which a builder takes them; where one fails, those that need it are left out."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from addon import addresses
from addon.config import wellknown
from addon.config.model import host_of
from addon.doctor import (
    answers,
    builders,
    clocks,
    environment,
    premises,
    processes,
    pulling,
    remedies,
    tls,
    trusted,
)
from addon.doctor.door import Door, Silent
from addon.doctor.findings import failed, ok, skipped, warning
from addon.doctor.registry import Registry
from addon.no_proxy import NoProxy
from addon.parent import Parent
from ca import found

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from cryptography import x509

    from addon.cache.reference import Reference
    from addon.doctor.builders import Builder, Machine
    from addon.doctor.door import Answer
    from addon.doctor.findings import Finding
    from addon.doctor.remedies import Kind
    from addon.running import Running

_NAME, _PORT, _PAGES, _CLOCK = "name", "port", "mirrortap", "clock"
_MODE = "regular"
_SOMEWHERE = Parent("", "PROXY", 3128)


@dataclass(frozen=True)
class Wish:
    """`proxy`: instead of the one that the environment names; `ca`: as SSL_CERT_FILE, instead of what the builder has.
    `configs`: of the proxy, if it is on this machine."""

    image: Reference
    data: Path
    proxy: Parent | None = None
    ca: Path | None = None
    kind: Kind | None = None
    configs: Sequence[Path] = ()

    @property
    def host(self) -> str:
        """That serves the registry's API."""
        return host_of(wellknown.api_host(self.image.registry))

    @property
    def port(self) -> int:
        port = self.image.registry.rpartition("]")[2].partition(":")[2]
        return int(port) if port else 443


def examine(wish: Wish, machine: Machine) -> Iterator[Finding]:
    """Each finding as soon as it is there."""
    running, here = premises.process(wish.data)
    local = os.path.isdir(wish.data)  # not for this user: the same
    shell = machine.environment
    likely = environment.named(shell, "", wish.host, wish.port)[0] if environment.variable(shell) else None
    url = f"http://{(wish.proxy or likely or _of(running) or _SOMEWHERE).authority}"
    builder = builders.look(wish.kind, machine, wish.image.registry, url) if wish.kind else builders.shell(machine)
    yield from builder.findings
    parent = yield from _proxy(wish, builder, machine, running)
    doubtful = False
    if parent:
        for each in _through(wish, builder, machine, parent, running):
            doubtful = doubtful or each.code == clocks.CODE
            yield each
    if not local:
        yield skipped(
            "proxy here", f"{wish.data} is not there: run this on the proxy's machine for its disk and its CA"
        )
        return
    yield here
    if parent and (other := premises.another(running, parent.host, parent.port, f"http://{parent.authority}")):
        yield other
    proxy = processes.process(running.pid) if running else None
    own = (proxy and proxy.environment) or {}
    yield from premises.look(wish.data, wish.configs, (wish.host, wish.port), own, doubtful)


def _of(running: Running | None) -> Parent | None:
    """The proxy that runs here, as it is reached from here."""
    if running is None or running.mode != _MODE:
        return None
    host, port = running.proxy
    anywhere = host == "" or addresses.written(host) in ("0.0.0.0", "::")
    return Parent("", "127.0.0.1" if anywhere else host, port)


def _proxy(
    wish: Wish, builder: Builder, machine: Machine, running: Running | None
) -> Generator[Finding, None, Parent | None]:
    """By which proxy to go."""
    if wish.proxy and wish.kind is None:
        yield ok(environment.STEP, f"--proxy names http://{wish.proxy.authority}")
        return wish.proxy
    if environment.variable(builder.environment):
        parent, findings = environment.named(builder.environment, builder.who, wish.host, wish.port)
        yield from findings
        if parent and builder.elsewhere and NoProxy().holds(parent.host, parent.port):
            told = f"{parent.host} is the container itself for {builder.who}, and not this machine"
            remedy = (
                "Name the proxy as containers reach it, and have it listen there:\n  mirrortap serve --listen :3128"
            )
            yield failed(environment.STEP, "loopback", told, remedy)
        return wish.proxy or parent
    if wish.proxy:
        return wish.proxy
    # What the builder lacks has been said: on with what others have.
    if environment.variable(machine.environment):
        return environment.named(machine.environment, "this shell", wish.host, wish.port)[0]
    if parent := _of(running):
        told = f"{environment.without(builder.environment)} here; the proxy that runs here is asked, http://{parent.authority}"
        yield skipped(environment.STEP, told)
        return parent
    if wish.kind is None:
        told = f"this shell has {environment.without(builder.environment)}, and no proxy runs on {wish.data}"
        remedy = "Name the proxy:\n  export HTTPS_PROXY=http://PROXY:3128\nor start one:\n  mirrortap serve"
        yield failed(environment.STEP, "no-variable", told, remedy)
    return None


def _through(
    wish: Wish, builder: Builder, machine: Machine, parent: Parent, running: Running | None
) -> Iterator[Finding]:
    door = Door(parent)
    together = yield from _reached(door, parent, running)
    if together is None:
        return
    mirrortap = yield from _pages(door, parent)
    if mirrortap is None:
        return
    roots, times = mirrortap
    times = replace(times, together=together)
    if not wish.ca and (unread := _unread(builder, door.url)):
        yield unread
    where = f"{wish.host}:{wish.port}"
    trust = _trust(wish, builder, machine, roots)
    try:
        answer, tunnel = door.tunnel(wish.host, wish.port)
        yield answers.connected(answer, where, door.url)
        if tunnel is None:
            return
        tunnel.close()
        shown, ping = _shown(door, wish)
    except Silent as silent:
        told = f"no TLS to {where} in the tunnel: {silent}"
        if off := clocks.judge(tls.STEP, times, stops=True):
            yield replace(off, what=f"{told}; {off.what}")
            return
        remedy = "The proxy's log says why; on its machine, look at its CA:\n  mirrortap ca show"
        yield failed(tls.STEP, "no-certificate", told, remedy)
        return
    # What the proxy says itself has this mark; the rest comes from the registry as it is.
    date = ping.headers.get("Date")
    times = replace(times, proxy=date) if "OCI-Namespace" in ping.headers else replace(times, origin=date)
    verdict = tls.judge(shown, wish.host, trust, roots, times, door.url)
    yield verdict
    if verdict.verdict == "failed":
        return
    if off := clocks.judge(_CLOCK, times):
        yield off
    past = NoProxy(builder.environment.get("NO_PROXY") or builder.environment.get("no_proxy") or "")
    anchors = [anchor.certificate for anchor in trust.anchors]
    registry = Registry(door, wish.host, wish.port, anchors, past.holds)
    yield from pulling.pull(registry, wish.image, ping, machine)


def _reached(door: Door, parent: Parent, running: Running | None) -> Generator[Finding, None, bool | None]:
    """Whether it is on this machine; None when it cannot be reached."""
    try:
        address, together = door.connect()
    except socket.gaierror as error:
        told = f"{parent.host} is not known here: {error.strerror}"
        remedy = (
            f"Correct the name in the proxy variable, or have DNS or /etc/hosts know it:\n  getent hosts {parent.host}"
        )
        yield failed(_NAME, "dns", told, remedy)
        return None
    except Silent as silent:
        yield _unreached(door, parent, running, silent)
        return None
    if address != parent.host:
        yield ok(_NAME, f"{parent.host} is at {address}")
    yield ok(_PORT, f"port {parent.port} can be connected to")
    return together


def _unreached(door: Door, parent: Parent, running: Running | None, silent: Silent) -> Finding:
    told = f"{door.url} cannot be connected to: {silent}"
    own = _of(running)
    if own and silent.refused and NoProxy().holds(parent.host, parent.port):
        remedy = f"The proxy of this machine listens elsewhere:\n  export HTTPS_PROXY=http://{own.authority}"
    elif silent.refused:
        remedy = (
            "On its machine, start it, or see where it listens (by default on 127.0.0.1:3128 alone):\n"
            f"  mirrortap serve --listen :{parent.port}"
        )
    else:
        remedy = "See whether that machine is up, and whether a firewall stands between:\n  ping " + parent.host
        return failed(_PORT, "unreachable", told, remedy)
    return failed(_PORT, "nothing-listens", told, remedy)


def _pages(
    door: Door, parent: Parent
) -> Generator[Finding, None, tuple[Sequence[x509.Certificate], clocks.Times] | None]:
    """The roots that the proxy says it has, and the time; None when it is no mirrortap that answers."""
    try:
        answer = door.page("/ca.crt")
        times = clocks.Times(datetime.now(UTC), answer.headers.get("Date"))
    except Silent as silent:
        if silent.spoken:
            yield _taken(door, parent, str(silent))
            return None
        told = f"{door.url} takes connections from here, and says nothing: {silent}"
        remedy = (
            'If it is a mirrortap, its log says why ("turned away"): let this network in, under [mirrortap] in its'
            ' configuration:\n  allow-clients = ["private", "NETWORK/LENGTH"]'
        )
        holder = _holder(parent)
        if holder and not _is_mirrortap(holder):
            yield _taken(door, parent, str(silent))
        else:
            yield failed(_PAGES, "turned-away", told, remedy)
        return None
    roots = list(trusted.certificates(answer.body)) if answer.status == 200 else []
    if not roots:
        server = answer.headers.get("Server")
        yield _taken(door, parent, f"it answers HTTP {answer.status}{f', as {server[:80]}' if server else ''}")
        return None
    yield ok(_PAGES, f"a mirrortap answers at {door.url}")
    return roots, times


def _taken(door: Door, parent: Parent, why: str) -> Finding:
    holder = _holder(parent)
    who = f"{holder.name} (pid {holder.pid})" if holder else "another program"
    told = f"{who} has {door.url}, and it is no mirrortap: {why}"
    remedy = (
        "End it, or have mirrortap listen on another port, and name that in the proxy variable:\n"
        f"  ss -ltnp 'sport = :{parent.port}'\n"
        f"  mirrortap serve --listen :{parent.port + 1 if parent.port < 65535 else 3128}"
    )
    return failed(_PAGES, "port-taken", told, remedy)


def _holder(parent: Parent) -> processes.Process | None:
    return processes.listener(parent.port) if NoProxy().holds(parent.host, parent.port) else None


def _is_mirrortap(process: processes.Process) -> bool:
    return any("mirrortap" in argument or "addon.cli" in argument for argument in process.arguments)


def _trust(wish: Wish, builder: Builder, machine: Machine, roots: Sequence[x509.Certificate]) -> tls.Trust:
    named = {**builder.environment, "SSL_CERT_FILE": str(wish.ca and wish.ca.resolve())}
    files = trusted.files(machine.root, named) if wish.ca else builder.files
    who = f"who reads {wish.ca}" if wish.ca else builder.who
    places = [each for root in roots for each in found.trusting(root, machine.root, machine.home)]
    own = machine.environment.get("SSL_CERT_FILE")
    readers = [("this shell" if str(path) == own else reader, path) for reader, path in places]
    elsewhere = [(reader, path) for reader, path in readers if path not in files]
    return tls.Trust(who, wish.kind, trusted.anchors(files), elsewhere)


def _unread(builder: Builder, url: str) -> Finding | None:
    """That the file of CAs is none, which programs do not say."""
    named = builder.environment.get("SSL_CERT_FILE")
    if not named or trusted.anchors(each for each in builder.files if str(each).endswith(named)):
        return None
    told = f"SSL_CERT_FILE of {builder.who} names {named}, in which no certificate can be read"
    return warning(tls.STEP, "ca-file", told, remedies.certificates(builder.kind, url))


def _shown(door: Door, wish: Wish) -> tuple[tuple[bytes, ...], Answer]:
    """The certificates, and the answer at /v2/. Nothing secret is said: nothing is verified yet. Raises Silent."""
    answer, tunnel = door.tunnel(wish.host, wish.port)
    if tunnel is None:
        raise Silent(f"HTTP {answer.status}: {answer.text}")
    with tunnel:
        tunnel.shake_hands()
        return tunnel.chain, tunnel.ask("GET", "/v2/")
