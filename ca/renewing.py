"""Whether the intermediate will do, and issuing another when it will not."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cryptography import x509

from ca import clock, constraints, files, issuing
from ca.errors import AuthorityError
from ca.files import INTERMEDIATE_CRT, INTERMEDIATE_KEY, KeyIsEncrypted
from ca.holding import Holding, KeyPlace, read, settle, signed
from ca.issuing import Issuer, extension
from ca.lives import Lives
from ca.names import within
from ca.notices import away, remedy


def ensured(holding: Holding, names: tuple[str, ...], lives: Lives, *, anew: bool = False) -> Holding:
    """The same with something that signs leaves for `names`: another intermediate if need be, or if it is asked for.

    Raises AuthorityError when that needs a key which is not at hand, and OSError.
    """
    now = clock.now()
    if barred := constraints.forbidden((*holding.imported, holding.root), names):
        raise AuthorityError(
            f"the imported CA {holding.issuer_path} may not sign for {', '.join(barred)}; "
            "take them out of the configuration, or import a CA that may"
        )
    if holding.direct:
        if not holding.key:
            raise AuthorityError(f"{away(holding)}, and it signs every certificate; import it again with its key")
        return holding
    intermediate = holding.intermediate and holding.intermediate.certificate
    flaw = _flaw(intermediate, holding, names, now) if intermediate else "is missing or has no key"
    wanted = anew or intermediate is None or flaw or not _lasting(intermediate, holding, names, lives, now)
    if not wanted or (holding.key is None and not flaw and not anew):
        return holding
    if holding.key is None:
        kind = KeyIsEncrypted if holding.encrypted else AuthorityError
        raise kind(
            f"intermediate certificate {holding.folder / INTERMEDIATE_CRT} {flaw or 'is to be issued anew'}, "
            f"and issuing another needs the root key; {remedy(holding)}"
        )
    issued = issuing.intermediate(
        Issuer(holding.issuer, holding.key), names, now, min(now + lives.intermediate, holding.end)
    )
    # Certificate away first: a crash in between leaves no intermediate, rather than a mismatched one.
    (holding.folder / INTERMEDIATE_CRT).unlink(missing_ok=True)
    files.write_key(holding.folder / INTERMEDIATE_KEY, files.key_pem(issued.key))
    files.write_certificates(holding.folder / INTERMEDIATE_CRT, issued.certificate)
    return replace(holding, intermediate=Issuer(*issued))


def renew(folder: Path, names: tuple[str, ...], lives: Lives, key: KeyPlace, *, keep: bool) -> Holding:
    """Issues another intermediate now; `keep`: for the names that the present one permits, if there is one.

    Raises KeyIsEncrypted when a passphrase would help, and AuthorityError.
    """
    with files.locked(folder) as present:
        holding = read(folder, settle(folder, present), key)
        if holding.direct:
            raise AuthorityError(
                f"the imported CA {holding.issuer_path} signs by itself; the one that follows it has to be imported"
            )
        return ensured(holding, (keep and holding.permitted) or names, lives, anew=True)


def _flaw(intermediate: x509.Certificate, holding: Holding, names: tuple[str, ...], now: datetime) -> str | None:
    """Why the intermediate cannot serve `names` at all, or None."""
    permitted = constraints.permitted(intermediate)
    if not signed(intermediate, holding.issuer) or not permitted:
        return f"is not signed by {holding.issuer_path.name}, or not for certain names only"
    if missing := [name for name in names if not within(name, permitted)]:
        return f"does not permit {', '.join(missing)}"
    return clock.flaw(intermediate, now)


def _lasting(
    intermediate: x509.Certificate, holding: Holding, names: tuple[str, ...], lives: Lives, now: datetime
) -> bool:
    """Whether an intermediate without a flaw permits exactly `names`, is not about to end, and lives no longer than
    it should."""
    # Not past the issuer's end, where a new one would end as well: it would be re-issued at every start.
    needed = min(now + lives.margin, holding.end)
    exact = extension(intermediate, x509.NameConstraints) == issuing.constraints(names)
    return exact and needed <= intermediate.not_valid_after_utc <= now + lives.intermediate + clock.SKEW
