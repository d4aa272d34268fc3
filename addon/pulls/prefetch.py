"""What a manifest that was just served refers to, fetched before the client asks: most clients take one layer after
another.

Each blob is asked for as the client itself would ask for it: by the same path, as the same reader.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from addon.body import BodyCut
from addon.cache import manifest
from addon.oci import MAX_MANIFEST, Blob, Digest
from addon.upstream.sources import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from addon.body import Body
    from addon.cache.contents import Contents
    from addon.config.current import Current
    from addon.config.model import Config
    from addon.pulls.by_digest import ByDigest
    from addon.pulls.fills import Fills
    from addon.pulls.pull import Pull
    from addon.reply import Reply

    _Key = tuple[tuple[str, str, str], Digest]  # who asked for which manifest

log = logging.getLogger("mirrortap")

# Blobs of one manifest at a time: what clients do that fetch several at once (dockerd 3, containerd 4, podman 5), so
# that a registry sees nothing new.
_AT_ONCE = 4
# Blobs at a time that no client has asked for yet; and the downloads beside which none of them is begun: those that
# have clients need the line and the CPU.
_UNASKED, _BUSY = 8, 32
# Blobs of one manifest: Docker makes no image of more than 127 layers.
_BLOBS = 128
# Seconds for which no layer is asked for or read, until it is taken that none will be; and for which the manifest is
# then left alone: who only looks at manifests, again and again, must not cause downloads.
_PATIENCE, _REST = 10.0, 600.0
# Seconds between two looks at that.
_LOOK = 1.0
# Manifests at a time, as many again of which the layers are remembered, and manifests that are left alone.
_GOING, _KNOWN = 64, 4096


class _Image:
    """A manifest that was served, and what it refers to."""

    def __init__(self, pull: Pull, config: Config, now: float) -> None:
        self.pull = pull
        self.config = config  # as long as that is in use
        self.asked = now  # when there was last a sign that it is pulled
        self.parts: manifest.Parts | None = None
        self.task: asyncio.Task[None] | None = None


class Prefetch:
    """Hears what was served, and fetches what will be asked for next. `clock` gives seconds; `look`: see _LOOK."""

    by_digest: ByDigest  # to be set before anything is served

    def __init__(
        self,
        contents: Contents,
        fills: Fills,
        current: Current,
        clock: Callable[[], float] = time.monotonic,
        look: float = _LOOK,
    ) -> None:
        self._contents = contents
        self._fills = fills
        self._current = current
        self._clock = clock
        self._look = look
        self._going: dict[_Key, _Image] = {}
        self._dropped: dict[_Key, _Image] = {}  # nobody asked for their layers
        self._rests: dict[_Key, float] = {}  # until when manifests are left alone, the oldest first
        self._held: Counter[Digest] = Counter()  # what is being fetched
        self._room = asyncio.Event()  # there may be room for more
        self._watching: asyncio.Task[None] | None = None

    def served(self, pull: Pull, answer: Reply) -> None:
        """A client is just being given this."""
        if pull.is_head or answer.status not in (200, 206):
            return
        if isinstance(pull.asked, Blob):
            if self._going or self._dropped:
                self._asked_for(pull)
        # Where endpoints have just not answered for a tag, they need not be asked for what nobody has asked for.
        elif answer.status == 200 and pull.rule.prefetch and not pull.rule.offline and answer.served.how != "stale":
            self._manifest(pull, answer)

    def _manifest(self, pull: Pull, answer: Reply) -> None:
        reference = pull.asked.reference
        if not isinstance(reference, Digest):
            reference = Digest.parse(dict(answer.headers)["Docker-Content-Digest"])
        key, now = (pull.asker, reference), self._clock()
        if key in self._going or self._rests.get(key, now) > now or len(self._going) >= _GOING:
            return
        self._dropped.pop(key, None)
        self._begin(key, _Image(pull, self._current.config, now), answer.body)

    def _asked_for(self, pull: Pull) -> None:
        """Of the blobs only layers show that an image is pulled: who looks at one may want its config, too."""
        for image in self._going.values():
            if image.parts and pull.digest in image.parts.layers:
                image.asked = self._clock()
        for key, image in list(self._dropped.items()):
            if key[0] == pull.asker and image.parts and pull.digest in image.parts.layers and len(self._going) < _GOING:
                del self._dropped[key]
                # Its credential may have ended, this one is good.
                image.pull, image.asked, image.config = pull, self._clock(), self._current.config
                self._begin(key, image)

    def _begin(self, key: _Key, image: _Image, body: Body | bytes = b"") -> None:
        self._going[key] = image
        image.task = asyncio.create_task(self._run(key, image, body), name="prefetch")
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="prefetch watch")

    async def _run(self, key: _Key, image: _Image, body: Body | bytes) -> None:
        try:
            await asyncio.sleep(0)  # the client gets its answer first
            if image.parts is None:
                content = body if isinstance(body, bytes) else await self._complete(key[1])
                image.parts = manifest.parts(content, _BLOBS)
            missing = deque(digest for digest in image.parts.blobs if self._contents.size(digest) is None)
            if missing:
                log.info("prefetching %d blobs of %s", len(missing), _named(key))
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(_AT_ONCE, len(missing))):
                        group.create_task(self._fetch_all(image, missing))
        except Exception:
            log.exception("prefetching %s: a fault in mirrortap", _named(key))
        self._leave_alone(key)

    async def _complete(self, digest: Digest) -> bytes:
        """A manifest that a client is being sent: the last of it comes when it is verified, before the disk has it."""
        fill, content = self._fills.running(digest), b""
        if fill is None:
            kept = self._contents.manifest(digest)
            return kept.content if kept else b""
        try:
            body = await fill.body()
            try:
                while len(content) <= MAX_MANIFEST and (piece := await body.read()):
                    content += piece
            finally:
                await body.close()
        except (BodyCut, OSError):
            return b""
        return content

    async def _fetch_all(self, image: _Image, left: deque[Digest]) -> None:
        """Takes the next of those that are left, until there is none; several do that at a time."""
        while left:
            if self._unasked >= _UNASKED or self._fills.count >= _BUSY:
                self._room.clear()
                await self._room.wait()
            elif image.config is not self._current.config or not self._fills.possible:
                left.clear()
            else:
                try:
                    await self._fetch(image.pull.of_blob(left.popleft()))
                except (NotFound, BodyCut):
                    # Whoever does not have one, or does not get it here, is not asked for all the others.
                    left.clear()

    @property
    def _unasked(self) -> int:
        fills = (self._fills.running(digest) for digest in self._held)
        return sum(fill is None or fill.ahead for fill in fills)

    async def _fetch(self, pull: Pull) -> None:
        """Until it is in the store, or will not come. Raises NotFound or BodyCut."""
        digest = pull.digest
        if fill := self._fills.running(digest):
            await self._fills.ended(fill)
            return
        if self._contents.size(digest) is not None:
            return
        body: Body | bytes = b""
        self._held[digest] += 1
        try:
            # As a client that does not read: whoever comes joins the download, and as long as this has it, it goes on.
            body = (await self.by_digest.answer(pull, ahead=True)).body
            if fill := self._fills.running(digest):
                await self._fills.ended(fill)
                if fill.failed:
                    raise BodyCut("it did not come")
        finally:
            self._held[digest] -= 1
            self._held += Counter()  # without those that are at 0
            self._room.set()
            self._fills.drop(digest)
            if not isinstance(body, bytes):
                await body.close()

    async def _watch(self) -> None:
        """Drops the images that nobody comes for."""
        while self._going:
            await asyncio.sleep(self._look)
            now = self._clock()
            for key, image in list(self._going.items()):
                if self._read(image):
                    image.asked = now
                if now - image.asked > _PATIENCE:
                    self._drop(key, image)
            self._room.set()
        self._watching = None

    def _read(self, image: _Image) -> bool:
        """Whether clients are reading one of its layers as that comes."""
        layers = image.parts.layers if image.parts else ()
        fills = {digest: fill for digest in layers if (fill := self._fills.running(digest))}
        return any(fill.readers > self._held[digest] for digest, fill in fills.items())

    def _drop(self, key: _Key, image: _Image) -> None:
        log.info("%s: no layer was asked for: no more is prefetched, what has come is kept", _named(key))
        self._leave_alone(key)
        while len(self._dropped) >= _GOING:
            del self._dropped[next(iter(self._dropped))]
        self._dropped[key] = image
        if image.task:
            image.task.cancel()

    def _leave_alone(self, key: _Key) -> None:
        self._going.pop(key, None)
        self._rests.pop(key, None)
        while len(self._rests) >= _KNOWN:
            del self._rests[next(iter(self._rests))]
        self._rests[key] = self._clock() + _REST

    async def close(self) -> None:
        """What is fetched ahead goes on only as far as a client reads it."""
        tasks = [image.task for image in self._going.values() if image.task]
        if self._watching:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _named(key: _Key) -> str:
    (registry, repository, _), digest = key
    return f"{registry}/{repository}@{digest}"
