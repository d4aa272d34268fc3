"""A token server that the reference registry trusts: JWTs signed with a key whose certificate it has."""

from __future__ import annotations

import base64
import datetime
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from support.access import Policy, WrongLogin, parse_scopes

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

ISSUER = "test-tokens"
SERVICE = "test-registry"
LEEWAY = 60  # seconds for which docker-registry takes a token that has expired


@dataclass(frozen=True)
class TokenRequest:
    method: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class TokenServer:
    """Listens on 127.0.0.1 while entered. The registry trusts what `signer_cert` signed."""

    policy: Policy
    folder: Path
    context: ssl.SSLContext
    requests: list[TokenRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _self_signed(self._key)
        self.signer_cert = self.folder / "token-signer.pem"
        self.signer_cert.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        # No handshake in accept(): a client that only connects would hold up all others.
        self._server.socket = self.context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def realm(self) -> str:
        return f"https://{self.endpoint}/token"

    def issue(self, user: str | None, scopes: list[str], life: int = 300) -> str:
        """`life` in seconds, and up to one less; below 0 it is a token that has expired."""
        now = int(time.time())
        access = [
            {"type": "repository", "name": name, "actions": sorted(wanted & self.policy.actions(user, name))}
            for name, wanted in parse_scopes(scopes)
        ]
        chain = [base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()]
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": user or "",
            "iat": now,
            "nbf": now - 10,
            "exp": now + life,
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        signed = f"{_segment({'typ': 'JWT', 'alg': 'ES256', 'x5c': chain})}.{_segment(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10
            # Head and body are written apart: with it a client that keeps its connection waits 40 ms for each token.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                server.requests.append(TokenRequest("GET", query, dict(self.headers)))
                try:
                    user = server.policy.user_of(self.headers.get("Authorization"))
                except WrongLogin:
                    self._answer(401, {"details": "incorrect username or password"})
                else:
                    token = server.issue(user, query.get("scope", []))
                    self._answer(200, {"token": token, "access_token": token, "expires_in": 300})

            def do_POST(self) -> None:
                # containerd tries OAuth first, and GET after a 405.
                self.close_connection = True
                server.requests.append(TokenRequest("POST", {}, dict(self.headers)))
                self._answer(405, {"details": "GET only"})

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _answer(self, status: int, value: dict[str, Any]) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def _segment(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
