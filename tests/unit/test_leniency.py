"""Which endpoints are not verified, by the networks that their names lead to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

import pytest

from addon.config.model import Tls
from addon.upstream.leniency import Leniency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEN = Tls(lenient=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")))
VERIFIED, UNVERIFIED = Tls(), Tls(verify=False)


class Resolver:
    """The system's, in place of the loop's: `names` has addresses, `asked` the lookups, which wait for `open`."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def getaddrinfo(self, host: str, port: None, **options: Any) -> list[Any]:
        self.asked.append(host)
        await self.open.wait()
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.names[host]]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver(inside=["10.1.2.3"], both=["192.0.2.1", "10.1.2.3"], outside=["192.0.2.1"], six=["fd00::1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    return resolver


@pytest.fixture
async def leniency(resolver: Resolver) -> AsyncIterator[Leniency]:
    leniency = Leniency()
    yield leniency
    await leniency.close()


@pytest.mark.parametrize(
    ("host", "decided"),
    [("inside", UNVERIFIED), ("both", UNVERIFIED), ("six", UNVERIFIED), ("outside", VERIFIED), ("unknown", VERIFIED)],
)
async def test_by_name(leniency: Leniency, host: str, decided: Tls) -> None:
    assert await leniency.decided(TEN, host) == decided


@pytest.mark.parametrize(
    ("host", "decided"),
    [("10.0.0.1", UNVERIFIED), ("::ffff:10.0.0.1", UNVERIFIED), ("fd00::1", UNVERIFIED), ("11.0.0.1", VERIFIED)],
)
async def test_an_address_is_not_looked_up(leniency: Leniency, resolver: Resolver, host: str, decided: Tls) -> None:
    assert await leniency.decided(TEN, host) == decided
    assert resolver.asked == []


async def test_nothing_is_looked_up_that_makes_no_difference(leniency: Leniency, resolver: Resolver) -> None:
    assert await leniency.decided(VERIFIED, "inside") == VERIFIED
    assert await leniency.decided(Tls(verify=False, lenient=TEN.lenient), "inside") == UNVERIFIED
    assert resolver.asked == []


async def test_what_else_is_said_stays(leniency: Leniency, tmp_path: Path) -> None:
    ca = (tmp_path / "ca.pem",)
    assert await leniency.decided(Tls(ca, lenient=TEN.lenient), "inside") == Tls(ca, verify=False)


async def test_many_at_once_are_one_lookup_that_is_kept(leniency: Leniency, resolver: Resolver) -> None:
    resolver.open.clear()
    waiting = [asyncio.create_task(leniency.decided(TEN, "inside")) for _ in range(20)]
    gone = waiting.pop()
    await asyncio.sleep(0)
    gone.cancel()  # one that leaves takes the lookup from nobody
    resolver.open.set()
    assert await asyncio.gather(*waiting) == [UNVERIFIED] * 19
    assert await leniency.decided(TEN, "inside") == UNVERIFIED
    assert resolver.asked == ["inside"]


async def test_a_name_that_was_not_known_is_looked_up_again(leniency: Leniency, resolver: Resolver) -> None:
    assert await leniency.decided(TEN, "later") == VERIFIED
    resolver.names["later"] = ["10.0.0.1"]
    assert await leniency.decided(TEN, "later") == UNVERIFIED


async def test_a_name_that_can_be_none(leniency: Leniency, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert await leniency.decided(TEN, "a" * 64 + ".test") == VERIFIED
