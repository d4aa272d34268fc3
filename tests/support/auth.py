"""How the fake registry asks for a login: Docker's token exchange, or plain Basic."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from support.access import Policy, WrongLogin, parse_scopes
from support.faults import Answer, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web


class BasicAuth:
    """`challenge` gives the WWW-Authenticate header, or None when the request may go on.

    Every request needs the login of a user whom the policy allows; public repositories too.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def challenge(self, authorization: str | None, name: str, needed: str, realm: str) -> str | None:
        try:
            user = self.policy.user_of(authorization)
        except WrongLogin:
            user = None
        if user and (not name or needed in self.policy.actions(user, name)):
            return None
        return 'Basic realm="fake"'


class BearerAuth:
    """Opaque tokens bound to what was granted; `tokens` holds all that were issued and are still good.

    `identities`: identity tokens and whose they are, taken by POST (OAuth2); without any, POST is refused.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        service: str = "fake",
        expires_in: int = 300,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        self.policy = policy
        self.identities = dict(identities or {})
        self.service = service
        self.expires_in = expires_in
        self.tokens: dict[str, dict[str, set[str]]] = {}

    def challenge(self, authorization: str | None, name: str, needed: str, realm: str) -> str | None:
        scheme, _, token = (authorization or "").partition(" ")
        granted = self.tokens.get(token) if scheme.lower() == "bearer" else None
        if granted is not None and (not name or needed in granted.get(name, set())):
            return None
        parts = {"realm": realm, "service": self.service}
        if name:
            parts["scope"] = f"repository:{name}:{'pull' if needed == 'pull' else 'pull,push'}"
        if granted is not None:
            parts["error"] = "insufficient_scope"
        elif authorization:
            parts["error"] = "invalid_token"
        return "Bearer " + ",".join(f'{key}="{value}"' for key, value in parts.items())

    async def token(self, request: web.Request, seen: Seen) -> Answer:
        if seen.method == "POST" and self.identities:
            return await self._token_for_identity(request)
        if seen.method != "GET":
            return _answer(405, {"details": "GET only"})
        try:
            user = self.policy.user_of(seen.authorization)
        except WrongLogin:
            return _answer(401, {"details": "incorrect username or password"})
        return self._issue(user, request.query.getall("scope", []))

    async def _token_for_identity(self, request: web.Request) -> Answer:
        form = await request.post()
        user = self.identities.get(str(form.get("refresh_token")))
        if (
            form.get("grant_type") != "refresh_token"
            or not form.get("client_id")
            or form.get("service") != self.service
        ):
            return _answer(400, {"error": "invalid_request"})
        if user is None:
            return _answer(401, {"error": "invalid_grant"})
        return self._issue(user, [str(form.get("scope", ""))])

    def _issue(self, user: str | None, wanted_scopes: list[str]) -> Answer:
        scopes = parse_scopes(wanted_scopes)
        # A token is given even when nothing is granted, as at Docker Hub: the registry then refuses it.
        token = secrets.token_urlsafe(24)
        self.tokens[token] = {name: wanted & self.policy.actions(user, name) for name, wanted in scopes}
        return _answer(200, {"token": token, "access_token": token, "expires_in": self.expires_in})


def _answer(status: int, value: Mapping[str, object]) -> Answer:
    return Answer(status, json.dumps(value).encode(), CIMultiDict({"Content-Type": "application/json"}))
