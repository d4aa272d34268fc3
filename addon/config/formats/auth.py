"""The proxy's own credentials, as the tables name them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from addon.config import docker_config, secrets
from addon.config.docker_config import Helper
from addon.config.login import Password, RegistryToken
from addon.config.model import Auth, Secret, host_of, is_loopback
from addon.config.secrets import SecretError

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.formats.source import Source
    from addon.config.formats.tables import AuthTable, RegistryTable

_KINDS = (
    {"username", "password-file", "password-env"},
    {"token-file", "token-env"},
    {"docker-config"},
)


def read(source: Source, registry: str, key: str, own: AuthTable) -> Auth:
    """A registry's own credential, which must be there already. Raises ConfigError."""
    where = f'registry."{key}".auth'
    given = {name.replace("_", "-"): value for name, value in own if value is not None and name != "use"}
    for name, value in given.items():
        if not value:
            source.fail(f"{where}.{name}", "is empty")
    password = _secret(source, where, "password", own.password_file, own.password_env)
    token = _secret(source, where, "token", own.token_file, own.token_env)
    config = source.resolve(own.docker_config, f"{where}.docker-config") if own.docker_config else None
    if own.username and not password:
        source.fail(f"{where}.username", "needs password-file or password-env beside it")
    if password and not own.username:
        source.fail(where, "has a password without a username: write username beside it")
    kinds = [given.keys() & keys for keys in _KINDS]
    if sum(map(bool, kinds)) > 1:
        source.fail(where, f"has {' and '.join(min(kind) for kind in kinds if kind)}: keep one kind of credential")
    auth = Auth(registry, own.username, password, token, config, own.use)
    try:
        if config:
            _config_json(config, registry)
        elif password:
            Password(own.username or "", secrets.read(password))
        elif token:
            RegistryToken(secrets.read(token))
        else:
            source.fail(
                where,
                "names no credential: write username with password-file or password-env, token-file or token-env, "
                "or docker-config",
            )
    except SecretError as error:
        source.fail(where, str(error))
    except ValueError as error:
        source.fail(where, f"{error} (from {password or token})")
    return auth


def exposed(registry: str, table: RegistryTable) -> str | None:
    """Who may read the registry's credential on its way there."""
    if is_loopback(host_of(registry)):
        return None
    if table.http:
        return "the credential is sent over plain http (http = true): who listens on the way can read it"
    if table.insecure:
        return "the credential is sent to whoever answers (insecure = true): name the CA instead, with ca"
    return None


def _secret(source: Source, where: str, what: str, file: str | None, env: str | None) -> Secret | None:
    if file and env:
        source.fail(where, f"has {what}-file and {what}-env: keep one of the two")
    if not file and not env:
        return None
    return Secret(source.resolve(file, f"{where}.{what}-file") if file else None, env)


def _config_json(path: Path, registry: str) -> None:
    found = docker_config.read(path, registry)
    if isinstance(found, Helper) and not shutil.which(found.program):
        raise SecretError(f"{path} names the credential helper {found.program}, which is not on PATH: install it")
