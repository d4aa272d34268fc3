"""Who may read what: everybody, whoever may use the proxy, or a client that has shown that it may.

What an endpoint gives to anybody is public. Everything else is given to a client that the origin has just given
something of the same repository to, on the client's own credential (see docs/access.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon import jwt
from addon.oci import Digest
from addon.upstream import routing
from addon.upstream.reader import ANYBODY, Reader

if TYPE_CHECKING:
    from addon.cache.links import Links
    from addon.cache.rights import Rights
    from addon.config.model import Endpoint, Rule
    from addon.fingerprints import Fingerprints
    from addon.oci import Blob, Manifest
    from addon.pulls.pull import Pull
    from addon.reply import Request


class Access:
    """What is believed, and learned from every answer of an endpoint."""

    def __init__(self, rights: Rights, links: Links, fingerprints: Fingerprints) -> None:
        self._rights = rights
        self._links = links
        self._fingerprints = fingerprints

    def readers(self, request: Request, repository: str) -> list[Reader]:
        """As whom endpoints are to be asked, in this order, until one of them gets the content."""
        rule, authorization = request.rule, request.header("authorization")
        if authorization is None or not (rule.offline or any(origin.hears_clients for origin in rule.origins)):
            return [ANYBODY]
        fingerprint = self._fingerprints.of(authorization)
        anybody, client = Reader(fingerprint, authorization), Reader(fingerprint, authorization, personal=True)
        verdict = self._rights.verdict(rule.registry, repository)
        if verdict is None or not verdict.public:
            proof = self._rights.proof(fingerprint, rule.registry, repository)
            if (verdict and verdict.fresh) or (proof and (proof.fresh or proof.within_grace)):
                return [client, anybody]
        return [anybody, client]

    def believed(self, rule: Rule, repository: str, reader: Reader) -> bool:
        """Whether it need not be asked just now that the reader may read the repository."""
        if rule.open:
            return True
        if reader.personal:
            proof = self._rights.proof(reader.fingerprint, rule.registry, repository)
            return proof is not None and proof.fresh
        return self.public(rule, repository)

    def public(self, rule: Rule, repository: str) -> bool:
        """Whether it need not be asked just now that everybody may read.

        Everybody who may use the proxy, where that has a credential of its own at the origin.
        """
        verdict = self._rights.verdict(rule.registry, repository)
        return verdict is not None and verdict.public and verdict.fresh

    def held_good(self, pull: Pull) -> bool:
        """Whether that is believed while nobody can be asked."""
        if pull.rule.open:
            return True
        if pull.reader.personal:
            proof = self._rights.proof(pull.reader.fingerprint, pull.rule.registry, pull.repository)
            return proof is not None and (proof.fresh or proof.within_grace)
        verdict = self._rights.verdict(pull.rule.registry, pull.repository)
        return verdict is not None and verdict.public

    def admitted(self, pull: Pull) -> bool:
        """Whether the repository is known to hold the digest, and the reader to be let in there."""
        return self._linked(pull) and self.believed(pull.rule, pull.repository, pull.reader)

    def admitted_before(self, pull: Pull) -> bool:
        """Whether that may be held good while nobody can be asked."""
        return self._linked(pull) and self.held_good(pull)

    def shown_by_content(self, pull: Pull) -> bool:
        """Whether whichever endpoint gives the content shows by this, if it is not known yet, that the reader may."""
        return routing.all_tell(pull.rule, pull.asked, pull.reader) or self.believed(
            pull.rule, pull.repository, pull.reader
        )

    def _linked(self, pull: Pull) -> bool:
        return self._links.known(pull.rule.registry, pull.repository, pull.digest)

    def shown(self, rule: Rule, asked: Manifest | Blob, reader: Reader, endpoint: Endpoint) -> None:
        """The endpoint has just given this content to the reader."""
        registry, repository = rule.registry, asked.repository
        if isinstance(asked.reference, Digest):
            self._links.add(registry, repository, asked.reference)
        if endpoint.is_origin and reader.personal:
            self._rights.prove(reader.fingerprint, registry, repository, _ends(reader.authorization or ""))
        elif endpoint.is_origin or not endpoint.knows_us:
            # With the proxy's own credential at the origin, the operator lets everybody read.
            self._rights.judge(registry, repository, public=True)

    def refused(self, rule: Rule, repository: str, reader: Reader, endpoint: Endpoint) -> None:
        """The endpoint has just said that the reader may not read."""
        if not endpoint.is_origin:
            return
        if reader.personal:
            self._rights.disprove(reader.fingerprint, rule.registry, repository)
        else:
            self._rights.judge(rule.registry, repository, public=False)


def _ends(authorization: str) -> float | None:
    """When a credential ends that says so itself, in seconds since the epoch."""
    scheme, _, token = authorization.partition(" ")
    return jwt.expiry(token.strip()) if scheme.lower() == "bearer" else None
