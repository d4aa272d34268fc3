"""What the programs that verify certificates make of one that was signed with a stolen intermediate.

Go's crypto/x509 (which skopeo, podman and dockerd share), OpenSSL and Python, all trusting the root alone.
"""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from support.clients import Sandbox
from support.impostor import Impostor, forge
from support.processes import needs, run

from addon.config.load import load
from ca.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.threads import LoopThread

    # What it says of (host, port of a proxy that leads there, root, scratch folder); None: it accepts the chain.
    Verifier = Callable[[str, int, Path, Path], str | None]

MANIFEST = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
# An intercepted registry, a host that is none, an address.
PROPER, OTHER, ADDRESS = "ghcr.io", "bank.example", "192.0.2.7"


def go(host: str, port: int, root: Path, folder: Path) -> str | None:
    machine = Sandbox(folder / "home", proxy=f"http://127.0.0.1:{port}", ca=root)
    machine.env["SSL_CERT_DIR"] = str(folder / "home")  # which has no certificates
    done = machine.skopeo("inspect", "--raw", f"docker://{host}/app:1", check=False)
    assert (done.returncode == 0) == (done.stdout.encode() == MANIFEST)
    return None if done.returncode == 0 else done.stderr


def openssl(host: str, port: int, root: Path, folder: Path) -> str | None:
    name = ("-verify_ip" if host == ADDRESS else "-verify_hostname", host)
    trust = ("-CAfile", root, "-no-CApath", "-no-CAstore", "-verify_return_error")
    command: list[str | Path] = [
        "openssl",
        "s_client",
        "-proxy",
        f"127.0.0.1:{port}",
        "-connect",
        f"{host}:443",
        *trust,
        *name,
    ]
    done = run(command, env={}, check=False)
    assert (done.returncode == 0) == ("Verify return code: 0 (ok)" in done.stdout)
    return None if done.returncode == 0 else done.stderr


def python(host: str, port: int, root: Path, folder: Path) -> str | None:
    context = ssl.create_default_context(cafile=str(root))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
        assert sock.recv(1000) == b"HTTP/1.1 200 OK\r\n\r\n"
        try:
            with context.wrap_socket(sock, server_hostname=host) as secured:
                secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert secured.recv(1000).endswith(MANIFEST)
        except ssl.SSLCertVerificationError as refused:
            return refused.verify_message
    return None


@pytest.mark.parametrize(
    ("verify", "other", "address"),
    [
        pytest.param(go, "is not permitted by any constraint", "is excluded by constraint", marks=needs("skopeo")),
        pytest.param(openssl, "permitted subtree violation", "excluded subtree violation", marks=needs("openssl")),
        (python, "permitted subtree violation", "excluded subtree violation"),
    ],
    ids=["go", "openssl", "python"],
)
def test_a_stolen_intermediate_stands_for_registries_alone(
    verify: Verifier, other: str, address: str, loop_thread: LoopThread, tmp_path: Path
) -> None:
    ca = tmp_path / "ca"
    root = Authority.open(ca, load([]).certificate_names()).root_path

    def said(host: str) -> str | None:
        chain = forge(host, ca / "intermediate.crt", ca / "intermediate.key", tmp_path / f"{host}.pem")
        return verify(host, loop_thread.enter(Impostor(chain, MANIFEST)).port, root, tmp_path)

    # That one is accepted: nothing is wrong with the others but whom they are for.
    assert said(PROPER) is None
    assert other in (said(OTHER) or "")
    assert address in (said(ADDRESS) or "")
