"""Certificates for endpoints, as the tables name them."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from addon.config.model import KeyPair, Tls
from addon.config.source import shown, why

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.source import Source
    from addon.config.tables import RegistryTable


def read(source: Source, key: str, table: RegistryTable) -> Tls:
    """What an endpoint is verified with, and what we show it; all of it must be there already. Raises ConfigError."""
    where = f'registry."{key}"'
    ca = []
    for i, name in enumerate(table.ca):
        where_in = f"{where}.ca[{i}]"
        ca.append(_ca(source, source.resolve(name, where_in), where_in))
    pairs = []
    for i, pair in enumerate(table.keypair):
        where_in = f"{where}.keypair[{i}]"
        certificate, key_file = source.resolve(pair.cert, where_in), source.resolve(pair.key, where_in)
        pairs.append(_keypair(source, certificate, key_file, where_in))
    for i, name in enumerate(table.tlsconfigdir):
        where_in = f"{where}.tlsconfigdir[{i}]"
        folder = source.resolve(name, where_in)
        if not os.path.isdir(folder):
            source.fail(where_in, f"{shown(folder)} is not a folder")
        # docker's certs.d convention, which BuildKit follows: *.crt are CAs, X.cert goes with X.key
        ca += [_ca(source, path, where_in) for path in sorted(folder.glob("*.crt"))]
        pairs += [_keypair(source, path, path.with_suffix(".key"), where_in) for path in sorted(folder.glob("*.cert"))]
    return Tls(tuple(ca), tuple(pairs), verify=not table.insecure)


def _ca(source: Source, path: Path, where: str) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        source.fail(where, f"{path} holds no PEM certificate")
    except (OSError, ValueError) as error:
        source.fail(where, f"{shown(path)} cannot be read: {why(error)}")
    return path


def _keypair(source: Source, certificate: Path, key: Path, where: str) -> KeyPair:
    try:
        # An empty password, lest OpenSSL asks for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        source.fail(
            where,
            f"{certificate} and {key} are no PEM certificate with its unencrypted key: {error.reason}",
        )
    except (OSError, ValueError) as error:
        source.fail(where, f"{shown(certificate)} or {shown(key)} cannot be read: {why(error)}")
    return KeyPair(certificate, key)
