"""Which kind of file it is that names images, and what it names."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from addon.cache.reference import BadReference, normalised
from addon.warming.sources import compose, dockerfile, kubernetes, listing, nodes
from addon.warming.sources.mentions import Unusable
from addon.warming.words import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from addon.cache.reference import Reference
    from addon.warming.platforms import Platform
    from addon.warming.sources.mentions import Mentions

STDIN = "-"
_MOST = 16 << 20  # bytes
_DOCKERFILE = re.compile(r"(?:.*\.)?(?:dockerfile|containerfile)(?:\..*)?", re.IGNORECASE)
_YAML = (".yaml", ".yml", ".json")
_FIRST = re.compile(r"(?:FROM|ARG)\s", re.IGNORECASE)


class SourceError(Exception):
    """A file does not say which images there are; the message names it, the line, and what to do."""


@dataclass(frozen=True)
class Settings:
    """What files leave open: arguments of a build (--build-arg), variables of the environment, platforms.

    `build` is where builds run, `targets` what they are for; None: everything that there is.
    """

    arguments: Mapping[str, str]
    environment: Mapping[str, str]
    build: Platform
    targets: Sequence[Platform] | None


@dataclass(frozen=True)
class Named:
    """The images of a file, each with its platform where the file says one, and what else is to be said, for people."""

    images: list[tuple[Reference, Platform | None]]
    notes: list[str]


def read(name: str, settings: Settings) -> Named:
    """A file's; "-" is a list on standard input. Raises SourceError."""
    shown = "standard input" if name == STDIN else name
    try:
        text = _text(name)
        mentions = listing.parse(text) if name == STDIN else parse(Path(name).name, text, settings)
        images = []
        for mention in mentions.images:
            try:
                images.append((normalised(mention.image), mention.platform))
            except BadReference as error:
                raise Unusable(mention.line, str(error)) from None
    except Unusable as error:
        raise SourceError(plain(f"{shown}{f':{error.line}' if error.line else ''}: {error}")) from None
    except OSError as error:
        raise SourceError(f"{shown}: cannot be read: {error.strerror}") from None
    notes = mentions.notes if images or mentions.notes else ["it names no image"]
    return Named(images, [plain(f"{shown}: {note}") for note in notes])


def _text(name: str) -> str:
    """Raises Unusable or OSError."""
    if name == STDIN:
        content = sys.stdin.buffer.read(_MOST + 1)
    else:
        with open(name, "rb") as file:
            content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise Unusable(0, f"it has more than {_MOST >> 20} MiB, as no file has that names images")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Unusable(0, "it is no text in UTF-8") from None
    if "\0" in text:
        raise Unusable(0, "it is no text")
    return text


def parse(name: str, text: str, settings: Settings) -> Mentions:
    """What a file of this name says, by the kind that its name and content show. Raises Unusable."""
    if _DOCKERFILE.fullmatch(name):
        return _dockerfile(text, settings)
    if name.lower().endswith(_YAML):
        return _yaml(text, settings)
    lines = [line for _, line in listing.lines(text.removeprefix("\ufeff"))]
    if lines and _FIRST.match(lines[0]):
        return _dockerfile(text, settings)
    if any(len(line.split()) > 1 or line.endswith(":") or line == "---" for line in lines):
        return _yaml(text, settings)
    return listing.parse(text)


def _dockerfile(text: str, settings: Settings) -> Mentions:
    return dockerfile.parse(text, settings.arguments, settings.build, settings.targets)


def _yaml(text: str, settings: Settings) -> Mentions:
    documents = nodes.documents(text)
    if compose.is_one(documents):
        return compose.parse(documents, settings.environment)
    if kubernetes.is_one(documents):
        return kubernetes.parse(documents)
    raise Unusable(
        0,
        "what it is cannot be told: a Dockerfile begins with FROM or ARG, a compose file has services, a Kubernetes"
        " manifest apiVersion and kind, and a list one image a line",
    )
