"""The images of a cache: what tags and digests name, how much of it is here, and when it was last used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.cache import descriptors, trees
from addon.cache.reference import Reference
from addon.cache.trees import Tree, Trees
from addon.oci import MAX_MANIFEST, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from addon.cache.cache import Cache


@dataclass(frozen=True)
class Image:
    """`used`: when any manifest of it was last served, seconds since the epoch."""

    reference: Reference
    tree: Tree
    platforms: tuple[tuple[str, bool], ...]  # by name, and whether all of it is here
    used: float
    public: bool
    pinned: bool

    @property
    def tagged(self) -> bool:
        return isinstance(self.reference.target, str)


class Images:
    """A look at the cache. Blocks."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        store = cache.store
        self._sizes: dict[Digest, int | None] = {}
        self._trees = Trees(self._size, lambda digest: store.read(digest, MAX_MANIFEST))
        self.used = {entry.digest: entry.used for entry in cache.contents.by_use()}
        """When content was last served, seconds since the epoch."""
        self._pinned = set(cache.pins.all())

    def all(self) -> list[Image]:
        """Tags, and digests that no tag of their repository leads to; of tags that moved, the newest that is here."""
        found = list(self._tagged())
        reached: dict[tuple[str, str], set[Digest]] = {}
        for image in found:
            repository = image.reference.registry, image.reference.repository
            reached.setdefault(repository, set()).update(part.digest for part in image.tree.parts)
        found += self._untagged(reached)
        return sorted(found, key=lambda image: str(image.reference))

    def named(self, reference: Reference) -> Image | None:
        """What is here of it; None when its manifest is not."""
        registry, repository = reference.registry, reference.repository
        if isinstance(reference.target, Digest):
            known = self._cache.links.known(registry, repository, reference.target)
            digests = [reference.target] if known else []
        else:
            digests = self._cache.tags.digests(registry, repository, reference.target)
        return self._newest(reference, digests, self._public(registry, repository))

    def _tagged(self) -> Iterator[Image]:
        pointers: dict[str, list[Digest]] = {}
        public: dict[str, bool] = {}
        for text, digest, everybody in self._cache.tags.all():
            pointers.setdefault(text, []).append(digest)
            public[text] = everybody
        for text, digests in pointers.items():
            if image := self._newest(Reference.parse(text), digests, public[text]):
                yield image

    def _untagged(self, reached: dict[tuple[str, str], set[Digest]]) -> Iterator[Image]:
        tops: dict[tuple[str, str], dict[Digest, Tree]] = {}
        for registry, repository, digest in self._cache.links.all(MAX_MANIFEST):
            known = reached.get((registry, repository), ())
            if digest not in known and self._is_json(digest) and (tree := self._tree(digest)):
                tops.setdefault((registry, repository), {})[digest] = tree
        for (registry, repository), found in tops.items():
            below = {part.digest for tree in found.values() for part in tree.parts if part.digest != tree.digest}
            for digest, tree in found.items():
                if digest not in below:
                    yield self._image(Reference(registry, repository, digest), tree, self._public(registry, repository))

    def _newest(self, reference: Reference, digests: list[Digest], public: bool) -> Image | None:
        tree = next((tree for digest in digests if (tree := self._tree(digest))), None)
        return self._image(reference, tree, public) if tree else None

    def _image(self, reference: Reference, tree: Tree, public: bool) -> Image:
        manifests = [part.digest for part in tree.parts if part.kind in ("index", "manifest") and part.size is not None]
        return Image(
            reference,
            tree,
            tuple((name, image.complete) for name, image in trees.platforms(tree, self.platform)),
            max(self.used.get(digest, 0.0) for digest in manifests),
            public,
            reference in self._pinned,
        )

    def _public(self, registry: str, repository: str) -> bool:
        verdict = self._cache.rights.verdict(registry, repository)
        return verdict is not None and verdict.public

    def _is_json(self, digest: Digest) -> bool:
        """Or may be: few of the files that nothing refers to are, and layers are large."""
        try:
            with open(self._cache.store.path(digest), "rb") as file:
                return file.read(64).lstrip().startswith(b"{")
        except OSError:
            return False

    def _tree(self, digest: Digest) -> Tree | None:
        return self._trees.of(digest)

    def _size(self, digest: Digest) -> int | None:
        if digest not in self._sizes:
            self._sizes[digest] = self._cache.store.size(digest)
        return self._sizes[digest]

    def platform(self, config: Digest) -> str:
        """That of an image's configuration, "" where it says none."""
        try:
            return descriptors.platform(json.loads(self._cache.store.read(config, MAX_MANIFEST) or b""))
        except (ValueError, RecursionError):
            return ""
