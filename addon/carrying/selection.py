"""What of an image goes into an archive. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.cache.descriptors import NO_PLATFORM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from addon.cache.trees import Tree
    from addon.oci import Digest


@dataclass(frozen=True)
class Selection:
    """`parts` are at hand, what refers before what is referred to. In words: content that is `missing`, wishes of which
    the image knows nothing (`absent`).
    """

    parts: tuple[Tree, ...]
    missing: tuple[str, ...]
    absent: tuple[str, ...]


def select(tree: Tree, platforms: Sequence[tuple[str, Tree]], wanted: Sequence[str]) -> Selection:
    """Of `platforms` (all of them by name, and what is for each) those that are wanted; without, all complete ones.

    Where none is complete, all that is at hand of them.
    """
    absent = []
    if wanted:
        chosen = []
        for name in wanted:
            found = [image for said, image in platforms if matches(said, name)]
            chosen += found
            if not found:
                has = ", ".join(sorted({said or "one that is not known" for said, _ in platforms}))
                absent.append(f"it is not for {name}, but for {has or 'no platform'}")
    else:
        chosen = [image for _, image in platforms if image.complete] or [image for _, image in platforms]
    lacking = {part.digest: part for image in chosen for part in image.missing}
    left_out = {image.digest for _, image in platforms} - {image.digest for image in chosen}
    parts = {part.digest: part for part in _at_hand(tree, left_out)}
    missing = tuple(f"{part.kind} {part.digest}" for part in lacking.values())
    return Selection(tuple(parts.values()), missing, tuple(absent))


def matches(platform: str, wanted: str) -> bool:
    """linux/arm64 is any variant of it; arm64 without one is v8 (as to containerd)."""
    has, wants = (text.removesuffix("/v8") if "/arm64/" in text else text for text in (platform, wanted))
    return has == wants or has.startswith(f"{wants}/")


def _at_hand(tree: Tree, left_out: set[Digest]) -> Iterator[Tree]:
    if tree.size is None or tree.digest in left_out:
        return
    # What belongs to a platform, as attestations do, is worth having in one piece only.
    if tree.platform == NO_PLATFORM and not tree.complete:
        return
    yield tree
    for child in tree.children:
        yield from _at_hand(child, left_out)
