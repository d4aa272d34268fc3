"""What people must be told about a CA, in words, with the remedy. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from cryptography import x509

from ca import clock, constraints
from ca.holding import Holding
from ca.lives import LEAF_LIFE, ROOT_WARNING, WARNING, Lives
from ca.names import within


def away(holding: Holding) -> str:
    """That the issuing key cannot be used, and why."""
    return f"its issuer's key {holding.key_path} is {'encrypted' if holding.encrypted else 'not at hand'}"


def remedy(holding: Holding) -> str:
    """How to issue an intermediate all the same."""
    command = "mirrortap ca renew (with the proxy's --data and --config)"
    if holding.encrypted:
        return f"run {command}, which asks for the passphrase of {holding.key_path} or takes --passphrase-file FILE"
    return f"put {holding.key_path} back for one start, or run {command} with --root-key FILE"


def issued_for(holding: Holding) -> Lives:
    """As they were when the intermediate was issued."""
    if not holding.intermediate:
        return Lives()
    certificate = holding.intermediate.certificate
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc - clock.SKEW
    return Lives(min(LEAF_LIFE, life / 2), life)


def warnings(holding: Holding, names: tuple[str, ...], lives: Lives, now: datetime) -> Iterator[str]:
    """What somebody should see to."""
    left = holding.end - now
    if holding.imported and left <= WARNING:
        yield f"the imported CA ends {_when(holding.end, now)}; import the one that follows it: mirrortap ca import"
    elif not holding.imported and left <= ROOT_WARNING:
        yield f"the root CA ends {_when(holding.end, now)}; begin to replace it: mirrortap ca rotate"
    if holding.direct and constraints.unlimited((*holding.imported, holding.root)):
        yield (
            f"the imported CA is not limited to certain names: whoever steals {holding.key_path} can speak for any "
            "host to everybody who trusts that CA"
        )
    if holding.intermediate and not holding.direct:
        yield from _of_intermediate(holding, holding.intermediate.certificate, names, lives, now)


def _of_intermediate(
    holding: Holding, certificate: x509.Certificate, names: tuple[str, ...], lives: Lives, now: datetime
) -> Iterator[str]:
    end, made = certificate.not_valid_after_utc, certificate.not_valid_before_utc + clock.SKEW
    if not holding.key:
        if end - now <= lives.margin and end < holding.end:
            yield f"the intermediate CA ends {_when(end, now)}, and {away(holding)}; {remedy(holding)}"
        elif more := [name for name in constraints.permitted(certificate) if not within(name, names)]:
            yield (
                f"the intermediate CA permits {', '.join(more)} too, which the configuration does not need any more, "
                f"and {away(holding)}; {remedy(holding)}"
            )
    if now < made - timedelta(minutes=5):
        yield f"the clock says {now:%H:%M} UTC, but the intermediate CA was made at {made:%H:%M}; set the clock"


def _when(end: datetime, now: datetime) -> str:
    left = end - now
    several = f"{left.days} days" if left >= timedelta(days=2) else f"{left.total_seconds() / 3600:.1f} hours"
    return f"on {end:%Y-%m-%d} (in {several})"
