"""TLS towards clients: handshakes in memory, with clients that trust the root only."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import pytest
from OpenSSL import SSL
from support.clock import shifted

from addon.doors import leaves as module
from addon.doors.leaves import Leaves
from ca.authority import Authority, AuthorityError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ca"), ["docker.io", "ghcr.io"])


@pytest.fixture
def leaves() -> Leaves:
    return Leaves()


def client_context(root: Authority, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    context.load_verify_locations(root.root_path)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


class Client:
    """A TLS client of Python's, joined to a connection of ours."""

    def __init__(
        self, context: ssl.SSLContext, server: SSL.Connection, host: str, session: ssl.SSLSession | None = None
    ) -> None:
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._received, self._sent, server_hostname=host, session=session)
        self._server = server

    def _carry(self) -> None:
        if data := self._sent.read():
            self._server.bio_write(data)

    def _fetch(self) -> None:
        try:
            while data := self._server.bio_read(1 << 16):
                self._received.write(data)
        except SSL.WantReadError:
            pass

    def begin(self) -> None:
        """Both sides have said the first they have to say."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self._carry()
        with pytest.raises(SSL.WantReadError):
            self._server.do_handshake()

    def handshake(self) -> Self:
        client_done = server_done = False
        for _ in range(10):
            if not client_done:
                try:
                    self.tls.do_handshake()
                    client_done = True
                except ssl.SSLWantReadError:
                    pass
            self._carry()
            if not server_done:
                try:
                    self._server.do_handshake()
                    server_done = True
                except SSL.WantReadError:
                    pass
            self._fetch()
        assert client_done
        assert server_done
        return self

    def converse(self) -> None:
        """Some bytes each way; TLS 1.3 brings its session tickets along with them."""
        self.tls.write(b"GET")
        self._carry()
        assert self._server.recv(10) == b"GET"
        self._server.send(b"200")
        self._fetch()
        assert self.tls.read(10) == b"200"


@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io", "ghcr.io"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_trusts_the_root(root: Authority, leaves: Leaves, host: str, version: ssl.TLSVersion) -> None:
    context = client_context(root)
    context.minimum_version = context.maximum_version = version
    client = Client(context, leaves.connection(root, host), host).handshake()
    client.converse()
    names = client.tls.getpeercert()
    assert names is not None
    assert names["subjectAltName"] == (("DNS", host),)


def test_the_leaf_is_for_the_host_that_was_asked_for(root: Authority, leaves: Leaves) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        Client(client_context(root), leaves.connection(root, "ghcr.io"), "docker.io").handshake()


def test_a_client_that_does_not_trust_the_root(root: Authority, leaves: Leaves, tmp_path: Path) -> None:
    stranger = Authority.open(tmp_path / "ca", ["docker.io"])
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(client_context(stranger), leaves.connection(root, "docker.io"), "docker.io").handshake()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.1"], "http/1.1"),
        (["http/1.1", "h2"], "http/1.1"),
        (["h2"], None),
        ([], None),
    ],
)
def test_http_1_is_chosen(root: Authority, leaves: Leaves, offered: list[str], chosen: str | None) -> None:
    client = Client(client_context(root, *offered), leaves.connection(root, "docker.io"), "docker.io").handshake()
    assert client.tls.selected_alpn_protocol() == chosen


def test_old_tls_is_refused(root: Authority, leaves: Leaves) -> None:
    context = client_context(root)
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, SSL.Error)):
        Client(context, leaves.connection(root, "docker.io"), "docker.io").handshake()


# --- one context per host ---


def test_the_context_is_made_once_per_host(root: Authority, leaves: Leaves) -> None:
    context = leaves.connection(root, "docker.io").get_context()
    assert leaves.connection(root, "docker.io").get_context() is context
    assert leaves.connection(root, "DOCKER.io").get_context() is context
    assert leaves.connection(root, "docker.io.").get_context() is context
    assert leaves.connection(root, "ghcr.io").get_context() is not context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(root: Authority, leaves: Leaves, version: ssl.TLSVersion) -> None:
    """Clients make a connection per request: a resumed handshake costs no signature."""
    context = client_context(root, "h2", "http/1.1")
    context.minimum_version = context.maximum_version = version
    first = Client(context, leaves.connection(root, "docker.io"), "docker.io").handshake()
    first.converse()
    assert first.tls.session is not None
    assert first.tls.session_reused is False
    again = Client(context, leaves.connection(root, "docker.io"), "docker.io", first.tls.session).handshake()
    again.converse()
    assert again.tls.session_reused is True
    assert again.tls.selected_alpn_protocol() == "http/1.1"


def test_a_session_of_one_host_is_none_of_another(root: Authority, leaves: Leaves) -> None:
    context = client_context(root)
    first = Client(context, leaves.connection(root, "docker.io"), "docker.io").handshake()
    first.converse()
    other = Client(context, leaves.connection(root, "ghcr.io"), "ghcr.io", first.tls.session).handshake()
    assert other.tls.session_reused is False


SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets the clock by which leaves are renewed, to so many days from now."""

    def to(days: float) -> None:
        monkeypatch.setattr(module, "datetime", shifted(days))

    return to


