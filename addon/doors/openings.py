"""What a connection's first bytes say of the host that is meant, where nothing else has named one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy.layers.tls import parse_client_hello

from addon.config.model import host_of

_TLS = b"\x16\x03\x00"
# HTTP/2 without TLS is left to those who speak it.
_REQUEST = re.compile(rb"[A-Z-]{1,20} [^ \r\n]+ HTTP/1\.[01]\r?\n")
_REQUEST_TO_BE = re.compile(rb"[A-Z-]{1,20}( [^\r\n]*\r?)?")
_END = re.compile(rb"\n\r?\n")
_HOST = re.compile(rb"\nhost:[ \t]*([^\r\n]*?)[ \t]*(?=\r?\n)", re.IGNORECASE)


@dataclass(frozen=True)
class Opening:
    """`host` is the name in a ClientHello's SNI (RFC 6066, 3) or in a request's Host, None when there is no one name.

    Only a "tls" or "http" that is not `complete` may have more to say of it.
    """

    protocol: Literal["tls", "http", "other"]
    host: str | None = None
    complete: bool = True


def read(data: bytes) -> Opening:
    if starts_like_tls_record(data) or _TLS.startswith(data):
        return _tls(data)
    if b"\n" in data:
        return _http(data) if _REQUEST.match(data) else Opening("other")
    return Opening("http", complete=False) if _REQUEST_TO_BE.fullmatch(data) else Opening("other")


def _tls(data: bytes) -> Opening:
    try:
        hello = parse_client_hello(data)
    except ValueError:
        return Opening("other")
    return Opening("tls", hello.sni) if hello else Opening("tls", complete=False)


def _http(data: bytes) -> Opening:
    end = _END.search(data)
    if not end:
        return Opening("http", complete=False)
    hosts = _HOST.findall(data, 0, end.end())
    return Opening("http", host_of(hosts[0].decode("latin-1")) if len(hosts) == 1 else None)
