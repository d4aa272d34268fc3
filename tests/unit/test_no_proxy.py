"""Which hosts are reached past the parent proxy: as Go programs understand the variable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.no_proxy import NoProxy

if TYPE_CHECKING:
    import ipaddress

LIST = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30,"
    " 2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64, Ports.example:80,"
    "xn--bcher-kva.example"
)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::2", False),
        ("192.168.1.1", True),
        ("192.168.1.2", False),
        ("192.168.1.3", True),
        ("192.168.1.4", False),
        ("10.0.0.2", True),
        ("10.0.0.4", False),
        ("::ffff:10.0.0.2", True),
        ("2001:db8::52:0:1", True),
        ("2001:db8::52:0:2", False),
        ("2001:DB8::52:0:3", True),
        ("2002:db8:a::123", True),
        ("fe80::424b:c8be:1643:a1b6", False),
        ("barbaz.net", False),
        ("www.barbaz.net", True),
        ("foobar.com", True),
        ("FooBar.com.", True),
        ("www.foobar.com", True),
        ("foofoobar.com", False),
        ("localhost.net", False),
        ("local.localhost", False),
        ("wildcard.io", False),
        ("nested.wildcard.io", True),
        ("awildcard.io", False),
        ("ports.example", True),
        ("a.ports.example", True),
        ("bücher.example", True),
        ("", False),
        ("1000::%25.foobar.com", False),
    ],
)
def test_the_examples_of_go_at_port_80(host: str, direct: bool) -> None:
    assert NoProxy(LIST).holds(host, 80) is direct


def test_a_port_is_that_port_alone() -> None:
    said = NoProxy("a.example:5000, [::5]:5000, 192.0.2.1:5000")
    for host in "a.example", "b.a.example", "::5", "192.0.2.1":
        assert said.holds(host, 5000)
        assert not said.holds(host, 443)


def test_everything_is_a_star() -> None:
    said = NoProxy("a.example, *")
    assert said.holds("anything.example", 1)
    assert said.holds("192.0.2.1", 65535)


def test_nothing_said_is_this_machine_alone() -> None:
    for said in NoProxy(), NoProxy(""), NoProxy(" , ,"):
        assert said.holds("localhost", 5000)
        assert not said.holds("a.example", 443)
        assert said.ignored == ()


@pytest.mark.parametrize(
    "entry",
    [
        *("10.*", "*example", "a.*.example", "a.example b.example", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "a/8", ":1"),
        *("*.", "[::1", "[a]", "http://a.example", "a.example:http", "<local>", "."),
    ],
)
def test_what_names_no_host_is_ignored_and_told(entry: str) -> None:
    said = NoProxy(f"a.example,{entry}")
    assert said.ignored == (entry,)
    assert said.holds("a.example", 443)
    assert not said.holds("example", 443)


LABEL = st.from_regex(r"[a-z][a-z0-9-]{0,6}", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda host: host != "localhost")
PORT = st.integers(0, 65535)


@given(HOST, LABEL, PORT)
def test_a_name_is_for_its_subdomains_and_with_a_dot_for_them_alone(host: str, label: str, port: int) -> None:
    for entry, itself in (host, True), (f".{host}", False), (f"*.{host}", False):
        said = NoProxy(entry)
        assert said.holds(host, port) is itself
        assert said.holds(f"{label}.{host}", port)
        assert not said.holds(f"{label}x{host}.", port) or f"{label}x{host}".endswith(f".{host}")


ADDRESS = st.ip_addresses().filter(lambda address: getattr(address, "ipv4_mapped", None) is None)


@given(ADDRESS, st.integers(0, 128), PORT)
def test_networks(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int, port: int) -> None:
    prefix = min(prefix, address.max_prefixlen)
    said = NoProxy(f"{address}/{prefix}")
    assert said.ignored == ()
    assert said.holds(str(address), port)
    flipped = type(address)(int(address) ^ (1 << (address.max_prefixlen - prefix) if prefix else 0))
    if prefix and not flipped.is_loopback and not getattr(flipped, "ipv4_mapped", None):
        assert not said.holds(str(flipped), port)


@given(st.text(max_size=40), st.text(max_size=20), PORT)
def test_nothing_breaks_it(value: str, host: str, port: int) -> None:
    assert NoProxy(value).holds(host, port) in (True, False)
