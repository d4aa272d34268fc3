"""What `config check` finds, against servers with each fault."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme
from support.access import Policy
from support.auth import BasicAuth, BearerAuth
from support.config import toml
from support.faults import Status
from support.parent import SECRETS, ParentProxy

from addon.config.load import load
from addon.fingerprints import Fingerprints
from addon.loops import Via
from addon.parent import Parents
from addon.upstream.probe import Probe
from engine.harness import REGISTRY, RawExchange, RawServer, closed_port, configuration
from engine.test_parent import Named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.certificates import Authority

    from addon.upstream.findings import Finding
    from engine.conftest import Setup

NOW = datetime.now(UTC)


async def find(folder: Path, text: str, parents: Parents | None = None, now: datetime | None = None) -> list[Finding]:
    """At the endpoints of REGISTRY."""
    (folder / "mirrortap.toml").write_text(text)
    config = load([folder / "mirrortap.toml"])
    rule = config.rules[REGISTRY]
    probe = Probe(config, Via(Fingerprints(b"tests")), parents or Parents(), lambda: now or datetime.now(UTC))
    try:
        found = await probe.look([*rule.mirrors, *rule.origins])
    finally:
        await probe.close()
    return list(found.values())


async def one(folder: Path, text: str, parents: Parents | None = None, now: datetime | None = None) -> Finding:
    (finding,) = await find(folder, text, parents, now)
    return finding


def told(finding: Finding) -> str:
    return " | ".join(f"{problem.what} -> {problem.remedy}" for problem in finding.problems)


def mirror_only(where: str, **table: object) -> str:
    """A configuration with that mirror alone."""
    rule = {"mirrors": [where], "fallback": False, "access": "open"}
    return toml({REGISTRY: rule, where: {"http": False, **table}})


async def test_all_is_well(setup: Setup, tmp_path: Path, authority: Authority) -> None:
    origin = await setup.registry()
    mirror = await setup.registry(auth=BearerAuth(Policy()))
    found = await find(tmp_path, configuration(authority, origin, [mirror]))
    assert [each.problems for each in found] == [[], []]
    assert [each.status for each in found] == [200, 200]
    assert "gives anybody a token" in found[0].notes
    assert [request.path for request in origin.requests] == ["/v2/"]
    for each in found:
        (leaf,) = each.chain
        assert "127.0.0.1" in leaf.names
        assert leaf.not_before < NOW < leaf.not_after
        assert leaf.issuer != leaf.subject
        assert each.seconds is not None


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("nobody.test", "DNS: nobody.test is not known -> correct the name in nobody.test ("),
        ("CLOSED", "Connection refused: nothing listens there -> start it, or correct the port in 127.0.0.1:"),
        ("SILENT", "no connection in time -> see whether a firewall lets this machine through"),
    ],
)
async def test_nobody_is_there(tmp_path: Path, where: str, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes no connection
        where = {"CLOSED": closed_port(), "SILENT": f"127.0.0.1:{silent.getsockname()[1]}"}.get(where, where)
        text = toml(
            {REGISTRY: {"mirrors": [where], "fallback": False}, where: {"http": False}}, {"connect-timeout": "300ms"}
        )
        finding = await one(tmp_path, text)
    assert what in told(finding)
    assert finding.status is None


async def test_a_ca_that_is_not_trusted(setup: Setup, tmp_path: Path, stranger: Authority) -> None:
    mirror = await setup.registry(tls=stranger)
    finding = await one(tmp_path, mirror_only(mirror.endpoint))
    (leaf,) = finding.chain
    assert f"its certificate comes from {leaf.issuer}, which is not trusted here" in told(finding)
    assert f'write ca = ["FILE"] with that one\'s certificate under [registry."{mirror.endpoint}"]' in told(finding)
    # What the remedy says, helps.
    assert (await one(tmp_path, mirror_only(mirror.endpoint, ca=[stranger.file]))).problems == []


@pytest.mark.parametrize("ended", [True, False])
async def test_a_certificate_that_has_ended_or_not_begun(tmp_path: Path, ended: bool) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    begin, end = (NOW - timedelta(days=9), NOW - timedelta(days=2)) if ended else (NOW + timedelta(days=2), None)
    leaf = ca.issue_cert("127.0.0.1", not_before=begin, not_after=end or NOW + timedelta(days=9))
    async with serving(leaf, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as endpoint:
        finding = await one(tmp_path, mirror_only(endpoint, ca=["ca.pem"]), now=NOW)
    assert ("certificate has expired" if ended else "certificate is not yet valid") in told(finding)
    assert f"is good from {begin:%Y-%m-%d} to " in told(finding)
    assert f"this machine's clock says {NOW:%Y-%m-%d}" in told(finding)
    assert finding.chain[0].not_before == begin.replace(microsecond=0)


async def test_a_certificate_that_only_this_machines_clock_ends(tmp_path: Path) -> None:
    """As the server's Date says: its clock is where the certificate is good."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    then = NOW - timedelta(days=5)
    leaf = ca.issue_cert("127.0.0.1", not_before=then - timedelta(days=1), not_after=then + timedelta(days=1))
    date = then.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
    async with serving(leaf, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: " + date + b"\r\n\r\n") as endpoint:
        finding = await one(tmp_path, mirror_only(endpoint, ca=["ca.pem"]))
    assert told(finding).endswith("it is good -> set this machine's clock")


async def test_a_network_in_which_nothing_is_verified(setup: Setup, tmp_path: Path, stranger: Authority) -> None:
    registry = await setup.registry(tls=stranger)
    settings = {"registries": {REGISTRY: [f"https://localhost:{registry.endpoint.rpartition(':')[2]}"]}}
    (tmp_path / "daemon.json").write_text(json.dumps(settings))
    config = load([tmp_path / "daemon.json"])
    probe = Probe(config, Via(Fingerprints(b"tests")), Parents())
    try:
        (found,) = (await probe.look(config.rules[REGISTRY].mirrors)).values()
    finally:
        await probe.close()
    assert (found.status, found.problems) == (200, [])


async def test_another_name(setup: Setup, tmp_path: Path, authority: Authority) -> None:
    mirror = await setup.registry(names=("other.test",))
    where = mirror.endpoint.replace("127.0.0.1", "localhost")
    finding = await one(tmp_path, mirror_only(where, ca=[authority.file]))
    assert "its certificate is for other.test, 127.0.0.1, and not for localhost" in told(finding)


async def test_no_tls_where_it_is_wanted_and_the_reverse(setup: Setup, tmp_path: Path, authority: Authority) -> None:
    plain, secured = await setup.registry(tls=None), await setup.registry()
    finding = await one(tmp_path, mirror_only(plain.endpoint))
    assert "it speaks plain http, and is asked over https -> " in told(finding)
    assert f'http = true under [registry."{plain.endpoint}"]' in told(finding)
    finding = await one(tmp_path, mirror_only(secured.endpoint, http=True))
    assert "it speaks TLS, and is asked over plain http -> write http = false under" in told(finding)
    assert finding.chain


async def test_a_client_certificate_is_wanted(tmp_path: Path, authority: Authority) -> None:
    context = authority.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    # Where that is said within the handshake.
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def refuse(listening: socket.socket) -> None:
        # Not asyncio's TLS, which keeps why it ends to itself.
        with suppress(OSError):
            while True:
                raw, _ = listening.accept()
                with suppress(ssl.SSLError), context.wrap_socket(raw, True, do_handshake_on_connect=False) as accepted:
                    accepted.do_handshake()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listening))
        finding = await one(tmp_path, mirror_only(where, ca=[authority.file]))
        listening.shutdown(socket.SHUT_RDWR)
        await refusing
    assert "TLS: " in told(finding)
    assert "whether it wants a client certificate (keypair)" in told(finding)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Status(404), "/v2/ is not there (HTTP 404): there is no registry, or its API is at another path"),
        (Status(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"), "/v2/ is a web page (HTTP 200)"),
        (Status(403), "/v2/ is refused (HTTP 403)"),
        (Status(429), "too many requests"),
        (Status(503), "/v2/ fails there (HTTP 503)"),
        (Status(418), "HTTP 418, which no registry answers"),
        (Status(302, {"Location": "/login"}), "/login is not there (HTTP 404)"),
        (Status(302, {"Location": "/v2/"}), "redirects more than 5 times"),
        (Status(401, {"WWW-Authenticate": "Negotiate"}), "does not say how to log in"),
        (Status(401, {"WWW-Authenticate": 'Bearer realm="https://u:s3cret@auth.test/t"'}), "DNS: auth.test is not"),
        (Status(401, {"WWW-Authenticate": 'Bearer realm="nonsense"'}), "its token server"),
    ],
)
async def test_something_else_is_there(
    setup: Setup, tmp_path: Path, authority: Authority, fault: Status, what: str
) -> None:
    mirror = await setup.registry()
    mirror.inject(fault, kind="ping")
    finding = await one(tmp_path, mirror_only(mirror.endpoint, ca=[authority.file]))
    assert what in told(finding)
    assert "s3cret" not in told(finding)
    assert len(finding.problems) == 1


