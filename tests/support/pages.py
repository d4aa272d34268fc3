"""The documentation as tests read it: pages, their links, and their blocks with what a comment above each says.

| comment above a block | what it means |
|---|---|
| none, above `sh` | it is run, after the ones before it on its page |
| `<!-- not run: WHY -->` | it is not; its commands and options must exist all the same |
| `<!-- serves -->` | it is run, and goes on until the next one that serves, or the page's end |
| `<!-- beside the proxy -->` | it is run while `mirrortap serve` is; so are all of docs/builders/ |
| `<!-- on the builder -->` | it is run by the machine that pulls; so are all of docs/builders/ |
| `<!-- file: NAME -->` | it is written to that file, in the folder where the next ones are run |
| `<!-- as: NAME -->` | it is read as a file of that name would be, and not written |
| `<!-- log -->` | the proxy's log has these lines, in this order, but for numbers and what `...` stands for |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from support.proxy import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from markdown_it.token import Token

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_COMMENT = re.compile(
    r"<!-- (?P<word>not run|serves|beside the proxy|on the builder|file|as|log)(?:: (?P<rest>.+?))? -->"
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of the fence, from 1
    language: str
    text: str
    comments: dict[str, str]

    @property
    def is_run(self) -> bool:
        return self.language == "sh" and "not run" not in self.comments

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Link:
    page: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.target}"


class Page:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self._tokens = _MARKDOWN.parse(path.read_text())

    @cached_property
    def anchors(self) -> set[str]:
        """As GitHub makes them of headings."""
        found: list[str] = []
        for heading in self._headings():
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
        return set(found)

    def links(self) -> list[Link]:
        """Of text, images, and HTML."""
        return [Link(self.path, line, target) for line, token in self._inline() for target in _targets(token)]

    def code(self) -> list[tuple[int, str]]:
        """What stands between backticks, with its line."""
        return [(line, token.content) for line, token in self._inline() if token.type == "code_inline"]

    def blocks(self) -> list[Block]:
        found = []
        comments: dict[str, str] = {}
        for token in self._tokens:
            if token.type in ("fence", "code_block"):
                assert token.map
                found.append(Block(self.path, token.map[0] + 1, token.info.strip(), token.content, comments))
            # They may stand on lines of their own, one below the other.
            said = {match["word"]: match["rest"] or "" for match in _COMMENT.finditer(token.content)}
            comments = said if token.type == "html_block" else {}
        return found

    def _headings(self) -> list[str]:
        return [
            "".join(part.content for part in content.children or () if part.type in ("text", "code_inline"))
            for opening, content in zip(self._tokens, self._tokens[1:], strict=False)
            if opening.type == "heading_open"
        ]

    def _inline(self) -> Iterator[tuple[int, Token]]:
        for token in self._tokens:
            line = token.map[0] + 1 if token.map else 0
            yield line, token
            for part in token.children or ():
                yield line, part


def pages() -> list[Page]:
    """README.md, and what is below docs/ and deploy/."""
    folders = [path for name in ("docs", "deploy") for path in sorted((ROOT / name).rglob("*.md"))]
    return [Page(path) for path in (ROOT / "README.md", *folders)]


def _targets(token: Token) -> Sequence[str]:
    if token.type == "link_open":
        return [str(token.attrs["href"])]
    if token.type == "image":
        return [str(token.attrs["src"])]
    if token.type in ("html_block", "html_inline"):
        html = _Html()
        html.feed(token.content)
        return html.found
    return []


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src", "srcset") and value]
