"""What real verifiers make of a leaf of our CA."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca.authority import Leaf


def openssl_verify(roots: Path, leaf: Leaf, purpose: str = "sslserver") -> str:
    """Empty when OpenSSL's command line, with `roots` (PEM) trusted, accepts the leaf, else its complaint."""
    with tempfile.TemporaryDirectory() as folder:
        # The leaf comes first there, which is what is verified.
        sent = Path(folder, "sent.pem")
        sent.write_bytes(leaf.chain_pem())
        command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", purpose]
        command += ["-CAfile", str(roots), "-untrusted", str(sent), str(sent)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == done.stdout.endswith("OK\n")
    return "" if done.returncode == 0 else done.stdout + done.stderr


def handshake(roots: Path, leaf: Leaf, host: str) -> None:
    """A TLS handshake in memory; the client trusts `roots` (PEM) only. Raises ssl.SSLCertVerificationError."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(leaf.chain_pem() + leaf.key_pem())
        pem.flush()
        server_context.load_cert_chain(pem.name)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    client_context.load_verify_locations(roots)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
