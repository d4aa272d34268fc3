"""What a credential comes to: what is shown to a registry, or to its token server. Pure."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Password:
    """A user's name and password (RFC 7617). Raises ValueError, without the value, for what cannot be sent."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.username or not self.password:
            raise ValueError("the username or the password is empty")
        if ":" in self.username:
            raise ValueError("the username has a colon in it")
        if re.search(r"[\x00-\x1f\x7f]", self.username + self.password):
            raise ValueError("the username or the password has a line break or another control character in it")

    @property
    def authorization(self) -> str:
        """The header's value."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class RegistryToken:
    """A bearer token (RFC 6750) for the registry itself. Raises ValueError as Password does."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token(self.value)

    @property
    def authorization(self) -> str:
        """The header's value."""
        return f"Bearer {self.value}"


@dataclass(frozen=True)
class IdentityToken:
    """A refresh token, for the registry's token server alone. Raises ValueError as Password does."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_token(self.value)


Login = Password | RegistryToken | IdentityToken


def _check_token(value: str) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("the token is empty, or has spaces, line breaks or other such characters in it")
