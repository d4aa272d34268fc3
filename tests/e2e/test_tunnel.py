"""What the proxy has no business with: other hosts keep their own certificate and their own bytes."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from support.config import toml
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from support.certificates import Authority
    from support.images import Image
    from support.threads import LoopThread

    from e2e.conftest import Serve


def peer_certificate(sock: socket.socket, name: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(sock, server_hostname=name) as secured:
        certificate = secured.getpeercert(binary_form=True)
    assert certificate
    return certificate


def connect_through(proxy: tuple[str, int], target: str) -> socket.socket:
    sock = socket.create_connection(proxy, timeout=20)
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = sock.recv(1)
        assert received, answer
        answer += received
    assert answer.split()[1] == b"200", answer
    return sock


def test_a_tunnelled_host_shows_its_own_certificate(
    app: Image, authority: Authority, loop_thread: LoopThread, start_proxy: Serve
) -> None:
    server = loop_thread.enter(FakeRegistry(tls=authority))
    server.add(app, "library/app")
    host, _, port = server.endpoint.partition(":")
    with socket.create_connection((host, int(port))) as sock:
        own = peer_certificate(sock, host)

    tables = {"registry.example": {"server": server.url, "ca": [authority.file]}}
    proxy = start_proxy(toml(tables, {"tunnel": [server.endpoint]}))
    with connect_through((proxy.host, proxy.port), server.endpoint) as sock:
        assert peer_certificate(sock, host) == own

    # A request goes through it, trusted by that host's own CA alone, with nothing of the proxy in its answer.
    other = proxy.client(server.endpoint, ca=authority.file)
    answer = other.get(f"/v2/library/app/blobs/{app.layers[0].digest}")
    assert answer.body == app.layers[0].data
    assert answer.headers["Cache-Status"] is None
    assert proxy.answered() == []


def test_an_intercepted_host_shows_a_certificate_of_the_proxys_ca(
    authority: Authority, loop_thread: LoopThread, start_proxy: Serve
) -> None:
    server = loop_thread.enter(FakeRegistry(tls=authority, names=("registry.example",)))
    proxy = start_proxy(toml({"registry.example": {"server": server.url, "ca": [authority.file]}}))
    context = ssl.create_default_context(cafile=str(proxy.ca))
    with (
        connect_through((proxy.host, proxy.port), "registry.example:443") as sock,
        context.wrap_socket(sock, server_hostname="registry.example") as secured,
    ):
        certificate = secured.getpeercert()
    assert certificate
    assert certificate["subjectAltName"] == (("DNS", "registry.example"),)


def test_bytes_that_are_not_tls_pass_a_tunnel(start_proxy: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        proxy = start_proxy(toml({}, {"tunnel": [target]}))
        with connect_through((proxy.host, proxy.port), target) as near:
            near.sendall(b"\x00\x01 not HTTP, not TLS\n")
            listener.settimeout(20)
            far, _ = listener.accept()
            with far:
                far.settimeout(20)
                assert far.recv(100) == b"\x00\x01 not HTTP, not TLS\n"
                far.sendall(b"\xff answered\n")
                assert near.recv(100) == b"\xff answered\n"
