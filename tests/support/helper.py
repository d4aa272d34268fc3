"""A credential helper program (github.com/docker/docker-credential-helpers) that does what a test says."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOT_FOUND = "credentials not found in native keychain"


def jwt(claims: Any) -> str:
    """A token of that shape; its signature is nonsense."""
    whole: list[Any] = [{}, claims, 1]
    parts = [json.dumps(part).encode() for part in whole]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


class CredentialHelper:
    """docker-credential-NAME in a folder on PATH. `runs` is what it was asked, in the order it was."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.name = name
        self.program = folder / f"docker-credential-{name}"
        self._log = folder / f"{name}.log"
        self._said = folder / f"{name}.said"
        self.script("")

    def on_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(self.folder), prepend=":")

    def script(self, then: str) -> None:
        """What it does, in sh, once it has noted what it was asked."""
        new = self.program.with_suffix(".new")
        new.write_text(f'#!/bin/sh\necho "$1 $(cat)" >> {self._log}\n{then}\n')
        new.chmod(0o700)
        # In one go: it may be run just now.
        new.replace(self.program)

    def says(self, text: str, code: int = 0) -> None:
        """Its output, and its exit code."""
        self._said.write_text(text)
        self.script(f"cat {self._said}; exit {code}")

    def gives(self, username: str, secret: str) -> None:
        self.says(json.dumps({"ServerURL": "", "Username": username, "Secret": secret}))

    @property
    def runs(self) -> list[str]:
        """`get m.io` for each run."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def config(self, path: Path, *registries: str) -> Path:
        """A config.json that names it for these registries."""
        path.write_text(json.dumps({"credHelpers": dict.fromkeys(registries, self.name)}))
        path.chmod(0o600)
        return path
