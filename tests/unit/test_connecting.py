"""Which addresses a guarded connection may lead to, and which places are the operator's own."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.config import toml
from yarl import URL

from addon.config.load import load
from addon.config.model import Config, Tls
from addon.upstream.connecting import Connections, Misled, configured, guarded

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import AddrInfoType

FORBIDDEN = (
    "127.0.0.0/8",
    "0.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "168.63.129.16/32",
    "::/127",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
)
FREE = ("93.184.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "2606:4700::/32", "fd12:3456::/32")

HOST = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True)
PORT = st.integers(1, 65535)


def info(host: str, port: int = 443) -> AddrInfoType:
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


@given(st.sampled_from(FORBIDDEN).flatmap(lambda network: st.ip_addresses(network=network)))
def test_this_machine_and_its_cloud(address: IPv4Address | IPv6Address) -> None:
    with pytest.raises(Misled):
        guarded(info(str(address)))
    if isinstance(address, IPv4Address):
        for carrier in "::ffff:", "64:ff9b::":
            with pytest.raises(Misled):
                guarded(info(f"{carrier}{address}"))


@given(st.sampled_from(FREE).flatmap(lambda network: st.ip_addresses(network=network)))
def test_everything_else(address: IPv4Address | IPv6Address) -> None:
    with guarded(info(str(address))) as made:
        assert made.family == (socket.AF_INET if address.version == 4 else socket.AF_INET6)


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "127.1", "", "fe80::1%eth0", "2001:db8::1%lo"])
def test_what_is_no_plain_address_is_not_resolved_once_more(host: str) -> None:
    with pytest.raises(Misled):
        guarded(info(host))


@given(HOST, PORT, PORT)
@example("registry", 443, 80)
def test_a_table_with_a_port_is_for_that_port(host: str, port: int, other: int) -> None:
    assume(port != other)
    places = configured(Config({}, tls={f"{host}:{port}": Tls()}))
    assert (host, port) in places
    assert (host, other) not in places
    assert (f"x{host}", port) not in places


@given(HOST, PORT)
@example("registry", 443)
def test_a_table_without_a_port_is_for_http_and_https(host: str, port: int) -> None:
    places = configured(Config({}, tls={host: Tls()}))
    assert ((host, port) in places) == (port in (80, 443))


def test_endpoints_are_the_operators_own(tmp_path: Path) -> None:
    file = tmp_path / "mirrortap.toml"
    docker_io = {"mirrors": ["127.0.0.1:5000/hub", "[::1]:5001", "cache.test"], "server": "https://localhost:5002"}
    file.write_text(toml({"docker.io": docker_io, "10.0.0.1:5003": {"http": True}, "cache.test": {"http": True}}))
    places = configured(load([file]))
    assert places == {
        ("127.0.0.1", 5000),
        ("::1", 5001),
        ("cache.test", 80),
        ("cache.test", 443),
        ("localhost", 5002),
        ("10.0.0.1", 5003),
        ("docker.io", 80),
        ("docker.io", 443),
    }


def test_which_connections_are_guarded() -> None:
    async def look() -> None:
        connections = Connections(Config({}, tls={"registry.test:5000": Tls()}))
        try:
            own = {url: connections.session(URL(url, encoded=True), kept=True) for url in same + others}
            assert len({own[url] for url in same}) == len({own[url] for url in others}) == 1
            assert own[same[0]] is not own[others[0]]
            assert connections.session(URL(same[0]), kept=False) not in own.values()
        finally:
            await connections.close()

    same = ["https://registry.test:5000/v2/", "http://REGISTRY.test.:5000/", "https://user:pw@registry.test:5000/?x=y"]
    others = [
        "https://registry.test/",
        "https://registry.test:5000@127.0.0.1:80/",
        "https://a.registry.test:5000/",
        "https://127.0.0.1:5000/#registry.test:5000",
    ]
    asyncio.run(look())


def test_a_wildcard_is_for_the_hosts_that_it_covers(tmp_path: Path) -> None:
    async def look() -> None:
        connections = Connections(load([file]))
        try:
            own = [connections.session(URL(url), kept=True) for url in ("https://a.corp.test", "https://b.a.corp.test")]
            for url in "https://corp.test", "https://xcorp.test", "https://a.corp.test:5000", "http://a.corp.test":
                assert connections.session(URL(url), kept=True) is not own[0]
            assert own[0] is own[1]
        finally:
            await connections.close()

    file = tmp_path / "mirrortap.toml"
    file.write_text(toml({"*.corp.test": {}}))
    asyncio.run(look())
