"""Who may do what at a test registry: the same rules for the fake and for the real one."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field


class WrongLogin(Exception):
    """A login was given, and no user has it."""


@dataclass
class Policy:
    """Repositories are public unless listed in `private`; a login is needed to push anywhere.

    Tests may change it while a server runs: that is how access is taken away.
    """

    users: dict[str, str] = field(default_factory=dict)
    private: dict[str, set[str]] = field(default_factory=dict)

    def user_of(self, authorization: str | None) -> str | None:
        """The user of a Basic header; None without one."""
        if authorization is None:
            return None
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "basic":
            raise WrongLogin
        name, _, password = base64.b64decode(value).decode().partition(":")
        if self.users.get(name) != password:
            raise WrongLogin
        return name

    def actions(self, user: str | None, repository: str) -> set[str]:
        everything = {"pull", "push", "delete"}
        if repository in self.private:
            return everything if user in self.private[repository] else set()
        return everything if user else {"pull"}


def parse_scopes(scopes: list[str]) -> list[tuple[str, set[str]]]:
    """[("team/app", {"pull", "push"})] of ["repository:team/app:pull,push"]; one may hold several."""
    parsed = []
    for scope in " ".join(scopes).split():
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if kind == "repository" and name:
            parsed.append((name, set(actions.split(","))))
    return parsed


def basic(user: str, password: str) -> str:
    """The header that logs a user in."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
