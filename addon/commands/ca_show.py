"""What `mirrortap ca show` says."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from addon.home import home_if_any
from ca import clock, files, found, holding
from ca.issuing import fingerprint
from ca.notices import issued_for, warnings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography import x509

    from ca.holding import Holding


def described(folder: Path) -> Iterator[str]:
    """Lines about the CA in `folder`. Raises AuthorityError."""
    with files.locked(folder) as present:
        held = holding.read(folder, present)
    yield f"CA in {folder}"
    yield from _certificate("Root, imported" if held.imported else "Root", held.root)
    if not held.imported:
        yield f"  key      {_key(held)}"
    if held.next_root:
        yield from _certificate("Next root (rotate --switch lets it sign)", held.next_root)
    if held.old_root:
        yield from _certificate("Old root (rotate --finish removes it)", held.old_root)
    for number, certificate in enumerate(held.imported):
        yield from _certificate("Imported CA", certificate)
        if number == 0:
            yield f"  key      {_key(held)}"
    if held.direct:
        yield from _permitted(held)
    elif held.intermediate:
        yield from _certificate("Intermediate", held.intermediate.certificate)
        yield from _permitted(held)
    else:
        yield "Intermediate: none; the proxy issues one when it starts, or: mirrortap ca renew"
    yield from _trust(held)
    for warning in warnings(held, held.permitted, issued_for(held), clock.now()):
        yield f"WARNING {warning}"


def _certificate(title: str, certificate: x509.Certificate) -> Iterator[str]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = ", ".join(f"{part.rfc4514_attribute_name}={part.value!s}" for part in certificate.subject)
    yield f"{title}: {subject}"
    yield f"  SHA-256  {fingerprint(certificate)}"
    yield f"  valid    {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def _permitted(held: Holding) -> list[str]:
    names = ", ".join(held.permitted) or "ANY name"
    return textwrap.wrap(names, 110, initial_indent="  permits  ", subsequent_indent=" " * 11, break_on_hyphens=False)


def _key(held: Holding) -> str:
    if held.key:
        return f"{held.key_path}"
    return f"{held.key_path}, encrypted" if held.encrypted else f"not in {held.folder}"


def _trust(held: Holding) -> Iterator[str]:
    for root in held.roots:
        which = f" {fingerprint(root)[:11]}..." if len(held.roots) > 1 else ""
        places = list(found.trusting(root, home=home_if_any()))
        nobody = "" if places else " nobody, as far as files say; see mirrortap trust --help"
        yield f"Trusted{which} on this machine by{nobody or ':'}"
        for who, path in places:
            yield f"  {who}: {path}"
