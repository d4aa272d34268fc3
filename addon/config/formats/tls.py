"""Certificates for endpoints, as the tables name them."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from addon.config.formats.source import shown, why
from addon.config.formats.tables import RegistryTable
from addon.config.model import KeyPair, Tls

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.formats.source import Source
    from addon.config.formats.tables import MirrorTable


def read(source: Source, where: str, table: RegistryTable | MirrorTable) -> Tls:
    """What an endpoint is verified with, and what we show it; all of it must be there already. Raises ConfigError."""
    ca = []
    for i, name in enumerate(table.ca):
        where_in = f"{where}.ca[{i}]"
        ca.append(authority(source, source.resolve(name, where_in), where_in))
    pairs = []
    for i, pair in enumerate(table.keypair):
        where_in = f"{where}.keypair[{i}]"
        certificate, key_file = source.resolve(pair.cert, where_in), source.resolve(pair.key, where_in)
        pairs.append(keypair(source, certificate, key_file, where_in))
    for i, name in enumerate(table.tlsconfigdir if isinstance(table, RegistryTable) else []):
        where_in = f"{where}.tlsconfigdir[{i}]"
        in_folder = folder(source, source.resolve(name, where_in), where_in)
        ca += in_folder.ca
        pairs += in_folder.keypairs
    return Tls(tuple(ca), tuple(pairs), verify=not table.insecure)


def folder(source: Source, path: Path, where: str) -> Tls:
    """Docker's certs.d convention, which others follow: *.crt are CAs, X.cert goes with X.key. Raises ConfigError."""
    if not os.path.isdir(path):
        source.fail(where, f"{shown(path)} is not a folder")
    source.files.add(path)
    ca = [authority(source, each, where) for each in sorted(path.glob("*.crt"))]
    pairs = [keypair(source, each, each.with_suffix(".key"), where) for each in sorted(path.glob("*.cert"))]
    return Tls(tuple(ca), tuple(pairs))


def authority(source: Source, path: Path, where: str) -> Path:
    """A file that holds a CA's certificate. Raises ConfigError."""
    source.files.add(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        source.fail(where, f"{path} holds no PEM certificate")
    except (OSError, ValueError) as error:
        source.fail(where, f"{shown(path)} cannot be read: {why(error)}")
    return path


def keypair(source: Source, certificate: Path, key: Path, where: str) -> KeyPair:
    """A client's certificate and its key, which may be in one file. Raises ConfigError."""
    source.files.update((certificate, key))
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
