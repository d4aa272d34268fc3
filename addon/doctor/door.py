"""The proxy's port as a builder's programs use it: pages of its own, CONNECT, TLS in the tunnel, requests in that."""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from addon import peers
from addon.no_proxy import NoProxy
from addon.oci import MAX_MANIFEST
from addon.parent import authority

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from addon.parent import Parent

PATIENCE = 30.0
"""Seconds: longer than the proxy itself waits for an endpoint, as a rule."""
_CONNECTING = 5.0
_MOST = MAX_MANIFEST


class Silent(Exception):
    """There is no answer; the message says why. `refused`: nothing listens; `spoken`: it does not speak http."""

    def __init__(self, why: str, *, refused: bool = False, spoken: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        self.spoken = spoken


@dataclass(frozen=True)
class Answer:
    """`body`: the first part of it, which is all as a rule."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """For people: what can be shown of it."""
        text = self.body[:1000].decode(errors="replace").strip()
        return "".join(c for c in text if c.isprintable())[:300] or self.reason


class Door:
    """`parent` names it, with the login for it if there is one."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    @property
    def url(self) -> str:
        """Without a login."""
        return f"http://{self._parent.authority}"

    def connect(self) -> tuple[str, bool]:
        """The address at which it can be connected to, and whether that is one of this machine. Raises Silent."""
        with closing(self._socket()) as connection:
            there, here = (str(place[0]) for place in (connection.getpeername(), connection.getsockname()))
        return there, there == here or NoProxy().holds(there, self._parent.port)

    def page(self, path: str) -> Answer:
        """One of the proxy's own. Raises Silent."""
        connection = http.client.HTTPConnection(self._parent.host, self._parent.port, timeout=PATIENCE)
        connection.sock = self._socket()
        return asked(connection, "GET", path, dict(self._parent.headers))

    def tunnel(self, host: str, port: int) -> tuple[Answer, Tunnel | None]:
        """The answer to a CONNECT, and, when that is a 200, what is at the other end. Raises Silent."""
        connection = self._socket()
        try:
            place = authority(host, port)
            lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", *map(": ".join, self._parent.headers)]
            with failing():
                connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
                response = http.client.HTTPResponse(connection, method="CONNECT")
                response.begin()
                body = b"" if response.status == 200 else response.read(_MOST)
        except BaseException:
            connection.close()
            raise
        answer = Answer(response.status, response.reason, response.headers, body)
        if response.status == 200:
            return answer, Tunnel(connection, host, port)
        connection.close()
        return answer, None

    def _socket(self) -> socket.socket:
        with failing():
            connection = socket.create_connection((self._parent.host, self._parent.port), timeout=_CONNECTING)
        connection.settimeout(PATIENCE)
        return connection


class Tunnel:
    """TLS to a registry's host, not verified: `chain` is for whoever reads on to judge. Close it."""

    def __init__(self, connection: socket.socket, host: str, port: int) -> None:
        self._socket = connection
        self._host, self._port = host, port
        self.chain: tuple[bytes, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def shake_hands(self) -> None:
        """Raises Silent."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        with failing():
            secured = context.wrap_socket(self._socket, server_hostname=self._host)
        self._socket = secured
        self.chain = tuple(peers.chain(secured))

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """One question; there is no other afterwards. Raises Silent."""
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = self._socket
        host = self._host if self._port == 443 else authority(self._host, self._port)
        return asked(connection, method, path, {"Host": host, "Connection": "close", **(headers or {})}, body)


def asked(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Answer:
    """The connection is closed then. Raises Silent."""
    with closing(connection), failing():
        connection.request(method, path, body, {"User-Agent": "mirrortap-doctor", **headers})
        response = connection.getresponse()
        return Answer(response.status, response.reason, response.headers, response.read(_MOST))


@contextmanager
def failing() -> Iterator[None]:
    """What goes wrong meanwhile is a Silent; a name that is not known stays a socket.gaierror."""
    try:
        yield
    except socket.gaierror:
        raise
    except ConnectionRefusedError:
        raise Silent("nothing listens there", refused=True) from None
    except TimeoutError:
        raise Silent("no answer in time") from None
    except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
        raise Silent("the connection was closed") from None
    except http.client.HTTPException:
        raise Silent("it does not speak http", spoken=True) from None
    except OSError as error:
        raise Silent(error.strerror or str(error)) from None
