"""Where connections to upstream may lead: anywhere the operator named, and elsewhere not to this machine or its cloud.

Endpoints redirect, name token servers, and some are named by clients: their word must not open what only this machine
can reach.
"""

from __future__ import annotations

import socket
from itertools import product
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from addon.addresses import forbidden, written
from addon.config import patterns
from addon.parent import Parents

if TYPE_CHECKING:
    from aiohttp import AddrInfoType

    from addon.config.current import Current
    from addon.config.model import Config, Endpoint
    from addon.parent import Parent

    _Place = tuple[str, int]  # host and port

_READ_AHEAD = 1 << 20
_MAX_HEADER = 64 << 10


class Misled(OSError):
    """An address that is connected to only where the operator named the host and port."""

    def __init__(self, address: str, port: int, why: str) -> None:
        # Of one text for all addresses of a name: where texts differ, aiohappyeyeballs makes an OSError of its own.
        super().__init__("an address that must be configured to be connected to")
        self._address, self._port, self._why = address, port, why

    def explain(self, host: str) -> str:
        """For people; `host` is what the URL names."""
        name = f"[{host}]" if ":" in host else _named(host)
        authority = name if self._port == 443 else f"{name}:{self._port}"
        where = authority if host == self._address else f"{authority} at {self._address}"
        problem = f"leads to {where} ({self._why}), which is not configured"
        return f'{problem}: add [registry."{authority}"] to the configuration if it is meant'


class Connections:
    """The connection pools. Made inside a running event loop; `close` them."""

    def __init__(self, current: Current, parents: Parents | None = None) -> None:
        self._configured = current.derived(configured)
        self._parents = parents or Parents()
        # Apart, so that a connection that was opened unguarded can never be taken for a guarded one.
        self._sessions = {(free, kept): _session(free, kept) for free, kept in product((True, False), repeat=2)}

    def parent(self, url: URL) -> Parent | None:
        """The proxy through which `url` is asked for, if there is one. It knows where names lead; an address that must
        not be connected to is not asked for there, either: raises Misled."""
        parent = self._parents.way(url.scheme, *_place(url))
        address = written(url.host or "") if parent and _place(url) not in self._configured() else None
        if address and (why := forbidden(address)):
            raise Misled(address, url.port or 0, why)
        return parent

    def session(self, url: URL, endpoint: Endpoint, *, kept: bool) -> aiohttp.ClientSession:
        """What `url` is to be asked through on behalf of `endpoint`.

        `kept`: on a connection that may have been open, and may stay. What goes through a parent proxy is connected to
        the address that the operator gave of that.
        """
        host, port = _place(url)
        free = any((named, port) in self._configured() for named in patterns.covering(host))
        # A request that runs may be about an endpoint that another configuration does not name any more.
        free = free or (endpoint.named and (host, port) == _place(URL(endpoint.url)))
        return self._sessions[free or self._parents.way(url.scheme, host, port) is not None, kept]

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()


def configured(config: Config) -> frozenset[_Place]:
    """What the operator named: endpoints, and the hosts that have a table. Without a port those are at 443 and 80."""
    endpoints = [endpoint for rule in config.rules.values() for endpoint in (*rule.mirrors, *rule.origins)]
    urls = [endpoint.url for endpoint in endpoints]
    urls += [f"{scheme}://{authority}" for authority in config.tls for scheme in ("https", "http")]
    return frozenset(_place(URL(url, encoded=True)) for url in urls)


def guarded(info: AddrInfoType) -> socket.socket:
    """A socket for exactly this address, after name resolution. Raises Misled where it must not lead."""
    family, kind, protocol, _, address = info
    host, port = address[:2]
    try:
        # With a zone it is an address on one link (RFC 4007), and would be resolved again.
        why = "a link-local address" if "%" in host else forbidden(host)
    except ValueError:
        why = "no IP address"
    if why:
        raise Misled(host, port, why)
    return socket.socket(family, kind, protocol)


def _place(url: URL) -> _Place:
    return _named(url.raw_host or ""), url.port or 0


def _named(host: str) -> str:
    return host.lower().rstrip(".")


def _session(free: bool, kept: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # A connection that was kept does not tell whether there is still somebody at its other end.
        connector=aiohttp.TCPConnector(limit=0, force_close=not kept, socket_factory=None if free else guarded),
        # The store holds the bytes a digest is of, and what passes through is not ours to change.
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=_READ_AHEAD,
        max_line_size=_MAX_HEADER,
        max_field_size=_MAX_HEADER,
    )
