"""What one configuration file or folder says, in whichever format. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from addon.config.model import Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from addon.config.model import Auth, Config, Endpoint, Tls


@dataclass(frozen=True)
class Draft:
    """What is said of the repositories that a pattern covers. None: nothing is, so that another file may say it.

    `registry` is a host[:port], "*.host[:port]" or "*"; with `within`, it is about the repositories at or below that.
    `origins`: how the registry itself is reached; `moved`: that this is somewhere else than its name says. `fallback`:
    whether it is asked at all.
    """

    registry: str
    within: str = ""
    mirrors: tuple[Endpoint, ...] = ()
    origins: tuple[Endpoint, ...] | None = None
    moved: bool = False
    fallback: bool | None = None
    blocked: bool = False
    tag_ttl: float | None = None  # seconds
    prefetch: bool | None = None
    offline: bool | None = None
    open: bool | None = None
    redirect: bool | None = None
    place: Place = field(default_factory=Place)

    @property
    def pattern(self) -> str:
        return f"{self.registry}/{self.within}" if self.within else self.registry


@dataclass(frozen=True)
class Reading:
    """What was read from `path` (None: what is built in), and the `files` and folders that were looked at for it.

    `tls` and `auths` are by `host[:port]`: they hold for what other files name there, too. `settings`: a configuration
    without rules, from a format that has a place for more than registries. `standby`: for registries that no file
    mentions.
    """

    path: Path | None
    drafts: tuple[Draft, ...] = ()
    tls: Mapping[str, Tls] = field(default_factory=dict)
    auths: Mapping[str, Auth] = field(default_factory=dict)
    settings: Config | None = None
    standby: tuple[Draft, ...] = ()
    files: frozenset[Path] = frozenset()
    warnings: tuple[str, ...] = ()