async def test_what_is_no_http(tmp_path: Path, authority: Authority) -> None:
    async def nonsense(exchange: RawExchange) -> None:
        await exchange.send(b"220 mail.test ESMTP\r\n")

    async with RawServer(authority, nonsense) as server:
        finding = await one(tmp_path, mirror_only(server.endpoint, ca=[authority.file]))
    assert "not a valid HTTP answer" in told(finding)


async def test_where_the_api_is(setup: Setup, tmp_path: Path, authority: Authority) -> None:
    mirror = await setup.registry()
    text = toml(
        {
            REGISTRY: {"mirrors": [f"{mirror.endpoint}/hub"], "fallback": False},
            mirror.endpoint: {"http": False, "ca": [authority.file]},
        }
    )
    assert (await one(tmp_path, text)).problems == []
    assert [request.path for request in mirror.requests] == ["/v2/"]


@pytest.mark.parametrize(("hours", "side"), [(2, "behind"), (-2, "ahead of")])
async def test_clocks_that_differ(setup: Setup, tmp_path: Path, authority: Authority, hours: int, side: str) -> None:
    mirror = await setup.registry()
    text = mirror_only(mirror.endpoint, ca=[authority.file])
    finding = await one(tmp_path, text, now=datetime.now(UTC) + timedelta(hours=hours))
    assert f"its clock is 120 minutes {side} this machine's (" in told(finding).replace("2 hours", "120 minutes")
    assert (await one(tmp_path, text)).problems == []


