"""As whom endpoints are asked, and what their answers show about who may read. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from addon.config.model import Endpoint, Rule
    from addon.oci import Blob, Manifest


@dataclass(frozen=True)
class Reader:
    """As anybody, or `personal`: as the client whose header `authorization` is, and that goes to the origin alone.

    `fingerprint` stands for the header where that must not be seen. As anybody, the header may still pay for what
    counts against a rate limit.
    """

    fingerprint: str = ""
    authorization: str | None = field(default=None, repr=False)
    personal: bool = False

    @property
    def identity(self) -> str:
        """The same for readers who may read the same."""
        return self.fingerprint if self.personal else ""


ANYBODY = Reader()


class Rights(Protocol):
    """What is believed about who may read, and who hears what endpoints answer."""

    def believed(self, rule: Rule, repository: str, reader: Reader) -> bool:
        """Whether it need not be asked just now that the reader may read the repository."""

    def shown(self, rule: Rule, asked: Manifest | Blob, reader: Reader, endpoint: Endpoint) -> None:
        """The endpoint has just given this content to the reader."""

    def refused(self, rule: Rule, repository: str, reader: Reader, endpoint: Endpoint) -> None:
        """The endpoint has just said that the reader may not read."""
