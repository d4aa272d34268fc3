"""What an operator wants out of the cache, and what goes for that. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from addon.cache.contents import Entry
    from addon.cache.images import Image
    from addon.cache.reference import Reference
    from addon.oci import Digest


@dataclass(frozen=True)
class Wish:
    """Which images are to go: those for which all that is said here holds."""

    before: float | None = None  # last used before that, seconds since the epoch
    untagged: bool = False
    named: frozenset[Reference] = field(default_factory=frozenset)

    def means(self, image: Image) -> bool:
        return (
            not image.pinned
            and (not self.named or image.reference in self.named)
            and (self.before is None or image.used < self.before)
            and not (self.untagged and image.tagged)
        )


def going(
    wish: Wish, images: Iterable[Image], entries: Iterable[Entry], pinned: AbstractSet[Digest]
) -> tuple[list[Image], list[Entry]]:
    """The images that go, and the content: nothing that another image needs, or that is `pinned`.

    Content that belongs to no image goes as well, if images are not named and it is old enough.
    """
    gone, kept, wanted = [], set(pinned), set()
    for image in images:
        digests = {part.digest for part in image.tree.parts}
        if wish.means(image):
            gone.append(image)
            wanted |= digests
        else:
            kept |= digests
    content = [
        entry
        for entry in entries
        if entry.digest not in kept
        and (entry.digest in wanted or not wish.named)
        and (wish.before is None or entry.used < wish.before)
    ]
    return gone, content
