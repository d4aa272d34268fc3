"""The login that the user who runs this has for a registry, as builders' programs find it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from addon.config import docker_config
from addon.config.docker_config import Helper
from addon.upstream import helpers
from addon.upstream.helpers import HelperError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from addon.config.login import Login


class Unreadable(Exception):
    """There is a file, and nothing can be made of it; the message says why, without any secret."""


def find(registry: str, environment: Mapping[str, str], home: Path | None) -> tuple[Login, Path] | None:
    """The first that one of the files has, and that file. Raises Unreadable."""
    for path in _files(environment, home):
        try:
            found = docker_config.find(json.loads(path.read_bytes()), registry)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or "it is not what docker login writes"
            raise Unreadable(f"{path} cannot be read: {why}") from None
        if isinstance(found, Helper):
            try:
                return asyncio.run(helpers.ask(found)), path
            except HelperError:
                # As with docker: who is not known to the helper is anonymous.
                continue
        if found:
            return found, path
    return None


def of_docker(environment: Mapping[str, str], home: Path | None) -> Path | None:
    """The docker command's config.json; None without a home that it could be in."""
    folder = _folder(environment.get("DOCKER_CONFIG"), home, ".docker")
    return folder and folder / "config.json"


def _files(environment: Mapping[str, str], home: Path | None) -> Iterator[Path]:
    """Docker's (DOCKER_CONFIG), then those of containers-auth.json(5)."""
    if client := of_docker(environment, home):
        yield client
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    if folder := _folder(environment.get("XDG_CONFIG_HOME"), home, ".config"):
        yield folder / "containers/auth.json"


def _folder(named: str | None, home: Path | None, default: str) -> Path | None:
    if named:
        return Path(named)
    return home / default if home else None
