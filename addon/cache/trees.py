"""An image with all that it consists of, and how much of that is at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from addon import oci
from addon.cache import descriptors
from addon.cache.descriptors import NO_PLATFORM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from addon.cache.descriptors import Descriptor, Kind
    from addon.oci import Digest

# Indexes in indexes; no builder makes more than one in another.
_DEPTH = 8


@dataclass(frozen=True)
class Tree:
    """Some content, and what it refers to.

    `size`: bytes of it that are at hand, None when it is not, or has not the size that was `announced` of it.
    `children` are known only of what is at hand. `spare` as in descriptors.py.
    """

    digest: Digest
    kind: Kind
    media_type: str
    announced: int | None
    size: int | None
    platform: str = ""
    spare: bool = False
    children: tuple[Tree, ...] = field(default=(), repr=False)

    @property
    def parts(self) -> list[Tree]:
        """This and all below it, each digest once, what refers before what is referred to."""
        seen: dict[Digest, Tree] = {}
        waiting = [self]
        while waiting:
            tree = waiting.pop()
            if tree.digest not in seen:
                seen[tree.digest] = tree
                waiting.extend(reversed(tree.children))
        return list(seen.values())

    @property
    def images(self) -> list[Tree]:
        """Of an index, the images for one platform each; else this one alone."""
        if self.kind != "index":
            return [self]
        return [part for part in self.parts if part.kind == "manifest" and part.platform != NO_PLATFORM]

    @property
    def complete(self) -> bool:
        """Whether it can be pulled for one platform at least."""
        if self.size is None:
            return False
        if self.kind != "index":
            return all(child.spare or child.size is not None for child in self.children)
        return any(image.complete for image in self.images)

    @property
    def missing(self) -> list[Tree]:
        """What is not at hand of it and has to be."""
        return [part for part in self.parts if part.size is None and not part.spare]

    @property
    def held(self) -> int:
        """Bytes of it that are at hand."""
        return sum(part.size or 0 for part in self.parts)


class Trees:
    """Those of content whose `size` is known to the caller (None: not at hand), and which it can `read`.

    Each manifest is read once. Both block.
    """

    def __init__(self, size: Callable[[Digest], int | None], read: Callable[[Digest], bytes | None]) -> None:
        self._size = size
        self._read = read
        self._documents: dict[Digest, descriptors.Document | None] = {}

    def of(self, digest: Digest) -> Tree | None:
        """The tree below a manifest; None where it is not at hand, or is none."""
        content = self._read(digest) if self._size(digest) is not None else None
        media_type = oci.media_type(content) if content is not None else None
        if content is None or media_type is None:
            return None
        if digest not in self._documents:
            self._documents[digest] = descriptors.document(content)
        if self._documents[digest] is None:
            return None
        top = descriptors.Descriptor(digest, "manifest", media_type, len(content))
        return self._tree(top, {}, _DEPTH)

    def _tree(self, said: Descriptor, made: dict[Digest, Tree], depth: int) -> Tree:
        if said.digest in made:
            return made[said.digest]
        size = self._size(said.digest)
        if said.size is not None and size != said.size:
            size = None
        kind, children = said.kind, tuple[Tree, ...]()
        found = self._document(said.digest) if said.kind == "manifest" and size is not None else None
        if found:
            kind = "index" if found.is_index else "manifest"
            if depth:
                children = tuple(self._tree(each, made, depth - 1) for each in found.descriptors)
        tree = Tree(said.digest, kind, said.media_type, said.size, size, said.platform, said.spare, children)
        made[said.digest] = tree
        return tree

    def _document(self, digest: Digest) -> descriptors.Document | None:
        if digest not in self._documents:
            content = self._read(digest)
            self._documents[digest] = descriptors.document(content) if content is not None else None
        return self._documents[digest]


def platforms(tree: Tree, config: Callable[[Digest], str]) -> Iterator[tuple[str, Tree]]:
    """The platforms of an image, each with what is for it; `config` says that of a configuration ("" where unknown)."""
    for image in tree.images:
        said = image.platform or next(
            (config(child.digest) for child in image.children if child.kind == "config" and child.size is not None), ""
        )
        yield said, image
