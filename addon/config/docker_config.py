"""Docker's `config.json`: which credential, or which helper program, it names for a registry.

As Docker reads it (github.com/docker/cli, cli/config): `credHelpers`, then `credsStore`, then `auths`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from addon.config import secrets
from addon.config.login import IdentityToken, Login, Password, RegistryToken
from addon.config.secrets import SecretError

if TYPE_CHECKING:
    from pathlib import Path

# Docker Hub has one key for historical reasons; podman and people write its other names.
_HUB = "https://index.docker.io/v1/"
_HUB_HOSTS = ("index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Helper:
    """A program that knows the credential (github.com/docker/docker-credential-helpers), and what it is asked for."""

    program: str
    server: str


def read(path: Path, registry: str) -> Login | Helper:
    """What the file has for `registry` (host[:port]). Raises SecretError, which says so, too, when that is nothing."""
    text = secrets.read_file(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        # Not the parser's words: they may hold a piece of the text.
        raise SecretError(f"{path} is not valid JSON") from None
    try:
        found = find(document, registry)
    except ValueError as error:
        raise SecretError(f"{path}: {error}") from None
    if found is None:
        raise SecretError(f"{path} has no credential for {registry}: docker login {registry} writes one")
    return found


def find(document: Any, registry: str) -> Login | Helper | None:
    """The registry's credential in a config.json. Raises ValueError, without any secret, for what makes no sense."""
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")
    server = _HUB if registry in _HUB_HOSTS else registry
    if helper := _entry(document, "credHelpers", registry) or document.get("credsStore"):
        return Helper(_program(helper), server)
    entry = _entry(document, "auths", registry)
    return _login(entry, registry) if entry else None


def _entry(document: dict[str, Any], key: str, registry: str) -> Any:
    table = document.get(key) or {}
    if not isinstance(table, dict):
        raise ValueError(f"{key} is not an object")
    for host in _HUB_HOSTS if registry in _HUB_HOSTS else (registry,):
        named = [name for name in table if _host(name) == host]
        if named:
            return table[host if host in named else named[0]]
    return None


def _host(key: str) -> str | None:
    """`host[:port]` of a key, which may be a URL; None when it is for a part of a registry, as podman's may be."""
    authority, _, path = re.sub("^https?://", "", key.lower()).partition("/")
    return authority.removesuffix(":443") if path.strip("/") in ("", "v1", "v2") else None


def _program(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f'{name!r} is not the name of a credential helper: write "x" for docker-credential-x')
    return f"docker-credential-{name}"


def _login(entry: Any, registry: str) -> Login | None:
    where = f"the entry for {registry} in auths"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not an object")
    names = ("registrytoken", "identitytoken", "auth", "username", "password")
    fields = {name: entry.get(name) or "" for name in names}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: {name} is not a string")
    try:
        if fields["registrytoken"]:
            return RegistryToken(fields["registrytoken"])
        if fields["identitytoken"]:
            return IdentityToken(fields["identitytoken"])
        if fields["auth"]:
            return Password(*_decode(fields["auth"]))
        if fields["username"] or fields["password"]:
            return Password(fields["username"], fields["password"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return None


def _decode(auth: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise ValueError("auth is not the base64 of username:password")
    return username, password.strip("\0")
