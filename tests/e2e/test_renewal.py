"""Certificates that live for seconds are renewed under the clients' hands, and no handshake fails.

RENEWAL_SECONDS says for how long at least, and stretches the certificates' lives: 600 are leaves of a minute.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

import pytest
from cryptography import x509
from support.config import toml
from support.images import sha256
from support.processes import needs, run
from support.proxy import ROOT, mitmdump, proxy_env, serve

from e2e.conftest import APP

if TYPE_CHECKING:
    from pathlib import Path

    from support.clients import Sandbox
    from support.images import Image
    from support.programs import RealRegistry
    from support.proxy import Proxy

    from e2e.conftest import Builder

SECONDS = float(os.environ.get("RENEWAL_SECONDS", "0"))
LEAF, INTERMEDIATE = max(3.0, SECONDS / 10), max(6.0, 3 * SECONDS / 10)
# Seconds that it may take.
LONGEST = SECONDS + 40
# Between two connections of a client, and between two pulls of one.
PAUSE = max(0.05, SECONDS / 2000)
PULL_PAUSE = 10 * PAUSE


@dataclass
class Seen:
    """What the clients of one proxy have come across."""

    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    leaves: set[int] = field(default_factory=set, repr=False)
    intermediates: set[int] = field(default_factory=set, repr=False)
    full: int = 0
    resumed: int = 0
    pulls: int = 0
    failures: list[str] = field(default_factory=list)

    def saw(self, intermediates: int) -> bool:
        """Whether there were so many, more leaves than that, and a session that was resumed."""
        return len(self.leaves) > len(self.intermediates) >= intermediates and bool(self.resumed)


def renew(folder: Path) -> None:
    """An operator's `mirrortap ca renew`, for the proxy in that folder."""
    options = (f"--data={folder / 'data'}", f"--config={folder / 'mirrortap.toml'}")
    command = [sys.executable, "-m", "addon.cli", "ca", "renew", *options]
    assert "Builders need nothing" in run(command, env=proxy_env(folder), cwd=ROOT).stdout


class Client:
    """Gets a blob again and again, each time by a new connection; trusts the root alone."""

    def __init__(self, proxy: Proxy, version: ssl.TLSVersion, resuming: bool, seen: Seen) -> None:
        self._proxy = proxy
        self._seen = seen
        self._resuming = resuming
        self._session: ssl.SSLSession | None = None
        self._context = ssl.create_default_context(cafile=str(proxy.ca))
        self._context.minimum_version = self._context.maximum_version = version

    def get(self, digest: str) -> None:
        connection = _Connection(self._proxy.host, self._proxy.port, context=self._context, timeout=20)
        connection.session = self._session
        connection.set_tunnel("registry-1.docker.io", 443)
        began = time.time()
        try:
            connection.request("GET", f"/v2/library/app/blobs/{digest}")
            answer = connection.getresponse()
            assert sha256(answer.read()) == digest
            with self._seen.lock:
                self._note(connection.sock, began)
        finally:
            connection.close()

    def _note(self, tls: ssl.SSLSocket, began: float) -> None:
        if tls.session_reused:
            self._seen.resumed += 1
            shown = tls.getpeercert()
            # Go's clients look at it again, OpenSSL's do not.
            assert shown is not None
            assert ssl.cert_time_to_seconds(str(shown["notAfter"])) > began
        else:
            self._seen.full += 1
            # Public from Python 3.13 on.
            leaf, intermediate, *_ = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]
            self._seen.leaves.add(_serial(leaf))
            self._seen.intermediates.add(_serial(intermediate))
        if self._resuming:
            self._session = tls.session


class _Connection(http.client.HTTPSConnection):
    """One that begins with a session of an earlier one."""

    session: ssl.SSLSession | None = None

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=self._tunnel_host, session=self.session)  # type: ignore[attr-defined]


def _serial(certificate: object) -> int:
    return x509.load_pem_x509_certificate(certificate.public_bytes().encode()).serial_number  # type: ignore[attr-defined]


class _Clients:
    """Some of each proxy's, at work until the end of a `with` block."""

    def __init__(self, app: Image) -> None:
        self._app = app
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def start(self, proxy: Proxy, machine: Sandbox) -> Seen:
        seen = Seen()
        works = [partial(self._pull, machine, seen)]
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            works += [partial(self._get, Client(proxy, version, resuming, seen), seen) for resuming in (False, True)]
        for work in works:
            thread = threading.Thread(target=work)
            thread.start()
            self._threads.append(thread)
        return seen

    def _get(self, client: Client, seen: Seen) -> None:
        while not self._ended.wait(PAUSE):
            try:
                client.get(self._app.config.digest)
            except Exception as failure:
                seen.failures.append(f"{time.time()}: {failure!r}")

    def _pull(self, machine: Sandbox, seen: Seen) -> None:
        """Go's clients: a handshake per request."""
        folder = machine.home / "pulled"
        while not self._ended.wait(PULL_PAUSE):
            done = machine.skopeo("copy", "--quiet", f"docker://{APP}", f"dir:{folder}", check=False)
            if done.returncode == 0 and sha256((folder / "manifest.json").read_bytes()) == self._app.manifest.digest:
                seen.pulls += 1
            else:
                seen.failures.append(done.stderr)


@needs("docker-registry", "skopeo")
@pytest.mark.timeout(LONGEST + 60)
def test_no_handshake_fails_while_certificates_change(
    app: Image, mirror: RealRegistry, builder: Builder, tmp_path: Path
) -> None:
    """By one process, which somebody interferes with, by two workers, and as a script of mitmdump."""
    lives = {"leaf-life": f"{LEAF:g}s", "intermediate-life": f"{INTERMEDIATE:g}s"}
    hub = {"mirrors": [mirror.endpoint], "fallback": False}
    config = toml({"docker.io": hub, mirror.endpoint: {"http": True}}, lives)
    clients = _Clients(app)
    with ExitStack() as stack:

        def start(name: str, proxy: AbstractContextManager[Proxy]) -> Seen:
            running = stack.enter_context(proxy)
            return clients.start(running, builder(running, name))

        with ThreadPoolExecutor() as pool:
            starting = [
                pool.submit(start, "one", serve(tmp_path / "one", config)),
                pool.submit(start, "workers", serve(tmp_path / "workers", config, workers=2)),
                pool.submit(start, "script", mitmdump(tmp_path / "script", config)),
            ]
        stack.enter_context(clients)
        one, workers, script = (each.result() for each in starting)
        began = time.monotonic()
        renew(tmp_path / "one")
        while time.monotonic() - began < SECONDS or not (one.saw(3) and workers.saw(2) and script.saw(2)):
            assert time.monotonic() - began < LONGEST, (one, workers, script)
            time.sleep(0.05)
    for seen in one, workers, script:
        print(f"{seen}, {len(seen.leaves)} leaves, {len(seen.intermediates)} intermediates")
        assert seen.failures == []
        assert seen.pulls
