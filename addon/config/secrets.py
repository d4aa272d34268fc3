"""Secrets in files and environment variables: read whole, checked, and never part of a message."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from addon.config.model import Secret

_MAX = 1 << 20


class SecretError(Exception):
    """A secret cannot be had; the message names the file or the variable, and the remedy, never the secret."""


def read(secret: Secret) -> str:
    """The secret, without the line break that editors leave at a file's end. Raises SecretError."""
    if secret.file is None:
        assert secret.env is not None
        value = os.environ.get(secret.env, "")
        if not value:
            raise SecretError(f"the environment variable {secret.env} is not set, or empty: set it for the proxy")
        return value
    text = read_file(secret.file)
    value = text.removesuffix("\n").removesuffix("\r")
    if not value:
        raise SecretError(f"{secret.file} is empty: write the secret into it")
    return value


def read_file(path: Path) -> str:
    """The text of a file that nobody else may read. Raises SecretError."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SecretError(f"{path} is not a file: name one")
            if status.st_mode & stat.S_IRWXO:
                raise SecretError(f"{path} can be read or written by everybody on this machine: chmod o= {path}")
            content = file.read(_MAX + 1)
    except FileNotFoundError:
        raise SecretError(f"{path}: there is no such file; create it, or correct the path") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SecretError(f"{path} cannot be read: {why}") from None
    if len(content) > _MAX:
        raise SecretError(f"{path} has more than {_MAX} bytes: it is no file of secrets")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8 text") from None


def _open(path: str, flags: int) -> int:
    # Not to wait for who might write into it, if it is a pipe.
    return os.open(path, flags | os.O_NONBLOCK)
