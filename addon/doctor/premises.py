"""The proxy's own machine: who has its data folder, its disk, its CA, its configuration and the endpoints in that."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from addon import journal
from addon.cache.eviction import Disk
from addon.config.load import load
from addon.config.model import ConfigError, Space
from addon.doctor import processes
from addon.doctor.findings import failed, ok, skipped, warning
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.parent import ParentError, Parents
from addon.running import find
from addon.upstream import routing
from addon.upstream.probe import Probe
from ca import clock, files, holding
from ca.errors import AuthorityError
from ca.notices import issued_for, warnings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from addon.config.model import Config, Rule
    from addon.doctor.findings import Finding
    from addon.running import Running
    from addon.upstream import findings as upstream
    from ca.holding import Holding

_RUNNING, _DISK, _CA, _CONFIG, _ENDPOINT = "proxy here", "disk", "CA", "configuration", "endpoint"
_CLOCK_FIRST = "That is by a clock that is in doubt: see to that first, then what is left of this:\n  mirrortap ca show"
_PIECE = 64 << 10  # bytes that are written to see whether that can be


@dataclass(frozen=True)
class Written:
    """What came of writing something into the cache: `error` is errno's, 0 when it went well. `owner` is its uid, where
    that is not this user."""

    disk: Disk
    error: int
    inodes: int
    owner: int | None


def process(data: Path) -> tuple[Running | None, Finding]:
    """The proxy that has the folder."""
    running = find(data)
    if running is None:
        return None, skipped(_RUNNING, f"no proxy uses {data} just now")
    told = f"mirrortap {running.version} (pid {running.pid}) listens on {_place(running.proxy)}"
    log = processes.log(running.pid)
    where = "" if log is None else f"; log: {log or f'journalctl _PID={running.pid}'}"
    return running, ok(_RUNNING, told + where)


def another(running: Running | None, host: str, port: int, url: str) -> Finding | None:
    """None when the proxy that was asked can be the one that has this machine's data folder."""
    if running is None or port == running.proxy[1] or not host.startswith(("127.", "::1", "localhost")):
        return None
    here = f"http://{_place(running.proxy)}"
    told = f"{url} was asked, and the proxy of this data folder listens on {here}"
    return warning(
        _RUNNING, "another-proxy", told, f"Name that one, or its folder with --data:\n  export HTTPS_PROXY={here}"
    )


def look(
    data: Path,
    configs: Sequence[Path],
    place: tuple[str, int],
    environment: Mapping[str, str],
    doubtful: bool = False,
) -> Iterator[Finding]:
    """What there is to find in the data folder, and in the configuration if it was named, with the endpoints of the
    registry at `place`. `environment`: the proxy's. `doubtful`: this machine's clock may be off."""
    config = None
    try:
        config = load(configs)
        parents = Parents.from_environment(environment)
    except (ConfigError, ParentError) as error:
        yield failed(_CONFIG, "configuration", str(error), _checked(configs))
    cache = data / "cache"
    if os.path.isdir(cache):
        yield judge_disk(cache, write(cache), config.space if config else Space())
    if os.path.isdir(data / "ca"):
        for each in _authority(data / "ca"):
            # What is issued by a clock that is off, is of no use when that has been set.
            yield replace(each, remedy=_CLOCK_FIRST) if doubtful and each.code else each
    if config is None:
        return
    if not configs:
        yield skipped(_CONFIG, "not named; with --config FILE, as the proxy has it, it and its endpoints are looked at")
        return
    yield ok(_CONFIG, ", ".join(map(str, config.sources)))
    for told in config.warnings:
        yield warning(_CONFIG, "configuration", told, _checked(configs))
    if rule := config.rule(*place):
        yield from asyncio.run(_endpoints(config, rule, parents))