USERS = Policy(users={"ann": "s3cret"})


@pytest.mark.parametrize("auth", [BasicAuth(USERS), BearerAuth(USERS)])
async def test_credentials(
    setup: Setup, tmp_path: Path, authority: Authority, auth: BasicAuth | BearerAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = type(auth)(USERS)
    mirror = await setup.registry(auth=auth)
    login = {"username": "ann", "password-env": "MIRROR_PASSWORD"}
    text = mirror_only(mirror.endpoint, ca=[authority.file], auth=login)
    monkeypatch.setenv("MIRROR_PASSWORD", "s3cret")
    finding = await one(tmp_path, text)
    assert (finding.problems, finding.status) == ([], 200)
    assert any("is accepted" in note for note in finding.notes)
    monkeypatch.setenv("MIRROR_PASSWORD", "wr0ng")
    finding = await one(tmp_path, text)
    assert "the credential for 127.0.0.1:" in told(finding)
    assert "was refused -> log in anew" in told(finding)
    assert not any(word in told(finding) for word in ("wr0ng", "s3cret"))


async def test_credentials_that_cannot_be_had_and_those_that_are_missing(
    setup: Setup, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = await setup.registry(auth=BasicAuth(USERS))
    helper = tmp_path / "docker-credential-broken"
    helper.write_text("#!/bin/sh\necho s3cret\nexit 3\n")
    helper.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "config.json").write_text(f'{{"credHelpers": {{"{mirror.endpoint}": "broken"}}}}')
    (tmp_path / "config.json").chmod(0o600)
    finding = await one(
        tmp_path, mirror_only(mirror.endpoint, ca=[authority.file], auth={"docker-config": "config.json"})
    )
    assert "cannot be had: docker-credential-broken ended with exit code 3" in told(finding)
    assert "s3cret" not in told(finding)
    finding = await one(tmp_path, mirror_only(mirror.endpoint, ca=[authority.file]))
    assert "it wants a user and password, and there is none of ours for it -> write [registry." in told(finding)
    # Of an origin, that is the clients' own.
    found = await find(tmp_path, configuration(authority, mirror, []))
    assert found[0].problems == []
    assert found[0].status == 401
    assert "wants a user and password, which clients get with their own login" in found[0].notes


async def test_a_parent_proxy_is_gone_through_and_named(setup: Setup, tmp_path: Path, authority: Authority) -> None:
    mirror = await setup.enter(Named(names=("mirror.test",), tls=authority))
    async with ParentProxy() as parent:
        parents = Parents.from_environment({"HTTPS_PROXY": parent.url})
        finding = await one(tmp_path, mirror_only(mirror.endpoint, ca=[authority.file]), parents)
        assert finding.problems == []
        assert finding.notes == [f"through the parent proxy {parent.endpoint} ($HTTPS_PROXY)"]
        assert finding.chain[0].names == ("mirror.test", "127.0.0.1")
        assert parent.tunnels() == [mirror.endpoint]
        parent.answers["mirror.test"] = b"HTTP/1.1 403 Not For You\r\nContent-Length: 0\r\n\r\n"
        finding = await one(tmp_path, mirror_only(mirror.endpoint, ca=[authority.file]), parents)
        assert "answered 403 Not For You -> correct $HTTPS_PROXY" in told(finding)
        assert not any(secret in told(finding) for secret in SECRETS)


async def test_a_pattern_has_no_host_to_try(tmp_path: Path) -> None:
    (tmp_path / "mirrortap.toml").write_text(toml({"*.corp.test": {"mirrors": ["127.0.0.1:1"]}}))
    config = load([tmp_path / "mirrortap.toml"])
    probe = Probe(config, Via(Fingerprints(b"tests")), Parents())
    try:
        found = await probe.look(config.rules["*.corp.test"].origins)
    finally:
        await probe.close()
    assert [each.notes for each in found.values()] == [["stands for many hosts: there is none to try"]]


@asynccontextmanager
async def serving(shown: trustme.LeafCert | ssl.SSLContext, answer: bytes) -> AsyncIterator[str]:
    """Where somebody with that certificate gives this answer to everything."""
    context = shown if isinstance(shown, ssl.SSLContext) else ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if isinstance(shown, trustme.LeafCert):
        shown.configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
