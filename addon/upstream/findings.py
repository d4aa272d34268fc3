"""What is wrong with an endpoint, in words, and what to do about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Sequence

    from addon.config.model import Endpoint

# Seconds. Tokens and certificates have some margin, but not more.
_CLOCK = 60.0
# OpenSSL's verify codes (openssl-verification-options(1)).
_NOT_YET, _EXPIRED = 9, 10
_UNTRUSTED = (18, 19, 20, 21)
_OTHER_NAME = (62, 64)


@dataclass(frozen=True)
class Problem:
    """Something that keeps pulls from working, and what the operator does about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Certificate:
    """One of those that a server shows."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.subject}, issued by {self.issuer}, until {self.not_after:%Y-%m-%d %H:%M} UTC"


@dataclass
class Finding:
    """What was found at one endpoint. `seconds`: until it answered, connecting included."""

    endpoint: Endpoint
    status: int | None = None
    seconds: float | None = None
    chain: tuple[Certificate, ...] = ()
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, what: str, remedy: str) -> None:
        self.problems.append(Problem(what, remedy))


def certificate(der: bytes) -> Certificate:
    """Raises ValueError for what is none."""
    found = x509.load_der_x509_certificate(der)
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: tuple[str, ...] = ()
    else:
        addresses = alternative.get_values_for_type(x509.IPAddress)
        names = (*alternative.get_values_for_type(x509.DNSName), *map(str, addresses))
    return Certificate(
        _called(found.subject), _called(found.issuer), found.not_valid_before_utc, found.not_valid_after_utc, names
    )


def clock(date: str | None, now: datetime) -> Problem | None:
    """What an answer's Date header (RFC 9110, 6.6.1) says of this machine's clock."""
    there = time_of(date)
    if there is None or abs((there - now).total_seconds()) <= _CLOCK:
        return None
    behind = (there - now).total_seconds()
    side = "ahead of" if behind > 0 else "behind"
    return Problem(
        f"its clock is {lasting(abs(behind))} {side} this machine's ({there:%Y-%m-%d %H:%M:%S} there,"
        f" {now:%Y-%m-%d %H:%M:%S} here, UTC): tokens and certificates are not good then",
        "set whichever is wrong (timedatectl shows whether this machine's is kept right)",
    )


def untrusted(
    endpoint: Endpoint,
    host: str,
    code: int,
    message: str,
    chain: Sequence[Certificate],
    date: str | None,
    now: datetime,
) -> Problem:
    """Why a server's certificate does not hold. `code`, `message`: OpenSSL's; `date`: the server's Date header."""
    table = f'[registry."{endpoint.authority}"]'
    leaf = chain[0] if chain else None
    if code in (_EXPIRED, _NOT_YET):
        bad = next((each for each in chain if not each.not_before <= now <= each.not_after), leaf)
        there = time_of(date)
        if bad and there and bad.not_before <= there <= bad.not_after and abs((there - now).total_seconds()) > _CLOCK:
            return Problem(
                f"TLS: {message}, by this machine's clock ({now:%Y-%m-%d %H:%M} UTC); by the server's"
                f" ({there:%Y-%m-%d %H:%M} UTC) it is good",
                "set this machine's clock",
            )
        when = (
            f": that of {bad.subject} is good from {bad.not_before:%Y-%m-%d} to {bad.not_after:%Y-%m-%d}" if bad else ""
        )
        here = f", and this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
        return Problem(
            f"TLS: {message}{when}{here}", "whoever runs it must renew it; if the clock here is wrong, set it"
        )
    if code in _OTHER_NAME:
        names = ", ".join(leaf.names[:5]) if leaf and leaf.names else "no name at all"
        return Problem(
            f"TLS: its certificate is for {names}, and not for {host}",
            "name it as the certificate does, or have its certificate name this host too",
        )
    if code in _UNTRUSTED and chain:
        top = chain[-1]
        alone = len(chain) == 1 and top.subject != top.issuer
        also = "; or have the server send its intermediate certificates, too" if alone else ""
        return Problem(
            f"TLS: its certificate comes from {top.issuer}, which is not trusted here",
            f'if it is your own CA, write ca = ["FILE"] with that one\'s certificate under {table}{also};'
            " if it is not, something between here and there opens TLS",
        )
    return Problem(f"TLS: {message}", f'if its CA is your own, write ca = ["FILE"] under {table}')


def answered(endpoint: Endpoint, path: str, status: int, content_type: str) -> Problem | None:
    """What an answer at the root of the API means (distribution-spec, "Determining Support")."""
    if content_type.startswith("text/html"):
        return Problem(
            f"{path} is a web page (HTTP {status}): it is no registry, or a login or block page stands before it",
            f"open {endpoint.url}{path} with curl on this machine, and name what the registry itself is at",
        )
    if status in (200, 401):
        return None
    if status == 404:
        return Problem(
            f"{path} is not there (HTTP 404): there is no registry, or its API is at another path",
            "write the path that the registry's own documentation names behind the host, or take it out",
        )
    if status == 403:
        return Problem(f"{path} is refused (HTTP 403)", "have this machine's address, or its credential, let in there")
    if status == 429:
        return Problem("it has had too many requests from here (HTTP 429)", "wait, or give it a login of yours (auth)")
    if status >= 500:
        return Problem(f"{path} fails there (HTTP {status})", "whoever runs it must look into its log")
    return Problem(
        f"{path} gets HTTP {status}, which no registry answers", "look whether it is the right host and path"
    )


def _called(name: x509.Name) -> str:
    return "".join(c for c in name.rfc4514_string() if c.isprintable())[:200] or "nobody"


def time_of(date: str | None) -> datetime | None:
    """What a Date header (RFC 9110, 6.6.1) says; None where it says nothing."""
    try:
        found = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def lasting(seconds: float) -> str:
    """How long that is, for people."""
    for unit, length in ("days", 86400), ("hours", 3600), ("minutes", 60):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