def test_a_leaf_is_renewed_long_before_its_end(root: Authority, leaves: Leaves, set_clock: SetClock) -> None:
    context = leaves.connection(root, "docker.io").get_context()
    set_clock(4.5)  # of 7
    assert leaves.connection(root, "docker.io").get_context() is context
    set_clock(4.8)
    assert leaves.connection(root, "docker.io").get_context() is not context


def test_a_leaf_from_the_future_is_shown_to_nobody(root: Authority, leaves: Leaves, set_clock: SetClock) -> None:
    context = leaves.connection(root, "docker.io").get_context()
    set_clock(-1)
    assert leaves.connection(root, "docker.io").get_context() is not context


# --- when the authority is replaced ---


def reissued(root: Authority) -> Authority:
    """The same root's, with another intermediate."""
    (root.root_path.parent / "intermediate.crt").unlink()
    return reopened(root)


def reopened(root: Authority) -> Authority:
    return Authority.open(root.root_path.parent, ["docker.io", "ghcr.io"])


def test_with_another_intermediate_leaves_are_made_anew(root: Authority, leaves: Leaves) -> None:
    before = leaves.connection(root, "docker.io").get_context()
    after = reissued(root)
    assert leaves.connection(after, "docker.io").get_context() is not before
    client = Client(client_context(root), leaves.connection(after, "docker.io"), "docker.io").handshake()
    client.converse()


def test_with_the_same_intermediate_they_stay(root: Authority, leaves: Leaves) -> None:
    """Sessions would be lost for nothing."""
    first, again = reopened(root), reopened(root)
    context = leaves.connection(first, "docker.io").get_context()
    assert again is not first
    assert leaves.connection(again, "docker.io").get_context() is context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_from_before_is_no_trouble(root: Authority, leaves: Leaves, version: ssl.TLSVersion) -> None:
    context = client_context(root)
    context.minimum_version = context.maximum_version = version
    first = Client(context, leaves.connection(root, "docker.io"), "docker.io").handshake()
    first.converse()
    after = reissued(root)
    again = Client(context, leaves.connection(after, "docker.io"), "docker.io", first.tls.session).handshake()
    again.converse()
    assert again.tls.session_reused is False
    # The certificate that this handshake has shown, not the session's.
    assert again.tls.getpeercert(True) != first.tls.getpeercert(True)


def test_a_handshake_under_way_is_finished(root: Authority, leaves: Leaves) -> None:
    client = Client(client_context(root), leaves.connection(root, "docker.io"), "docker.io")
    client.begin()
    leaves.connection(reissued(root), "docker.io")
    gc.collect()
    client.handshake().converse()


@pytest.mark.parametrize(
    "host", ["example.com", "notdocker.io", "io", "192.0.2.1", "::1", "", "a_b.docker.io", "*.docker.io"]
)
def test_hosts_that_no_leaf_is_for(root: Authority, leaves: Leaves, host: str) -> None:
    with pytest.raises(AuthorityError):
        leaves.connection(root, host)


def test_hosts_that_clients_make_up_do_not_fill_the_memory(
    root: Authority, leaves: Leaves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("addon.doors.leaves._MOST", 3)
    for number in range(10):
        leaves.connection(root, f"host{number}.docker.io")
    assert len(leaves._contexts._shown) == 3


def test_a_renewed_leaf_takes_nobodys_place(
    root: Authority, leaves: Leaves, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("addon.doors.leaves._MOST", 2)
    for host in ("docker.io", "ghcr.io"):
        leaves.connection(root, host)
    set_clock(4.8)
    leaves.connection(root, "ghcr.io")
    assert len(leaves._contexts._shown) == 2
