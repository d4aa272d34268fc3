"""Who may use the proxy and where it may lead them: the rules, and how they are written."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.config import toml

from addon.admission import rules
from addon.admission.gate import Crowd, Gate, Refusal
from addon.config.current import Current
from addon.config.load import load
from addon.config.model import Admission, Config, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(tables: dict[str, Any] | None = None, **settings: Any) -> Config:
        path = tmp_path / "mirrortap.toml"
        path.write_text(toml(tables or {}, {name.replace("_", "-"): value for name, value in settings.items()}))
        return load([path])

    return read


# --- who may connect ---


@pytest.mark.parametrize(
    ("client", "may"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.168.0.9", True),
        ("::1", True),
        ("fd12::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.1.2.3", True),
        ("::ffff:8.8.8.8", False),
        ("8.8.8.8", False),
        ("100.64.0.1", False),
        ("2001:db8::1", False),
    ],
)
def test_who_may_connect_when_nothing_is_said(client: str, may: bool) -> None:
    assert rules.may_connect(Admission(), client) is may


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_is_what_it_says(address: ipaddress.IPv4Address, length: int) -> None:
    network = ipaddress.IPv4Network((address, length), strict=False)
    only = Admission(clients=(network,))
    for client in network[0], network[-1]:
        assert rules.may_connect(only, str(client))
        assert rules.may_connect(only, f"::ffff:{client}")
    for beside in (int(network[0]) - 1, int(network[-1]) + 1):
        if 0 <= beside < 1 << 32:
            assert not rules.may_connect(only, str(ipaddress.IPv4Address(beside)))


def test_connections_are_counted_for_each_client() -> None:
    crowd = Crowd()
    assert [crowd.enter("10.0.0.1", 2) for _ in range(3)] == [True, True, False]
    assert crowd.enter("10.0.0.2", 2)
    crowd.leave("10.0.0.1")
    assert [crowd.enter("10.0.0.1", 2) for _ in range(2)] == [True, False]


# --- where it may lead ---


def why(config: Config, host: str, port: int) -> str | None:
    refused = rules.refused(config, host, port)
    return refused.why if refused else None


@pytest.mark.parametrize(
    ("tunnel", "host", "port", "may"),
    [
        ("all", "example.com", 443, True),
        ("all", "example.com", 80, True),
        ("all", "example.com", 25, False),
        ("all", "10.0.0.7", 22, False),
        ("registries", "auth.docker.io", 443, True),
        ("registries", "AUTH.docker.io.", 443, True),
        ("registries", "gitlab.com", 443, True),
        ("registries", "auth.docker.io", 8443, False),
        ("registries", "example.com", 443, False),
        ("registries", "x.auth.docker.io", 443, False),
        ([], "example.com", 443, False),
        (["example.com"], "example.com", 443, True),
        (["example.com"], "example.com", 8443, False),
        (["example.com"], "www.example.com", 443, False),
        (["example.com:8443"], "example.com", 8443, True),
        (["example.com:8443"], "example.com", 443, False),
        (["*.example.com"], "a.b.example.com", 443, True),
        (["*.example.com"], "example.com", 443, False),
        (["*.example.com"], "badexample.com", 443, False),
        (["*.example.com:22"], "git.example.com", 22, True),
        (["registries", "example.com"], "auth.docker.io", 443, True),
        (["registries", "example.com"], "example.com", 443, True),
        (["registries", "example.com"], "example.org", 443, False),
        (["all", "example.com:25"], "example.com", 25, True),
        (["all", "example.com:25"], "example.org", 25, False),
        (["[FD00::7]:8443"], "fd00:0::7", 8443, True),
        (["[fd00::7]"], "fd00::7", 443, True),
        (["xn--bcher-kva.example"], "bücher.example", 443, True),
    ],
)
def test_where_tunnels_may_lead(read: Read, tunnel: object, host: str, port: int, may: bool) -> None:
    assert (why(read(tunnel=tunnel), host, port) is None) is may


def test_the_ports_can_be_changed(read: Read) -> None:
    config = read(tunnel_ports=[8443])
    assert why(config, "example.com", 8443) is None
    assert why(config, "example.com", 443) == "is at a port that is not one of tunnel-ports"


def test_what_a_table_is_about_may_be_reached(read: Read) -> None:
    """Registries that clients name by address are not intercepted, and yet theirs to use."""
    config = read({"127.0.0.1:5000": {"http": True}, "10.0.0.5": {"insecure": True}}, tunnel=[])
    for host, port, may in (
        ("127.0.0.1", 5000, True),
        ("127.0.0.1", 5001, False),
        ("10.0.0.5", 443, True),
        ("10.0.0.5", 80, True),
        ("10.0.0.5", 22, False),
    ):
        assert (why(config, host, port) is None) is may, (host, port)
    assert rules.refused_at(config, "127.0.0.1", 5000, ["127.0.0.1"]) is None


FORBIDDEN = ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "64:ff9b::7f00:1"]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_one_forbidden_address_is_enough(read: Read, address: str) -> None:
    config = read()
    assert rules.refused_at(config, "example.com", 443, ["192.0.2.1"]) is None
    for found in ([address], ["192.0.2.1", address], [address, "192.0.2.1"]):
        refused = rules.refused_at(config, "example.com", 443, found)
        assert refused is not None
        assert f"is {address}, " in refused.why
        assert 'tunnel = ["all", "example.com:443"] under [mirrortap]' in refused.remedy


@pytest.mark.parametrize(
    ("tunnel", "may"),
    [
        (["inner.example"], True),
        (["inner.example:443"], True),
        (["all", "inner.example:443"], True),
        (["inner.example:80"], False),
        # No particular host: whoever has a name in there could lead us anywhere.
        (["*.example"], False),
        (["all", "registries"], False),
        ("all", False),
    ],
)
def test_only_the_very_host_that_is_named_may_be_here(read: Read, tunnel: object, may: bool) -> None:
    config = read(tunnel=tunnel)
    assert (rules.refused_at(config, "Inner.example.", 443, ["127.0.0.1"]) is None) is may


def test_the_remedy_works(read: Read) -> None:
    for tunnel, host, port in (
        ("all", "127.0.0.1", 8080),
        (["a.example"], "b.example", 443),
        ("registries", "::1", 25),
    ):
        config = read(tunnel=tunnel)
        refused = rules.refused(config, host, port)
        assert refused is not None
        said = refused.remedy.partition("tunnel = [")[2].rpartition("] under")[0]
        mended = read(tunnel=[entry.strip('"') for entry in said.split(", ")])
        assert why(mended, host, port) is None
        assert rules.refused_at(mended, host, port, ["127.0.0.1"]) is None


@given(st.text(max_size=20) | st.just("fe80::1%\n"), st.integers(0, 65535))
def test_a_host_is_told_in_plain_characters(host: str, port: int) -> None:
    told = rules.place(host, port)
    assert told.isascii()
    assert told.isprintable()
    assert rules.refused(Config({}, admission=Admission(tunnel=())), host, port) is not None


# --- the lookup ---


NUMBERS = ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "::1", "::ffff:7f00:1", "localhost"]


@pytest.mark.parametrize("host", NUMBERS)
async def test_this_machine_is_not_reached_under_any_name(read: Read, host: str) -> None:
    refusal = await Gate(Current(read())).way("10.0.0.1", host, 443, [])
    assert isinstance(refusal, Refusal)
    assert refusal.status == 403
    assert "this machine itself" in refusal.reason
    assert "tunnel = [" in refusal.text


async def test_nothing_is_reached_offline(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    refusal = await Gate(Current(read(offline=True))).way("10.0.0.1", "192.0.2.1", 443, [])
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (504, "mirrortap is offline")
    assert "connects to nothing, 192.0.2.1:443 included" in refusal.text
    assert "10.0.0.1 was refused a connection: mirrortap is offline, and connects to nothing, 192.0" in caplog.text


@pytest.mark.parametrize("mode", ["regular", "socks5", "transparent"])
def test_who_can_be_asked_to_log_in(read: Read, tmp_path: Path, mode: str) -> None:
    (tmp_path / "users").write_text("ann:$2y$04$5Tfb1/UUev7kwvB5ncAxh.e3P7h0WLXWr85QwKsGjBajk32oZq4L.\n")
    assert rules.unfit(read().admission, mode) is None
    why = rules.unfit(read(proxy_users="users").admission, mode)
    assert (why is None) == (mode != "transparent")
    assert why is None or str(tmp_path / "users") in why


def test_redirects_need_a_door(read: Read) -> None:
    assert rules.without_door(read()) is None
    why = rules.without_door(read(redirect="public"))
    assert why
    assert why.startswith('mirrortap.redirect: "public" sends')
    assert "--mirror-listen" in why


async def test_the_way_is_the_addresses_that_were_looked_at(read: Read) -> None:
    assert await Gate(Current(read())).way("10.0.0.1", "192.0.2.1", 443, []) == ["192.0.2.1"]
    assert await Gate(Current(read(tunnel=["127.1"]))).way("10.0.0.1", "127.1", 443, []) == ["127.0.0.1"]


async def test_a_name_that_leads_nowhere(read: Read) -> None:
    for host in "fe80::1%none", "a..b", "x" * 64:
        refusal = await Gate(Current(read())).way("10.0.0.1", host, 443, [])
        assert isinstance(refusal, Refusal)
        assert refusal.status == 502
        assert refusal.text.startswith("cannot connect to ")


@pytest.mark.parametrize("listening", ["127.0.0.1", "0.0.0.0"])
async def test_the_proxy_does_not_lead_to_itself(read: Read, listening: str) -> None:
    """Not even where it is named."""
    gate = Gate(Current(read(tunnel=["localhost", "127.0.0.1"], tunnel_ports=[3128, 443])))
    for host in "localhost", "127.0.0.1":
        refusal = await gate.way("10.0.0.1", host, 3128, [(listening, 3128)])
        assert isinstance(refusal, Refusal)
        assert "is this proxy itself" in refusal.reason
        assert await gate.way("10.0.0.1", host, 443, [(listening, 3128)]) == ["127.0.0.1"]


async def test_another_machines_port_is_not_the_proxys(read: Read) -> None:
    gate = Gate(Current(read(tunnel_ports=[3128])))
    assert await gate.way("10.0.0.1", "192.0.2.1", 3128, [("0.0.0.0", 3128), ("::", 3128)]) == ["192.0.2.1"]


async def test_many_refusals_do_not_fill_the_log(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(Current(read()))
    with caplog.at_level(logging.WARNING):
        for _ in range(500):
            assert not gate.enter("8.8.8.8")
    assert len(caplog.records) == 60
    assert caplog.records[0].getMessage() == "8.8.8.8 was turned away: it is not in allow-clients"


# --- how it is written ---


def test_what_holds_when_nothing_is_said(read: Read) -> None:
    assert read().admission == load([]).admission == Admission()


def test_what_is_said(read: Read) -> None:
    told = read(
        allow_clients=["10.1.0.0/16", "2001:db8::7"],
        tunnel=["*.Example.com", "registries"],
        tunnel_ports=[443, 8443],
        connections_per_client=7,
        header_timeout="2s",
        idle_timeout="1h",
        drain_timeout="5m",
    ).admission
    assert told == Admission(
        clients=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("2001:db8::7/128")),
        tunnel=("*.example.com", "registries"),
        ports=frozenset({443, 8443}),
        connections=7,
        header=2.0,
        idle=3600.0,
        drain=300.0,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allow_clients": []}, "mirrortap.allow-clients: nobody could connect"),
        ({"allow_clients": ["10.0.0.1/8"]}, "mirrortap.allow-clients[0]: '10.0.0.1/8' is not a network"),
        ({"allow_clients": ["builders"]}, "mirrortap.allow-clients[0]: 'builders' is not a network"),
        ({"tunnel": "none"}, 'mirrortap.tunnel: write "all", "registries" or a list of hosts'),
        ({"tunnel": 443}, 'mirrortap.tunnel: write "all", "registries" or a list of hosts'),
        ({"tunnel": ["a.example", "https://b.example"]}, "mirrortap.tunnel[1]: 'https://b.example' is not host[:port]"),
        ({"tunnel": ["*"]}, "mirrortap.tunnel[0]: '*' is not host[:port]"),
        ({"tunnel": ["a.*.example"]}, "mirrortap.tunnel[0]: 'a.*.example' is not host[:port]"),
        ({"tunnel": ["*.10.0.0.1"]}, "mirrortap.tunnel[0]: '*.10.0.0.1' is not a name and its subdomains"),
        ({"tunnel": ["a.example:99999"]}, "mirrortap.tunnel[0]: 'a.example:99999' is not host[:port]"),
        ({"tunnel": ["10.0.0.0/8"]}, "mirrortap.tunnel[0]: '10.0.0.0/8' is not host[:port]"),
        ({"tunnel_ports": [0]}, "mirrortap.tunnel-ports[0]: a port is a number from 1 to 65535"),
        ({"tunnel_ports": 443}, "mirrortap.tunnel-ports: "),
        ({"connections_per_client": 0}, "mirrortap.connections-per-client: "),
        ({"header_timeout": "0s"}, "mirrortap.header-timeout: "),
        ({"idle_timeout": "soon"}, "mirrortap.idle-timeout: "),
        ({"drain_timeout": "0s"}, "mirrortap.drain-timeout: "),
        ({"proxy_users": "nowhere/users"}, "mirrortap.proxy-users: "),
        ({"proxy_users": ""}, "mirrortap.proxy-users: "),
    ],
)
def test_what_is_wrong_is_said(read: Read, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
