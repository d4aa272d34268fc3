"""Who may use the proxy, as the table says it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from addon.config import htpasswd
from addon.config.formats.source import shown, why
from addon.config.model import Admission

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.formats.source import Source
    from addon.config.formats.tables import MirrortapTable


def read(source: Source, own: MirrortapTable, warnings: list[str]) -> Admission:
    """Who may use the proxy, and for what. Raises ConfigError; adds to `warnings`."""
    users = _users(source, own.proxy_users, warnings) if own.proxy_users is not None else None
    # "all" and "registries" read as hosts, too.
    entries = [own.tunnel] if isinstance(own.tunnel, str) else own.tunnel
    tunnel = tuple(source.hosts(host, f"mirrortap.tunnel[{i}]") for i, host in enumerate(entries))
    return Admission(
        tuple(own.allow_clients),
        users,
        tunnel,
        frozenset(own.tunnel_ports),
        own.connections_per_client,
        own.header_timeout,
        own.idle_timeout,
        own.drain_timeout,
    )


def _users(source: Source, name: str, warnings: list[str]) -> Path:
    where = "mirrortap.proxy-users"
    path = source.resolve(name, where)
    try:
        users, faults = htpasswd.read(path)
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        source.fail(where, f"{shown(path)} cannot be read: {why(error)}; make it with: htpasswd -cB FILE USER")
    if faults:
        source.fail(where, faults[0])
    if mode & stat.S_IROTH:
        warnings.append(f"{where}: {path} can be read by everybody on this machine; chmod o-r {path}")
    if weak := htpasswd.weak(users):
        warnings.append(
            f"{where}: {path} has SHA-1 hashes, which are quickly guessed from; "
            f"write new ones with: htpasswd -B {path} {weak[0]}"
        )
    return path
