"""A data folder with images in its cache, as if they had been pulled, and the commands that look after it."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from click.testing import CliRunner, Result

from addon.cache.cache import Cache
from addon.cache.reference import Reference
from addon.cli import main
from addon.config.model import Beliefs
from addon.oci import MANIFEST_TYPES, Digest
from support.images import parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.images import Image, MultiArch


class Data:
    """The folder need not be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache_folder = folder / "cache"

    @contextmanager
    def opened(self) -> Iterator[Cache]:
        with closing(Cache(self.cache_folder, Beliefs)) as cache:
            yield cache

    def pull(self, name: str, image: Image | MultiArch, *, without: tuple[str, ...] = (), public: bool = True) -> None:
        """All of it but for these digests."""
        reference = Reference.parse(name)
        where = reference.registry, reference.repository
        with self.opened() as cache:
            for text, content in parts(image).items():
                digest = Digest.parse(text)
                if text not in without:
                    cache.store.add(digest, content)
                    cache.contents.added(digest)
                    cache.links.add(*where, digest)
            cache.rights.judge(*where, public=public)
            if isinstance(reference.target, str):
                top = Digest.parse(image.top.digest)
                cache.tags.record(*where, reference.target, frozenset(MANIFEST_TYPES), top)
            cache.store.write_index(cache.tags.all())

    def used(self, when: float, *digests: str) -> None:
        """Content (all, if none is named) was last served then, seconds since the epoch."""
        with self.opened() as cache:
            for (digest,) in cache.database.execute("SELECT digest FROM content").fetchall():
                if not digests or digest in digests:
                    cache.database.execute("UPDATE content SET used = ? WHERE digest = ?", (when, digest))

    def held(self) -> set[str]:
        """The digests of all content."""
        with self.opened() as cache:
            return {str(file.digest) for file in cache.store.contents()}

    def path(self, digest: str) -> Path:
        return self.cache_folder / "blobs" / digest.replace(":", "/")

    def run(self, *arguments: str | Path, code: int = 0, input: str | None = None) -> Result:
        """`mirrortap cache ...`, which must end with this code."""
        argv = ["cache", *map(str, arguments), "--data", str(self.folder)]
        result = CliRunner().invoke(main, argv, input=input)
        assert result.exit_code == code, (result.output, result.exception)
        return result
