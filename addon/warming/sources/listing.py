"""A plain list of images: one a line, # begins a comment. Pure."""

from __future__ import annotations

import re

from addon.warming.sources.mentions import Mention, Mentions, Unusable

_COMMENT = re.compile(r"(?:^|\s)#.*")


def lines(text: str) -> list[tuple[int, str]]:
    """Those that say something, by number (from 1)."""
    found = ((number, _COMMENT.sub("", each).strip()) for number, each in enumerate(text.splitlines(), 1))
    return [(number, each) for number, each in found if each]


def parse(text: str) -> Mentions:
    """Raises Unusable."""
    found = Mentions()
    for number, each in lines(text.removeprefix("\ufeff")):
        if len(each.split()) > 1:
            raise Unusable(number, f"{each[:60]!a} is more than one image: one a line is expected")
        found.images.append(Mention(each, number))
    return found
