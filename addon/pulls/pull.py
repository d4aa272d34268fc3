"""What a client wants, and as whom endpoints are asked for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from addon import loops, trace
from addon.oci import Blob, Digest, Manifest

if TYPE_CHECKING:
    from addon.config.model import Rule
    from addon.reply import Request
    from addon.upstream.reader import Reader


_ALONG = trace.HEADERS | {"via"}


def along(request: Request) -> list[tuple[str, str]]:
    """What goes along with all that a request has endpoints asked: who passed it on before us, and its trace."""
    return [*loops.passed_on(request), *trace.passed_on(request)]


@dataclass(frozen=True)
class Pull:
    """A request for content."""

    request: Request
    asked: Manifest | Blob
    reader: Reader

    @property
    def rule(self) -> Rule:
        return self.request.rule

    @property
    def repository(self) -> str:
        return self.asked.repository

    @property
    def along(self) -> list[tuple[str, str]]:
        """What goes along with what endpoints are asked for it."""
        return along(self.request)

    @property
    def is_head(self) -> bool:
        return self.request.method == "HEAD"

    @property
    def asker(self) -> tuple[str, str, str]:
        """The same for those who may have the same: registry, repository, and who the reader is."""
        return self.rule.registry, self.repository, self.reader.identity

    @property
    def digest(self) -> Digest:
        """Only where that is what it is asked by."""
        assert isinstance(self.asked.reference, Digest)
        return self.asked.reference

    def by(self, digest: Digest) -> Pull:
        """The same for the manifest that a tag points at."""
        return Pull(self.request, Manifest(self.repository, digest), self.reader)

    def of_blob(self, digest: Digest) -> Pull:
        """The same reader's own GET of a blob of the repository."""
        headers = tuple((name, value) for name, value in self.request.headers if name.lower() in _ALONG)
        target = f"/v2/{self.repository}/blobs/{digest}"
        request = replace(self.request, method="GET", target=target, headers=headers, body=None)
        return Pull(request, Blob(self.repository, digest), self.reader)
