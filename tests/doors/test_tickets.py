"""The mirror door, asked with what clients of the proxy are sent there with."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest
from support.clock import Clock
from support.config import toml
from support.mirror import Mirror
from support.proxy import exchange
from support.registry import FakeRegistry
from support.waiting import until

from addon.fingerprints import Fingerprints
from addon.oci import Blob, Digest
from addon.tickets import LIFE, Tickets
from doors.test_mirror_door import ANN, by_kernel, error, until_sent

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority
    from support.proxy import Response
    from support.threads import LoopThread

REGISTRY, NAME = "registry.test:5000", "team/app"
LARGE = bytes(range(256)) * (12 << 10)
__all__ = ["by_kernel"]


@pytest.fixture
def origin(loop_thread: LoopThread, authority: Authority) -> FakeRegistry:
    return loop_thread.enter(FakeRegistry(tls=authority))


@pytest.fixture
def digest(origin: FakeRegistry) -> Digest:
    return Digest.parse(origin.content.put_blob(NAME, LARGE))


@pytest.fixture
def mirror(
    loop_thread: LoopThread, authority: Authority, origin: FakeRegistry, tmp_path: Path, digest: Digest
) -> Mirror:
    """For those who have a login, or a ticket."""
    (tmp_path / "users").write_text(ANN)
    (tmp_path / "users").chmod(0o600)
    tables = {REGISTRY: {"server": origin.url, "ca": [authority.file]}}
    mirror = loop_thread.enter(Mirror(tmp_path / "mirror", toml(tables, {"proxy-users": tmp_path / "users"})))
    first = mirror.get(ticket(mirror, digest))
    assert (first.status, first.body) == (200, LARGE)
    # A download whose file is in place may not be over yet: who comes then is served by it.
    until(lambda: mirror.service.tally._fills)
    return mirror


def ticket(mirror: Mirror, digest: Digest, ago: float = 0, client: str = "127.0.0.1") -> str:
    """As a worker of this proxy made it so many seconds ago."""
    made = Tickets(Fingerprints.open(mirror.cache.parent / "fingerprints.key"), Clock(time.time() - ago))
    return made.made(REGISTRY, Blob(NAME, digest), client)


def test_it_opens_the_blob(
    mirror: Mirror, digest: Digest, by_kernel: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    target = ticket(mirror, digest)
    got = mirror.get(target)
    assert (got.status, got.body) == (200, LARGE)
    assert got.headers["Docker-Content-Digest"] == str(digest)
    assert got.headers["Cache-Status"] == "mirrortap; hit"
    until_sent(by_kernel, len(LARGE))
    part = mirror.get(target, {"Range": "bytes=1000000-"})
    assert (part.status, part.body) == (206, LARGE[1_000_000:])
    assert mirror.get(target, {"Range": f"bytes={len(LARGE)}-"}).status == 416
    head = mirror.request("HEAD", target)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(LARGE)))
    until(lambda: len(caplog.messages) >= 4)
    assert any(line.startswith(f"GET {REGISTRY}/{NAME} blob {digest.short} 200 hit 3.1 MB") for line in caplog.messages)
    assert "for=" not in caplog.text


def test_it_opens_what_is_not_cached_any_more(mirror: Mirror, origin: FakeRegistry, digest: Digest) -> None:
    asked = len(origin.requests)
    (mirror.cache / "blobs" / str(digest).replace(":", "/")).unlink()
    got = mirror.get(ticket(mirror, digest))
    assert (got.status, got.body) == (200, LARGE)
    assert len(origin.requests) > asked


def test_what_the_registry_does_not_have(mirror: Mirror) -> None:
    """Beyond the ticket, the engine is asked as by anybody else at this door."""
    status, code, _ = error(mirror.get(ticket(mirror, Digest("sha256", "0" * 64))))
    assert (status, code) == (404, "BLOB_UNKNOWN")


def test_an_older_one(mirror: Mirror, digest: Digest) -> None:
    assert mirror.get(ticket(mirror, digest, ago=LIFE - 30)).status == 200
    status, code, message = error(mirror.get(ticket(mirror, digest, ago=LIFE + 2)))
    assert (status, code) == (403, "DENIED")
    assert message == "this URL was good for 60 s; pull again to get a new one"


def test_somebody_elses(mirror: Mirror, digest: Digest) -> None:
    mine = ticket(mirror, digest)
    status, code, message = error(got_from("127.0.0.2", mirror, mine))
    assert (status, code) == (403, "DENIED")
    assert message.startswith("this URL is not signed for 127.0.0.2; clients must reach the proxy and its mirror door")
    assert 'redirect = "never"' in message
    assert got_from("127.0.0.2", mirror, ticket(mirror, digest, client="127.0.0.2")).body == LARGE


def test_a_forged_one(mirror: Mirror, digest: Digest) -> None:
    good = ticket(mirror, digest)
    path, _, rest = good.partition("?until=")
    until, _, signed = rest.partition("&for=")
    other = f"/blob/sha256:{'0' * 64}"
    for bad in (
        f"{other}?until={until}&for={signed}",
        f"{path}?until={int(until) + 1}&for={signed}",
        f"{path}?until={until}&for={'0' * len(signed)}",
        f"{path}?until={until}&for={signed[:-2]}",
        f"{path}?until={until}",
        path,
    ):
        status, code, _ = error(mirror.get(bad))
        assert (status, code) == (403, "DENIED")
    assert mirror.get(good).status == 200


def test_it_stands_for_the_login_for_this_alone(mirror: Mirror, digest: Digest) -> None:
    assert mirror.get(f"/v2/{REGISTRY}/{NAME}/blobs/{digest}").status == 401
    assert mirror.get(ticket(mirror, digest)).status == 200
    assert mirror.request("POST", ticket(mirror, digest)).status == 405


def got_from(source: str, mirror: Mirror, target: str) -> Response:
    with closing(HTTPConnection(*mirror.address, timeout=30, source_address=(source, 0))) as connection:
        return exchange(connection, "GET", target)
