"""The proxy's port: bound by us, so that several processes can share it, and served by mitmproxy."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from typing import TYPE_CHECKING, Any, Literal

from mitmproxy import platform
from mitmproxy.proxy.mode_servers import AsyncioServerInstance
from mitmproxy.proxy.mode_specs import ProxyMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mitmproxy.addons.proxyserver import Proxyserver

Mode = Literal["regular", "transparent", "socks5"]

# Connections that the kernel keeps until a process takes them.
QUEUE = 1024
# Free ports that are tried until one is free for all addresses of a host.
_ATTEMPTS = 10


class ListenError(Exception):
    """The proxy's address cannot be listened on."""


class Listener(socket.socket):
    """A socket whose queue stays as long as it is: asyncio would make it as short as its accept loop."""

    def listen(self, backlog: int = QUEUE, /) -> None:
        super().listen(QUEUE)


def address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, [IPV6]:PORT, or :PORT for all interfaces. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*)):([0-9]{1,5})", text)
    if not match or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, like 127.0.0.1:3128 or [::1]:3128")
    return match[1] or match[2], int(match[3])


def bind(host: str, port: int, option: str = "--listen") -> list[Listener]:
    """Listens on one port of every address of `host`, of all interfaces when it is "". Raises ListenError.

    Port 0 is any free one, the same for all addresses. `option` is what said so.
    """
    try:
        return _bind(host, port)
    except (OSError, UnicodeError) as error:
        # Negative numbers are those of name resolution.
        number = getattr(error, "errno", 0)
        why = os.strerror(number) if number > 0 else "there is no such address"
        where = f"{f'[{host}]' if ':' in host else host}:{port}"
        raise ListenError(f"{where}: cannot be listened on: {why}; choose another address with {option}") from None


def adopt(descriptors: Sequence[int], host: str, port: int, option: str = "--listen") -> list[Listener]:
    """Sockets that another process has bound as `bind` does, and listens on as well. Raises ListenError when they are
    not those that `bind` would make."""
    listeners = [Listener(fileno=fd) for fd in descriptors]
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        asked = {(family, address[0]) for family, _, _, _, address in found}
        same = {(each.family, each.getsockname()[0]) for each in listeners} <= asked
        if listeners and same and port in (0, listeners[0].getsockname()[1]):
            return listeners
        why = "it is not where the process listens that is to be taken over from"
    except (OSError, UnicodeError):
        why = "there is no such address"
    for listener in listeners:
        listener.close()
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    raise ListenError(f"{where}: {why}; stop it and start anew to change {option}")


def _bind(host: str, port: int) -> list[Listener]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # An address may come more than once.
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for _ in range(_ATTEMPTS - 1 if port == 0 else 0):
        try:
            return _bind_all(addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(addresses)


def _bind_all(addresses: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for family, (host, port, *scope) in addresses:
            if listeners:
                port = listeners[0].getsockname()[1]
            if listener := _listen(family, (host, port, *scope)):
                listeners.append(listener)
        if not listeners:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(family: int, address: tuple[Any, ...]) -> Listener | None:
    """None when this machine has no such address, as no IPv6 one where that is switched off."""
    try:
        # With its protocol named: else asyncio leaves Nagle's algorithm on, and small bodies wait 40 ms for an ACK.
        listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError:
        return None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return listener


async def listen(proxyserver: Proxyserver, listeners: Sequence[Listener], mode: Mode = "regular") -> None:
    """Has mitmproxy, whose options must say the same mode, serve these until `proxyserver.servers.update([])`."""
    parsed = ProxyMode.parse(mode)
    instance: AsyncioServerInstance[Any] = AsyncioServerInstance.make(parsed, proxyserver)
    # Taken one at a time: the others in the queue are for whichever process is idle.
    instance._servers = [
        await asyncio.start_server(instance.handle_stream, sock=listener, backlog=1) for listener in listeners
    ]
    # mitmproxy starts what its options say, and keeps what it has of that: this is what they say.
    proxyserver.servers._instances[parsed] = instance


def tell_where_to() -> None:
    """Has mitmproxy's transparent mode take a connection that was not redirected for one to where it arrived."""
    redirected = platform.original_addr
    if not redirected:
        return

    def original(connection: socket.socket) -> tuple[str, int]:
        try:
            return redirected(connection)
        except OSError:
            # The kernel follows no connections at all, or not this one.
            host, port, *_ = connection.getsockname()
            return host, port

    platform.original_addr = original
