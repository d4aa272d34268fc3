"""What a ticket opens, for whom and how long; and which door a client can be sent to."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock

from addon.fingerprints import Fingerprints
from addon.oci import Blob, Digest, OciError
from addon.tickets import LIFE, Ticket, Tickets, door_at

BLOB = Blob("library/app", Digest("sha256", "ab" * 32))
CLIENT = "10.0.0.7"
KEY = b"k" * 32


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.5)


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(Fingerprints(KEY), clock)


def denied(tickets: Tickets, target: str, client: str, told: str) -> None:
    with pytest.raises(OciError) as caught:
        tickets.read(target, client)
    assert (caught.value.status, caught.value.code) == (403, "DENIED")
    assert told in caught.value.message


@pytest.mark.parametrize("registry", ["docker.io", "registry.test:5000"])
@pytest.mark.parametrize("digest", [BLOB.reference, Digest("sha512", "0f" * 64)])
@pytest.mark.parametrize("client", [CLIENT, "fd00::7"])
def test_what_is_read_is_what_was_made(registry: str, digest: Digest, client: str, tickets: Tickets) -> None:
    target = tickets.made(registry, Blob("library/app", digest), client)
    assert tickets.read(target, client) == Ticket(registry, f"/v2/library/app/blobs/{digest}")


def test_it_shows_the_digest_and_its_end_alone(tickets: Tickets, clock: Clock) -> None:
    target = tickets.made("registry.test", BLOB, CLIENT)
    match = re.fullmatch(rf"/blob/{BLOB.reference}\?until=(\d+)&for=([0-9a-f]+)", target)
    assert match
    assert int(match[1]) - clock() <= LIFE
    sealed = bytes.fromhex(match[2])
    assert not any(name in sealed for name in (b"registry", b"library", b"app", CLIENT.encode()))


def test_it_ends(tickets: Tickets, clock: Clock) -> None:
    target = tickets.made("registry.test", BLOB, CLIENT)
    clock.now += LIFE - 1
    tickets.read(target, CLIENT)
    clock.now += 2
    denied(tickets, target, CLIENT, "pull again")


def test_it_is_for_one_client(tickets: Tickets) -> None:
    target = tickets.made("registry.test", BLOB, CLIENT)
    denied(
        tickets, target, "10.0.0.8", "not signed for 10.0.0.8; clients must reach the proxy and its mirror door from"
    )


def test_another_workers_is_as_good_and_another_proxys_is_not(tickets: Tickets, clock: Clock) -> None:
    target = tickets.made("registry.test", BLOB, CLIENT)
    assert Tickets(Fingerprints(KEY), clock).read(target, CLIENT).registry == "registry.test"
    denied(Tickets(Fingerprints(b"l" * 32), clock), target, CLIENT, "not signed")


@given(st.data())
def test_whatever_is_changed_makes_it_worthless(data: st.DataObject) -> None:
    tickets = Tickets(Fingerprints(KEY), Clock(1_800_000_000.0))
    target = tickets.made("registry.test", BLOB, CLIENT)
    fields = re.fullmatch(r"(/blob/sha256:)([0-9a-f]+)(\?until=)([0-9]+)(&for=)([0-9a-f]+)", target)
    assert fields
    field = data.draw(st.integers(1, 6))
    at = data.draw(st.integers(fields.start(field), fields.end(field) - 1))
    kind = data.draw(st.sampled_from(["other", "out", "in"]))
    new = "" if kind == "out" else data.draw(st.sampled_from("0123456789abcdefABCDEF:/?&=%+ \n\u0661"))
    changed = target[:at] + new + target[at + (kind != "in") :]
    if changed != target:
        denied(tickets, changed, CLIENT, "URL")


@given(st.text(max_size=200))
def test_what_is_no_ticket_is_refused(text: str) -> None:
    tickets = Tickets(Fingerprints(KEY))
    for target in text, f"/blob/{text}", f"/blob/sha256:{'0' * 64}?until=1&for={text.encode().hex()}":
        denied(tickets, target, CLIENT, "URL")


@pytest.mark.parametrize(
    ("local", "listening", "url"),
    [
        ("10.0.0.2", [("10.0.0.2", 5000)], "http://10.0.0.2:5000"),
        ("10.0.0.2", [("0.0.0.0", 5000)], "http://10.0.0.2:5000"),
        ("::ffff:10.0.0.2", [("0.0.0.0", 5000)], "http://10.0.0.2:5000"),
        ("10.0.0.2", [("::", 5000), ("0.0.0.0", 5001)], "http://10.0.0.2:5001"),
        ("fd00::2", [("0.0.0.0", 5000), ("::", 5000)], "http://[fd00::2]:5000"),
        ("fd00::2", [("fd00:0::2", 5000)], "http://[fd00::2]:5000"),
        ("169.254.1.1", [("0.0.0.0", 5000)], "http://169.254.1.1:5000"),
        ("10.0.0.2", [("127.0.0.1", 5000)], None),
        ("10.0.0.2", [("::", 5000)], None),
        ("fd00::2", [("0.0.0.0", 5000)], None),
        ("fe80::2%eth0", [("::", 5000)], None),
        ("10.0.0.2", [], None),
    ],
)
def test_the_door_as_the_client_reaches_it(local: str, listening: list[tuple[str, int]], url: str | None) -> None:
    assert door_at(local, listening) == url
