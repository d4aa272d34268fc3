"""What is to be warmed: images, and for which platforms. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from addon.cache.reference import Reference
    from addon.warming.platforms import Platform


@dataclass(frozen=True)
class Wanted:
    """An image for these platforms; None: for all that it has."""

    reference: Reference
    platforms: tuple[Platform, ...] | None

    def __str__(self) -> str:
        platforms = "all platforms" if self.platforms is None else ", ".join(map(str, self.platforms))
        return f"{self.reference} {platforms}"


def together(named: Iterable[tuple[Reference, Platform | None]], otherwise: Sequence[Platform] | None) -> list[Wanted]:
    """Each image once, in the order in which they are named, for all the platforms that it is named for.

    `otherwise`: those of what is named for none of its own; None: all that there are.
    """
    found: dict[Reference, dict[Platform, None] | None] = {}
    for reference, platform in named:
        own = [platform] if platform else otherwise
        known = found.setdefault(reference, {})
        if own is None or known is None:
            found[reference] = None
        else:
            known.update(dict.fromkeys(own))
    return [Wanted(reference, None if known is None else tuple(known)) for reference, known in found.items()]
