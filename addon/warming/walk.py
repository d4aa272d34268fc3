"""From an image to the blobs that it consists of, by way of its indexes and manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.oci import Digest
from addon.warming import documents
from addon.warming.documents import Index, Manifest, Part, Unreadable
from addon.warming.pulling import Failed

if TYPE_CHECKING:
    from addon.config.model import Rule
    from addon.warming.platforms import Platform
    from addon.warming.pulling import Pulling
    from addon.warming.wanted import Wanted

# Indexes within indexes, and manifests of one image: the formats allow any, nobody needs more.
_DEPTH, _MANIFESTS = 4, 2000


async def parts(pulling: Pulling, rule: Rule, wanted: Wanted) -> list[Part]:
    """Its blobs, each once, all its manifests being in the cache. Raises Failed."""
    target = wanted.reference.target
    if isinstance(target, Digest) and not target.verifiable:
        raise Failed(f"{target.algorithm} is no digest that can be verified here: sha256 and sha512 are")
    walk = _Walk(pulling, rule, wanted)
    await walk.down(target)
    walk.refuse_missing()
    return list(walk.parts.values())


class _Walk:
    def __init__(self, pulling: Pulling, rule: Rule, wanted: Wanted) -> None:
        self.parts: dict[Digest, Part] = {}
        self._pulling = pulling
        self._rule = rule
        self._repository = wanted.reference.repository
        self._platforms = wanted.platforms
        self._found: set[Platform] = set()
        self._offered: dict[Platform, None] = {}
        self._for_any = False  # whether there is something that does not say for which platform it is
        self._seen: set[Digest | str] = set()

    async def down(self, reference: Digest | str, platform: Platform | None = None, depth: int = 0) -> None:
        """`platform`: for which it is, where an index has said so. Raises Failed."""
        if reference in self._seen:
            return
        self._seen.add(reference)
        if len(self._seen) > _MANIFESTS:
            raise Failed(f"it consists of more than {_MANIFESTS} manifests")
        content = await self._pulling.manifest(self._rule, self._repository, reference)
        try:
            found = documents.read(content)
        except Unreadable as error:
            raise Failed(str(error)) from None
        match found:
            case Manifest():
                self._for_any = self._for_any or platform is None
                self.parts |= {part.digest: part for part in found.parts}
            case Index() if depth == _DEPTH:
                raise Failed(f"its indexes are within each other more than {_DEPTH} times")
            case Index():
                await self._into(found, depth)

    async def _into(self, index: Index, depth: int) -> None:
        chosen = documents.choose(index, self._platforms)
        self._found |= chosen.platforms
        self._offered |= dict.fromkeys(documents.offered(index))
        for entry in chosen.entries:
            await self.down(entry.digest, entry.platform, depth + 1)

    def refuse_missing(self) -> None:
        """Raises Failed when there is nothing for one of the platforms."""
        missing = [each for each in self._platforms or () if each not in self._found]
        if missing and not self._for_any:
            offered = ", ".join(map(str, self._offered)) or "none"
            raise Failed(f"there is no {' nor '.join(map(str, missing))} of it, but {offered}")
