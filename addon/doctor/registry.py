"""Questions to a registry through the proxy's door, and to the token server that it names, each by its own tunnel."""

from __future__ import annotations

import http.client
import json
import re
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from addon.config.login import IdentityToken, Password, RegistryToken
from addon.config.model import is_loopback
from addon.doctor import chains
from addon.doctor.door import PATIENCE, Silent, Tunnel, asked, failing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography import x509

    from addon.config.login import Login
    from addon.doctor.door import Answer, Door
    from addon.upstream.challenge import Bearer


class Registry:
    """One that is served at `host` and `port`, for who trusts the certificates. `past`: whether a host is reached past
    the proxy."""

    def __init__(
        self,
        door: Door,
        host: str,
        port: int,
        trusted: Sequence[x509.Certificate],
        past: Callable[[str, int], bool],
    ) -> None:
        self._door = door
        self._host, self._port = host, port
        self._trusted = trusted
        self._past = past

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Raises Silent."""
        with self._tunnel(self._host, self._port) as tunnel:
            return tunnel.ask(method, path, headers)

    def token(self, wanted: Bearer, scope: str, login: Login | None) -> Answer:
        """The token server's answer (the distribution token spec). Raises Silent."""
        url = urlsplit(wanted.realm)
        host = url.hostname or ""
        safe = url.scheme == "https" or is_loopback(host)
        if login and not safe:
            raise Silent(f"it names a token server without https ({host}), to which no password must be shown")
        named = {"service": wanted.service or "", "scope": scope}
        headers = {"Authorization": login.authorization} if isinstance(login, Password) else {}
        method, path, body = "GET", f"{url.path or '/'}?{urlencode(named)}", None
        if isinstance(login, IdentityToken):
            form = {"grant_type": "refresh_token", "client_id": "mirrortap", "refresh_token": login.value, **named}
            method, path, body = "POST", url.path or "/", urlencode(form).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if url.scheme == "https":
            with self._tunnel(host, url.port or 443) as tunnel:
                return tunnel.ask(method, path, headers, body)
        connection = http.client.HTTPConnection(host, url.port or 80, timeout=PATIENCE)
        return asked(connection, method, path, headers, body)

    def _tunnel(self, host: str, port: int) -> Tunnel:
        if self._past(host, port):
            with failing():
                tunnel = Tunnel(socket.create_connection((host, port), timeout=PATIENCE), host, port)
        else:
            answer, through = self._door.tunnel(host, port)
            if through is None:
                raise Silent(f"the proxy does not let {host}:{port} through: HTTP {answer.status} {answer.text}")
            tunnel = through
        try:
            tunnel.shake_hands()
            if flaw := chains.flaw(tunnel.chain, host, self._trusted, datetime.now(UTC)):
                raise Silent(f"the certificate of {host} is not good: {flaw.message}")
        except BaseException:
            tunnel.close()
            raise
        return tunnel


def given(answer: Answer) -> str | None:
    """The token in a token server's answer. Pure."""
    try:
        told = json.loads(answer.body)
        token = told.get("token") or told.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        return None
    return token if isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token) else None


def shown(login: Login) -> str:
    """Whom a login is of, for people. Pure."""
    match login:
        case Password():
            return login.username
        case RegistryToken():
            return "the token here"
    return "the identity token here"
