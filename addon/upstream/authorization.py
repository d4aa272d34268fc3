"""What the proxy shows of itself to whom: anonymous tokens to anybody, its credentials to their own endpoints alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yarl import URL

from addon.config.login import IdentityToken, Login, Password, RegistryToken
from addon.upstream import challenge
from addon.upstream.credentials import LoginRefused
from addon.upstream.response import EndpointError

if TYPE_CHECKING:
    from addon.config.model import Endpoint
    from addon.upstream.response import Response
    from addon.upstream.tokens import Tokens


class Authorizations:
    """The Authorization headers of requests for a repository `name`, as anybody, or with a login of the endpoint's."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._basic: set[tuple[URL, Login | None]] = set()  # the origins that have asked for a name and a password

    def header(self, endpoint: Endpoint, url: URL, name: str, login: Login | None) -> str | None:
        """The header's value for `url`, which may be where the endpoint redirects to; None when there is none."""
        login = _for(endpoint, url, login)
        if isinstance(login, RegistryToken):
            return login.authorization
        if isinstance(login, Password) and (url.origin(), login) in self._basic:
            return login.authorization
        return self._tokens.authorization(url, name, login)

    async def renew(self, endpoint: Endpoint, refusal: Response, name: str, login: Login | None) -> bool:
        """Gets what a 401 asks for; False when there is nothing better to show than what was shown.

        Raises LoginRefused, and EndpointError when the login does not lead to a token. Without a login neither.
        """
        challenges = refusal.headers.getall("WWW-Authenticate", [])
        login = _for(endpoint, refusal.url, login)
        if isinstance(login, RegistryToken):
            raise LoginRefused(name)
        if wanted := challenge.bearer(challenges):
            self._basic.discard((refusal.url.origin(), login))
            # The challenge is of the host at the end of the redirects (lscr.io's is ghcr.io's), and so is the token.
            return await self._tokens.renew(endpoint, refusal, name, wanted, login)
        if login is None or not challenge.basic(challenges):
            return False
        if isinstance(login, IdentityToken):
            raise EndpointError(f"asks for a name and a password, and {endpoint.auth} is an identity token")
        if self.refused(endpoint, refusal, login):
            raise LoginRefused(name)
        self._basic.add((refusal.url.origin(), login))
        return True

    def refused(self, endpoint: Endpoint, refusal: Response, login: Login | None) -> bool:
        """Whether a 401 is to the name and the password themselves."""
        login = _for(endpoint, refusal.url, login)
        return isinstance(login, Password) and refusal.sent_authorization == login.authorization


def _for(endpoint: Endpoint, url: URL, login: Login | None) -> Login | None:
    """The login where it may be shown: at the endpoint itself, by scheme, host and port; else none."""
    return login if url.origin() == URL(endpoint.url).origin() else None
