"""The system's clock, as far as it can be believed."""

from datetime import UTC, datetime, timedelta

from cryptography import x509

from ca.errors import AuthorityError

# A builder whose clock runs behind ours must not find a fresh certificate "not yet valid".
SKEW = timedelta(hours=1)

# No clock that is right is before this was written; one without a battery starts in 1970 or 2000.
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """In whole seconds, UTC. Raises AuthorityError for a time that cannot be."""
    time = _system()
    if time < EARLIEST:
        raise AuthorityError(f"the system's clock says {time:%Y-%m-%d}, which is past; set the clock")
    return time


def flaw(certificate: x509.Certificate, time: datetime) -> str | None:
    """Why the certificate is not valid at that time, or None."""
    if time >= certificate.not_valid_after_utc:
        return f"ended on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if time < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return None


def _system() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
