"""Builders that know of no proxy: what they send is redirected to it by their gateway. And one that uses SOCKS."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.config import toml
from support.images import sha256
from support.networks import Network
from support.processes import needs
from support.programs import docker_registry
from support.proxy import ROOT, serve
from support.waiting import until

from e2e.conftest import APP
from e2e.test_upgrade import end, restart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.certificates import Authority
    from support.images import Image
    from support.programs import RealRegistry
    from support.proxy import Proxy

pytestmark = needs("docker-registry", "skopeo", "ip", "nft")

# Where Docker Hub is for the builder, and nothing is; and a web server that is none of the proxy's business.
HUB, HUB6, OTHER = "198.51.100.7", "2001:db8::7", "203.0.113.10"
HELLO = b"hello from another host"


@dataclass
class Site:
    builder: Network
    proxy: Proxy
    hosts: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, authority: Authority, mirror: RealRegistry) -> Iterator[Site]:
    """A builder, its gateway, on which the proxy and a mirror are, and a host beyond that."""
    folder = tmp_path_factory.mktemp("site")
    hosts = folder / "hosts"
    hosts.write_text(f"{HUB} registry-1.docker.io\n{OTHER} other.example\n127.0.0.1 localhost {os.uname().nodename}\n")
    with Network(folder) as builder, Network(folder) as gateway, Network(folder) as beyond, ExitStack() as stack:
        builder.connect("10.77.0.2/24", gateway, "10.77.0.1/24")
        builder.run("ip", "route", "add", "default", "via", "10.77.0.1")
        if Path("/proc/net/if_inet6").exists():
            builder.run("ip", "address", "add", "fd77::2/64", "dev", "link0", "nodad")
            gateway.run("ip", "address", "add", "fd77::1/64", "dev", "link0", "nodad")
            builder.run("ip", "route", "add", "default", "via", "fd77::1")
        gateway.connect("203.0.113.1/24", beyond, f"{OTHER}/24")
        with beyond.inside():
            web_server(authority.server_context("other.example"))
        (folder / "registry").mkdir()
        (folder / "registry" / "storage").symlink_to(mirror.storage)
        with gateway.inside():
            registry = stack.enter_context(docker_registry(folder / "registry"))
            proxy = stack.enter_context(
                serve(folder, mirrored(registry), host="", port=3128, mode="transparent", workers=2)
            )
        redirect = ROOT / "scripts" / "redirect", "gateway", "--from", "link0"
        gateway.run(*redirect, "--apply")
        yield Site(builder, proxy, hosts)
        gateway.run(*redirect, "--undo")


def mirrored(registry: RealRegistry) -> str:
    """A configuration."""
    return toml({"docker.io": {"mirrors": [registry.endpoint], "fallback": False}, registry.endpoint: {"http": True}})


def web_server(context: ssl.SSLContext) -> None:
    """Greets whoever speaks TLS to it."""
    listener = socket.create_server((OTHER, 443))

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(HELLO)

    threading.Thread(target=accept, daemon=True).start()


def test_a_builder_that_knows_of_no_proxy_pulls(app: Image, site: Site, tmp_path: Path) -> None:
    blobs = {blob.digest: blob.size for blob in app.blobs}
    machine = Sandbox(tmp_path / "builder", ca=site.proxy.ca)
    with site.builder.inside(site.hosts):
        for reference in APP, f"docker.io/library/app@{app.manifest.digest}":
            pulled = machine.pull(reference)
            assert pulled.digest == app.manifest.digest
            assert pulled.blobs() == blobs
    # A line may come after its answer.
    expected = {("manifest", "miss"), ("blob", "hit")}
    until(lambda: {(line.kind, line.cache) for line in site.proxy.answered()} >= expected)
    assert {line.status for line in site.proxy.answered()} == {200}


@needs("podman", "runc")
def test_so_does_podman(app: Image, site: Site, tmp_path: Path) -> None:
    with site.builder.inside(site.hosts):
        assert Sandbox(tmp_path / "builder", ca=site.proxy.ca).podman_pull(APP) == app.manifest.digest


def test_another_host_is_reached_untouched(authority: Authority, site: Site) -> None:
    """It shows its own certificate, which the tests' own CA has signed."""
    context = authority.client_context()
    with (
        site.builder.inside(),
        socket.create_connection((OTHER, 443), timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="other.example") as secured,
    ):
        assert secured.recv(100) == HELLO


def test_it_is_the_same_over_ipv6(app: Image, site: Site) -> None:
    if not Path("/proc/net/if_inet6").exists():
        return
    context = ssl.create_default_context(cafile=str(site.proxy.ca))
    with (
        site.builder.inside(),
        socket.create_connection((HUB6, 443), timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="registry-1.docker.io") as secured,
    ):
        secured.sendall(f"GET /v2/library/app/blobs/{app.config.digest} HTTP/1.0\r\n\r\n".encode())
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        assert sha256(answer.read()) == app.config.digest


def test_a_builder_gets_the_ca_from_the_port_itself(site: Site, tmp_path: Path) -> None:
    with site.builder.inside(), socket.create_connection(("10.77.0.1", site.proxy.port), timeout=20) as sock:
        sock.sendall(b"GET /ca.crt HTTP/1.0\r\n\r\n")
        got = b""
        while piece := sock.recv(65536):
            got += piece
    assert got.endswith(b"\r\n\r\n" + site.proxy.ca.read_bytes())


def test_no_pull_fails_when_another_takes_over(app: Image, site: Site, tmp_path: Path) -> None:
    """The last one at the site, for the proxy there is another one then."""

    def pull(builder: str) -> str:
        machine = Sandbox(tmp_path / builder, ca=site.proxy.ca)
        with site.builder.inside(site.hosts):
            return machine.pull(APP).digest

    with ThreadPoolExecutor() as pool:
        pulling = pool.map(pull, ("one", "another", "a third"))
        restart(site.proxy)
        assert {*pulling, pull("after that")} == {app.manifest.digest}
    until(lambda: not site.proxy.program.running)
    end(site.proxy.data)


def test_a_builder_that_uses_socks_pulls(app: Image, mirror: RealRegistry, tmp_path: Path) -> None:
    with serve(tmp_path / "proxy", mirrored(mirror), mode="socks5", workers=2) as proxy:
        pulled = Sandbox(tmp_path / "builder", proxy=f"socks5://{proxy.host}:{proxy.port}", ca=proxy.ca).pull(APP)
    assert pulled.digest == app.manifest.digest
    assert pulled.blobs() == {blob.digest: blob.size for blob in app.blobs}
