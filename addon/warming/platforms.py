"""Platforms as people write them (linux/arm64/v8), and which of an image's is meant. Pure."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PART = re.compile(r"[a-z0-9_.-]{1,64}")
# How kernels and people call what image-spec ("Image Index", platform) calls otherwise.
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
# Variants that are meant where none is written, and where others are not there: each runs on those before it.
_VARIANTS = {"arm": ("v5", "v6", "v7", "v8"), "amd64": ("v1", "v2", "v3", "v4"), "arm64": ("v8",)}
_USUAL = {"arm": "v7", "amd64": "v1", "arm64": "v8"}


class BadPlatform(Exception):
    """It is none; the message says why."""


@dataclass(frozen=True)
class Platform:
    """`variant` is empty where it is the architecture's usual one."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """OS/ARCHITECTURE[/VARIANT], or an architecture of linux alone. Raises BadPlatform."""
        parts = text.strip().lower().split("/")
        if len(parts) == 1 and parts[0]:
            parts = ["linux", *parts]
        if not 2 <= len(parts) <= 3 or not all(map(_PART.fullmatch, parts)):
            raise BadPlatform(f"{text[:100]!a} is not a platform: OS/ARCHITECTURE is, as linux/arm64 or linux/arm/v7")
        return cls.of(*parts)

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """The same value for all that mean the same."""
        architecture, usual = _ALIASES.get(architecture, (architecture, ""))
        variant = variant or usual
        return cls(os, architecture, "" if variant == _USUAL.get(architecture) else variant)

    @property
    def full_variant(self) -> str:
        return self.variant or _USUAL.get(self.architecture, "")

    def __str__(self) -> str:
        # Of arm there are several, of which none goes without saying.
        variant = self.full_variant if self.architecture == "arm" else self.variant
        return "/".join(filter(None, (self.os, self.architecture, variant)))


UNKNOWN = Platform("unknown", "unknown")
"""What an index says of what is no image: attestations of BuildKit's."""


def this_machine() -> Platform:
    """What containers run on here."""
    return Platform.of("linux", platform.machine().lower())


def chosen(wanted: Platform, offered: Iterable[Platform]) -> Platform | None:
    """The one that a client of this platform takes: its own, or the best that runs there as well."""
    there = set(offered)
    return next((each for each in _running_on(wanted) if each in there), None)


def _running_on(wanted: Platform) -> Iterator[Platform]:
    yield wanted
    variants = _VARIANTS.get(wanted.architecture, ())
    if wanted.full_variant in variants:
        for variant in reversed(variants[: variants.index(wanted.full_variant)]):
            yield replace(wanted, variant="" if variant == _USUAL[wanted.architecture] else variant)
