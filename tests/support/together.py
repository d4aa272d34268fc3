"""What several registries are asked, in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon import oci

if TYPE_CHECKING:
    from support.faults import Seen
    from support.registry import FakeRegistry


class _Log(list["Seen"]):
    """A registry's requests, written down beside those of the others."""

    def __init__(self, name: str, asked: list[tuple[str, Seen]]) -> None:
        self._name = name
        self._asked = asked

    def append(self, seen: Seen) -> None:
        super().append(seen)
        self._asked.append((self._name, seen))


class Together:
    """`asked`: whom, and what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Seen]] = []

    def note(self, name: str, registry: FakeRegistry) -> None:
        """From now on what the registry is asked is noted under this name."""
        registry.traffic.requests = _Log(name, self.asked)

    def asked_for(self, kind: str, reference: str) -> list[str]:
        """Who has been asked for it, as "name repository", in the order of the first questions."""
        asked = [(name, seen) for name, seen in self.asked if seen.kind == kind and seen.path.endswith(f"/{reference}")]
        return list(dict.fromkeys(f"{name} {oci.repository(seen.path)}" for name, seen in asked))
