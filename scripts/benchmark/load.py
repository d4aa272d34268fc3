"""Requests as fast as they are answered, by threads with a connection each. Run with one argument, in JSON:

connect  HOST:PORT to connect to     tunnel  whether to CONNECT there     host, port, ca  who is meant, and its CA
path, accept, digest  what to ask for, and its digest, which the first answer of each connection is held against
mode     "requests": on connections that stay open; "connections": a new one each time, TLS included, without a request;
         "idle": one request at a time, after a pause
count    of threads; of requests for "idle"           seconds  how long

Prints JSON: `rate` per second, and `p50`, `p99` in milliseconds (for "idle": until the first byte).
In a process of its own, so that nothing else has its interpreter; it can be the limit itself, at some 10,000 a second.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import sys
import threading
import time
from typing import Any

PAUSE = 0.02


class Generator:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        host, _, port = options["connect"].rpartition(":")
        self._address = (host, int(port))
        self._context = ssl.create_default_context(cafile=options["ca"]) if options["ca"] else None
        if self._context:
            # Python 3.13 wants an Authority Key Identifier, which Squid's certificates do not have.
            self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        authority = f"{options['host']}:{options['port']}"
        self._connect = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
        lines = [f"GET {options['path']} HTTP/1.1", f"Host: {authority}", f"Accept: {options['accept']}", "", ""]
        self._request = "\r\n".join(lines).encode()
        self._took: list[float] = []
        self._failures: list[BaseException] = []

    def run(self) -> dict[str, float]:
        mode, count, seconds = self._options["mode"], self._options["count"], self._options["seconds"]
        if mode == "idle":
            self._idle(count)
        else:
            self._together = threading.Barrier(count)
            work = self._requests if mode == "requests" else self._connections
            threads = [threading.Thread(target=self._guarded, args=(work, seconds)) for _ in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures[0]
        took = sorted(self._took)
        return {
            "rate": len(took) / seconds if seconds else 0.0,
            "p50": took[len(took) // 2] * 1000,
            "p99": took[int(len(took) * 0.99)] * 1000,
        }

    def _guarded(self, work: Any, seconds: float) -> None:
        try:
            self._took += work(seconds)
        except BaseException as failure:  # told by run, in the thread that prints
            self._failures.append(failure)
            self._together.abort()

    def _requests(self, seconds: float) -> list[float]:
        took = []
        with self._open() as connection:
            self._checked(connection)
            self._together.wait()
            end = time.monotonic() + seconds
            while (begun := time.monotonic()) < end:
                self._ask(connection)
                took.append(time.monotonic() - begun)
        return took

    def _connections(self, seconds: float) -> list[float]:
        took = []
        with self._open() as connection:
            self._checked(connection)
        self._together.wait()
        end = time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            self._open().close()
            took.append(time.monotonic() - begun)
        return took

    def _idle(self, count: int) -> None:
        with self._open() as connection:
            self._checked(connection)
            for _ in range(count):
                time.sleep(PAUSE)
                self._took.append(self._ask(connection)[0])

    def _open(self) -> socket.socket:
        connection = socket.create_connection(self._address, 60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._options["tunnel"]:
            connection.sendall(self._connect)
            head = b""
            while b"\r\n\r\n" not in head:
                head += _received(connection)
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise ConnectionError(f"CONNECT was answered with {head!r}")
        if not self._context:
            return connection
        return self._context.wrap_socket(connection, server_hostname=self._options["host"])

    def _ask(self, connection: socket.socket) -> tuple[float, bytes]:
        """Seconds until the first byte of an answer, and its body."""
        begun = time.monotonic()
        connection.sendall(self._request)
        data = _received(connection)
        first = time.monotonic() - begun
        while b"\r\n\r\n" not in data:
            data += _received(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.lower().split(b"\r\n")
        if b" 200 " not in status:
            raise ConnectionError(f"the answer was {head!r}")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < length:
            body += _received(connection)
        return first, body

    def _checked(self, connection: socket.socket) -> None:
        digest = f"sha256:{hashlib.sha256(self._ask(connection)[1]).hexdigest()}"
        if digest != self._options["digest"]:
            raise ConnectionError(f"clients got wrong bytes: {digest} in place of {self._options['digest']}")


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError("the server has closed the connection")
    return data


if __name__ == "__main__":
    try:
        print(json.dumps(Generator(json.loads(sys.argv[1])).run()))
    except OSError as error:
        sys.exit(str(error))