def write(cache: Path) -> Written:
    """Writes a little, which is gone at once."""
    status = os.statvfs(cache)
    disk = Disk(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
    error = 0
    try:
        with tempfile.TemporaryFile(dir=cache, buffering=0) as file:
            file.write(bytes(_PIECE))
            os.fsync(file.fileno())
    except OSError as problem:
        error = problem.errno or errno.EIO
    owner = cache.stat().st_uid
    return Written(disk, error, status.f_ffree if status.f_files else 1, None if owner == os.geteuid() else owner)


def judge_disk(cache: Path, found: Written, space: Space) -> Finding:
    """Pure."""
    free, floor = found.disk.free, space.free.of(found.disk.total)
    told = f"{journal.size(free)} of {journal.size(found.disk.total)} are free at {cache}"
    lines = f"  df -h {cache}\n  du -xh --max-depth=1 {cache}"
    room = f"Make room there, or have the cache smaller (cache-size under [mirrortap]):\n{lines}"
    if found.error in (errno.ENOSPC, errno.EDQUOT) or not found.inodes:
        what = "no more files can be made" if not found.inodes else "the disk is full"
        return failed(_DISK, "disk-full", f"{what}, and pulls go past the cache: {told}", room)
    if found.error in (errno.EACCES, errno.EPERM) and found.owner is not None:
        return skipped(_DISK, f"{told}; whether it can be written, only uid {found.owner} can tell")
    if found.error:
        told = f"{cache} cannot be written: {os.strerror(found.error)}"
        remedy = f"See how it is mounted, and whose it is:\n  findmnt -T {cache}\n  ls -ld {cache}"
        return failed(_DISK, "cache-unwritable", told, remedy)
    if free < floor:
        told = f"{told}, less than min-free ({journal.size(floor)}): the cache evicts until that is free"
        return warning(_DISK, "disk-low", told, room)
    return ok(_DISK, told)


def _authority(folder: Path) -> Iterator[Finding]:
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        yield skipped(_CA, f"{folder} is uid {owner}'s: run this as that user")
        return
    try:
        with files.locked(folder) as present:
            held = holding.read(folder, present)
        now = clock.now()
    except AuthorityError as error:
        yield failed(_CA, "ca-broken", str(error), "See what it has, and do what it says:\n  mirrortap ca show")
        return
    yield from judge_authority(held, now)


def judge_authority(held: Holding, now: datetime) -> Iterator[Finding]:
    """Pure."""
    intermediate = held.intermediate.certificate if held.intermediate else None
    renew = "  mirrortap ca renew --config FILE"
    if intermediate and not held.direct and (flaw := clock.flaw(intermediate, now)):
        told = f"the intermediate in {held.folder} {flaw}: no certificate can be shown to builders"
        yield failed(_CA, "ca-broken", told, f"Have another one issued, with the root's key at hand:\n{renew}")
        return
    told = f"the root is good until {held.root.not_valid_after_utc:%Y-%m-%d}"
    if intermediate:
        told += f", the intermediate until {intermediate.not_valid_after_utc:%Y-%m-%d}"
    yield ok(_CA, told)
    for notice in warnings(held, held.permitted, issued_for(held), now):
        yield warning(_CA, "ca-ends", notice, "What there is, and since when:\n  mirrortap ca show")


async def _endpoints(config: Config, rule: Rule, parents: Parents) -> list[Finding]:
    if rule.blocked or rule.offline:
        return [skipped(_ENDPOINT, f"{rule.pattern} is {'blocked' if rule.blocked else 'offline'}")]
    # Nothing of this comes to a proxy's clients: any name will do.
    probe = Probe(config, Via(Fingerprints(os.urandom(32))), parents)
    try:
        found = await probe.look(routing.endpoints(rule))
    finally:
        await probe.close()
    return [each for finding in found.values() for each in _judge_endpoint(finding)]


def _judge_endpoint(finding: upstream.Finding) -> Iterator[Finding]:
    """Whether pulls can do without it, the door has shown. Pure."""
    name = f"{finding.endpoint.url}{finding.endpoint.base}"
    if not finding.problems:
        answer = [f"HTTP {finding.status}"] if finding.status else []
        yield ok(_ENDPOINT, f"{name}: {', '.join([*answer, *finding.notes])}")
    for problem in finding.problems:
        yield warning(
            _ENDPOINT, "endpoint", f"{name}: {problem.what}", f"For {finding.endpoint.name}: {problem.remedy}."
        )


def _checked(configs: Sequence[Path]) -> str:
    lines = "".join(f" --config {path}" for path in configs)
    return f"Correct that, and see what it comes to:\n  mirrortap config check{lines}"


def _place(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
