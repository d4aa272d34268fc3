"""Archives taken into the cache: every digest held against its bytes, and no tag before all that it needs is here."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from addon import journal
from addon.cache.partial import DigestMismatch
from addon.cache.store import StoreError
from addon.cache.trees import Trees
from addon.carrying import documents, names
from addon.carrying.documents import MAX_DOCUMENT
from addon.carrying.names import BadArchive, Listed
from addon.oci import MAX_MANIFEST, Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from addon.cache.cache import Cache
    from addon.cache.reference import Reference
    from addon.cache.trees import Tree
    from addon.carrying.members import Member
    from addon.carrying.names import Kind

_CHUNK = 1 << 20
# Bytes of a file that belongs to no image, like the README of an archive.
_OTHER = 1 << 20


@dataclass(frozen=True)
class Taken:
    """`private`: not everybody may read its repository, as the cache knows from before."""

    reference: Reference
    tree: Tree
    private: bool


@dataclass(frozen=True)
class Failed:
    """An image of the archive that is not imported, and what to do about it."""

    called: str
    why: str


class Intake:
    """One archive on its way into the cache. Blocks. What is not `adopted` by the end is removed again."""

    def __init__(self, cache: Cache, progress: Callable[[int], None]) -> None:
        self._cache = cache
        self._progress = progress
        self._sizes: dict[Digest, int] = {}  # of all that the archive has
        self._new: set[Digest] = set()  # what was not here before
        self._adopted: set[Digest] = set()
        self._loose: dict[str, tuple[Digest, int]] = {}
        self._links: dict[str, str] = {}
        self._documents: dict[Kind, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        contents = self._cache.contents
        for digest in self._new - self._adopted:
            if self._cache.store.evict(digest):
                contents.forget(digest)
        contents.flush()
        self._cache.store.write_index(self._cache.tags.all())

    def take(self, member: Member) -> None:
        """Raises BadArchive, StoreError or OSError."""
        kind = names.kind(member.name)
        if member.file is None:
            self._links[member.name] = names.linked(member.name, member.target)
        elif isinstance(kind, Digest):
            self._take(member, kind)
        elif kind == "loose":
            self._loose[member.name] = self._take(member), member.size
        elif kind != "other":
            if member.size > MAX_DOCUMENT:
                raise BadArchive(f"{member.name}: has {journal.size(member.size)}; {journal.size(MAX_DOCUMENT)} may be")
            self._documents[kind] = b"".join(self._pieces(member))
        elif member.size > _OTHER:
            raise BadArchive(
                f"{names.shown(member.name)}: has {journal.size(member.size)}, and belongs to no image that is known"
                " here; skopeo copy makes an oci-archive: of other kinds of archives"
            )

    def _take(self, member: Member, digest: Digest | None = None) -> Digest:
        """Stores a file, unless it is here; its digest."""
        if digest is not None and self._cache.store.size(digest) == member.size:
            found = hashlib.new(digest.algorithm)
            for piece in self._pieces(member):
                found.update(piece)
            if found.hexdigest() != digest.encoded:
                raise _damaged(member, f"{digest.algorithm}:{found.hexdigest()}")
            # It was just used: what must go for the rest is something else.
            with contextlib.suppress(OSError):
                os.close(self._cache.contents.open(digest))
            self._sizes[digest] = member.size
            return digest
        self._must_fit(member)
        with self._cache.store.receive(digest.algorithm if digest else "sha256") as incoming:
            for piece in self._pieces(member):
                incoming.write(piece)
            digest = digest or incoming.digest
            try:
                is_new = incoming.keep(digest)
            except DigestMismatch:
                raise _damaged(member, str(incoming.digest)) from None
        if is_new:
            self._keep(digest)
        self._sizes[digest] = member.size
        return digest

    def _keep(self, digest: Digest) -> None:
        self._new.add(digest)
        self._cache.contents.added(digest)

    def _pieces(self, member: Member) -> Iterator[bytes]:
        assert member.file
        while piece := member.file.read(_CHUNK):
            self._progress(len(piece))
            yield piece

    def _must_fit(self, member: Member) -> None:
        status = os.statvfs(self._cache.folder)
        free = status.f_bavail * status.f_frsize
        if member.size > free:
            raise StoreError(
                f"{self._cache.folder}: {journal.size(free)} of the disk are free, and {names.shown(member.name)} alone"
                f" has {journal.size(member.size)}; make room, or choose another folder with --data"
            )

    def adopt(self, called: Reference | None, *, partial: bool) -> list[Taken | Failed]:
        """Has the archive's images served under their names, or a single one as it is to be `called`.

        `partial`: those as well of which not all is there. Raises BadArchive, StoreError or OSError.
        """
        return [self._adopt(listed, partial=partial) for listed in self._listed(called)]

    def _listed(self, called: Reference | None) -> list[Listed]:
        if layout := self._documents.get("layout"):
            documents.layout(layout)
        if index := self._documents.get("index"):
            found = documents.index(index)
        elif saved := self._documents.get("docker"):
            images = documents.saved(saved, self._found, self._read)
            for listed, manifest in images:
                self._make(listed.digest, manifest)
            found = [listed for listed, _ in images]
        else:
            raise BadArchive(f"it has neither {names.INDEX} nor {names.DOCKER}, so that it is no archive of images")
        if not found:
            raise BadArchive("there is no image in it")
        if called is None:
            return found
        digests = {listed.digest for listed in found}
        if len(digests) > 1:
            raise BadArchive(f"it has {len(digests)} images, of which --as can name none; leave it out")
        return [Listed(digest, str(called), called) for digest in digests]

    def _make(self, digest: Digest, manifest: bytes) -> None:
        if self._cache.store.size(digest) is None:
            self._cache.store.add(digest, manifest)
            self._keep(digest)
        self._sizes[digest] = len(manifest)

    def _found(self, name: str) -> tuple[Digest, int] | None:
        if found := self._loose.get(self._links.get(name, name)):
            return found
        # `docker save` since version 25 has its files under their digests.
        digest = names.kind(name)
        return (digest, self._sizes[digest]) if isinstance(digest, Digest) and digest in self._sizes else None

    def _read(self, digest: Digest) -> bytes | None:
        return self._cache.store.read(digest, MAX_MANIFEST) if digest in self._sizes else None

    def _size(self, digest: Digest) -> int | None:
        """Only what was in the archive counts: a digest alone must not open what others have in the cache."""
        size = self._sizes.get(digest)
        return size if size is not None and self._cache.store.size(digest) == size else None

    def _adopt(self, listed: Listed, *, partial: bool) -> Taken | Failed:
        reference = listed.reference
        if reference is None:
            what = f"is called {names.shown(listed.called)} there" if listed.called else "has no name there"
            return Failed(str(listed.digest), f"{what}: say which image it is with --as REGISTRY/REPOSITORY:TAG")
        if isinstance(reference.target, Digest) and reference.target != listed.digest:
            return Failed(str(reference), f"is {listed.digest} in the archive")
        tree = Trees(self._size, self._read).of(listed.digest)
        if tree is None:
            return Failed(str(reference), f"its manifest ({listed.digest.short}) is not in the archive")
        if not tree.complete and not partial:
            missing = tree.missing
            return Failed(
                str(reference),
                f"{len(missing)} of its {len(tree.parts)} files are not in the archive ({missing[0].digest.short} is"
                " one); export it again from a cache that has all of it, or import what there is with --partial",
            )
        return self._publish(reference, tree)

    def _publish(self, reference: Reference, tree: Tree) -> Taken:
        cache, registry, repository = self._cache, reference.registry, reference.repository
        held = [part.digest for part in tree.parts if part.size is not None]
        self._adopted.update(held)
        cache.links.restore((registry, repository, digest) for digest in held)
        private = cache.rights.is_private(registry, repository)
        if not private:
            # As of old: a proxy that can ask does so before it believes this.
            cache.rights.restore([(registry, repository)])
        if isinstance(reference.target, str):
            cache.tags.adopt(registry, repository, reference.target, tree.digest)
            noted = cache.tags.digests(registry, repository, reference.target)[:1] == [tree.digest]
        else:
            noted = True
        noted = noted and (private or cache.rights.verdict(registry, repository) is not None)
        if not noted or not all(cache.links.known(registry, repository, digest) for digest in held):
            raise StoreError(f"{cache.folder}: {reference} could not be noted down; see above for the reason")
        return Taken(reference, tree, private)


def _damaged(member: Member, digest: str) -> BadArchive:
    return BadArchive(f"{names.shown(member.name)}: its bytes have digest {digest}: the archive is damaged")
