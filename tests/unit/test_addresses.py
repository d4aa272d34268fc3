"""Which addresses are never connected to, however they are written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon import addresses

# Each way in which an IPv6 address can mean an IPv4 one.
FORMS = (
    "{0}",
    "::ffff:{0}",
    "::{0}",
    "::ffff:0:{0}",
    "64:ff9b::{0}",
    "64:ff9b:1::{0}",
    "2001:db8::5efe:{0}",
    "2001:db8::200:5efe:{0}",
)


def forms(address: ipaddress.IPv4Address) -> list[str]:
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    # A Teredo address holds the client's inverted.
    teredo = f"2001:0:4136:e378:8000:63bf:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"
    return [*(form.format(address) for form in FORMS), f"2002:{high:x}:{low:x}::1", teredo]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "this machine itself"),
        ("127.255.255.254", "this machine itself"),
        ("0.0.0.0", "this machine itself"),
        ("0.1.2.3", "this machine itself"),
        ("169.254.169.254", "link-local"),
        ("169.254.170.2", "link-local"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.192", "metadata"),
        ("224.0.0.1", "not one machine"),
        ("255.255.255.255", "not one machine"),
    ],
)
def test_forbidden_in_every_form(address: str, why: str) -> None:
    for form in forms(ipaddress.IPv4Address(address)):
        if form != "::0.0.0.0":  # :: itself, below
            assert why in (addresses.forbidden(form) or ""), form


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("::1", "this machine itself"),
        ("::", "this machine itself"),
        ("::ffff:7f00:1", "this machine itself"),
        ("0:0:0:0:0:0:0:1", "this machine itself"),
        ("::1%lo", "this machine itself"),
        ("fe80::1", "link-local"),
        ("fe80::a9fe:a9fe%eth0", "link-local"),
        ("febf::1", "link-local"),
        ("fe80::5efe:8.8.8.8", "link-local"),
        ("ff02::1", "not one machine"),
        ("fd00:ec2::254", "metadata"),
        ("fd00:ec2::23", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("fd00:a9fe:a9fe::1", "metadata"),
        ("fd00:c1::a9fe:a9fe", "metadata"),
        ("fd00:42::42", "metadata"),
    ],
)
def test_forbidden_ipv6(address: str, why: str) -> None:
    assert why in (addresses.forbidden(address) or "")


def test_everything_else_may_be_connected_to() -> None:
    """A registry inside a company is at a private address."""
    for address in ("192.0.2.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"):
        for form in forms(ipaddress.IPv4Address(address)):
            assert addresses.forbidden(form) is None, form
    for address in ("2001:db8::1", "fd00::2", "2606:4700::1111"):
        assert addresses.forbidden(address) is None


@given(st.ip_addresses())
def test_every_address_has_an_answer(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    told = addresses.forbidden(str(address))
    assert told is None or told
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        assert told


@given(st.ip_addresses(v=4))
def test_a_form_does_not_matter(address: ipaddress.IPv4Address) -> None:
    plain, *others = forms(address)
    for form in others:
        if ipaddress.ip_address(form) not in ipaddress.ip_network("::/127"):
            assert addresses.forbidden(form) == addresses.forbidden(plain), form


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "[::1]", "127.0.0.1:80"])
def test_what_is_no_address_is_not_judged(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        addresses.forbidden(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fd00::2", "fd00::2"),
        ("::1", "::1"),
    ],
)
def test_an_address_as_people_count_it(text: str, address: str) -> None:
    assert addresses.parse(text) == ipaddress.ip_address(address)
