"""The images that a build by a Dockerfile pulls (https://docs.docker.com/reference/dockerfile/). Pure."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from addon.warming.platforms import BadPlatform, Platform
from addon.warming.sources.expansion import Unexpandable, Unset, expand
from addon.warming.sources.mentions import Mention, Mentions, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
# A word of its own: 1<<2 is none, nor is a <<< b.
_HEREDOC = re.compile(r"(?:^|(?<=\s))\d*<<(-?)([\"']?)([A-Za-z0-9_][^\s<\"']*)\2(?=\s|$)")
_WITH_HEREDOCS = ("RUN", "COPY", "ADD")


@dataclass(frozen=True)
class _Instruction:
    line: int  # where it begins, from 1
    name: str
    rest: str

    def flags(self) -> tuple[list[tuple[str, str]], str]:
        """Those at its beginning, and what is behind them."""
        found, at = [], 0
        while match := _FLAG.match(self.rest, at):
            found.append((match[1], _unquoted(match[2] or "")))
            at = match.end()
        return found, self.rest[at:]


def parse(
    text: str, arguments: Mapping[str, str], build: Platform, targets: Sequence[Platform] | None = None
) -> Mentions:
    """The images of all stages. Raises Unusable.

    `arguments`: those of --build-arg. `build` is the platform that BuildKit runs on, `targets` those that are built
    for; None: as is asked for otherwise.
    """
    found: dict[Mention, None] = {}
    for target in targets or (None,):
        found.update(dict.fromkeys(_Build(text, arguments, build, target).images()))
    return Mentions(list(found))


class _Build:
    """For one platform."""

    def __init__(self, text: str, arguments: Mapping[str, str], build: Platform, target: Platform | None) -> None:
        self._lines = text.removeprefix("\ufeff").splitlines()
        self._arguments = arguments
        self._target = target
        self._build = build
        self._escape = "\\"
        self._stages: set[str] = set()
        self._begun = False  # whether there was a FROM: from then on ARG is about a stage
        self._values: dict[str, str | None] = {**_platform_arguments("BUILD", build)}
        self._values |= _platform_arguments("TARGET", target or build)
        self._values |= {name: arguments[name] for name in self._values if name in arguments}
        self._culprits: dict[str, str] = {}  # variables without a value, and whose want of one that is due to

    def images(self) -> Iterator[Mention]:
        begin = 0
        frontend = self._arguments.get("BUILDKIT_SYNTAX")
        for number, line in enumerate(self._lines, 1):
            match = _DIRECTIVE.fullmatch(line.strip()) if number > 1 or not line.startswith("#!") else None
            if not match and not (number == 1 and line.startswith("#!")):
                break
            begin = number
            if match and match[1].lower() == "escape":
                if match[2] not in ("\\", "`"):
                    raise Unusable(number, f"escape={match[2]!a} is none: \\ and ` are")
                self._escape = match[2]
            if match and match[1].lower() == "syntax":
                frontend = frontend or match[2].split()[0]
                # It runs where BuildKit does.
                yield Mention(frontend, number, self._build)
        if frontend and begin == 0:
            yield Mention(frontend, 0, self._build)
        for instruction in self._instructions(begin):
            yield from self._about(instruction)
        if not self._begun:
            raise Unusable(0, "there is no FROM: it is no Dockerfile")

    def _instructions(self, begin: int) -> Iterator[_Instruction]:
        at = begin
        continued = re.compile(rf"{re.escape(self._escape)}[ \t]*$")
        while at < len(self._lines):
            first = at
            parts: list[str] = []
            while at < len(self._lines):
                line = self._lines[at]
                at += 1
                # Comments and empty lines are as if they were not there, also within an instruction.
                if not line.strip() or line.lstrip().startswith("#"):
                    if parts:
                        continue
                    break
                goes_on = continued.search(line)
                parts.append(continued.sub("", line))
                if not goes_on:
                    break
            match = _INSTRUCTION.fullmatch("".join(parts)) if parts else None
            if match is None:
                if parts:
                    raise Unusable(first + 1, f"{parts[0].strip()[:60]!a} is no instruction of a Dockerfile")
                continue
            instruction = _Instruction(first + 1, match[1].upper(), (match[2] or "").strip())
            at = self._behind_heredocs(instruction, at)
            yield instruction

    def _behind_heredocs(self, instruction: _Instruction, at: int) -> int:
        """The line behind the documents that the instruction begins."""
        name, rest = instruction.name, instruction.rest
        if name == "ONBUILD":
            name, _, rest = rest.partition(" ")
        if name.upper() not in _WITH_HEREDOCS:
            return at
        for dash, _, word in _HEREDOC.findall(rest):
            while at < len(self._lines) and (self._lines[at].lstrip("\t") if dash else self._lines[at]) != word:
                at += 1
            if at == len(self._lines):
                raise Unusable(instruction.line, f"the document that begins with <<{dash}{word} does not end")
            at += 1
        return at

    def _about(self, instruction: _Instruction) -> Iterator[Mention]:
        match instruction.name:
            case "FROM":
                yield from self._stage(instruction)
            case "ARG" if not self._begun:
                self._declare(instruction)
            case "COPY":
                flags, _ = instruction.flags()
                yield from (
                    self._source(instruction, value) for key, value in flags if key == "from" if self._is_image(value)
                )
            case "RUN":
                flags, _ = instruction.flags()
                for value in (_mounted(value) for key, value in flags if key == "mount"):
                    if self._is_image(value):
                        yield self._source(instruction, value)

    def _stage(self, instruction: _Instruction) -> Iterator[Mention]:
        self._begun = True
        flags, rest = instruction.flags()
        words = rest.split()
        if not (len(words) == 1 or (len(words) == 3 and words[1].lower() == "as")):
            raise Unusable(instruction.line, "FROM is followed by an image, or by IMAGE AS NAME")
        image = self._expanded(instruction, _unquoted(words[0]))
        platform = self._target
        for key, value in flags:
            if key == "platform":
                try:
                    platform = Platform.parse(self._expanded(instruction, value))
                except BadPlatform as error:
                    raise Unusable(instruction.line, f"FROM --platform: {error}") from None
        if image.lower() not in self._stages and image != "scratch":
            yield Mention(image, instruction.line, platform)
        if len(words) == 3:
            self._stages.add(words[2].lower())

    def _declare(self, instruction: _Instruction) -> None:
        for word in self._words(instruction):
            name, has_default, default = word.partition("=")
            if name in self._arguments:
                self._values[name] = self._arguments[name]
            elif has_default:
                try:
                    self._values[name] = expand(default, self._values.get, escape=self._escape)
                except Unset as unset:
                    self._values[name] = None
                    self._culprits[name] = self._culprits.get(unset.name, unset.name)
                except Unexpandable as error:
                    raise Unusable(instruction.line, f"ARG {name}: {error}") from None
            else:
                self._values.setdefault(name, None)

    def _words(self, instruction: _Instruction) -> list[str]:
        lexer = shlex.shlex(instruction.rest, posix=True)
        lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", self._escape
        try:
            return list(lexer)
        except ValueError as error:
            raise Unusable(instruction.line, f"{instruction.name}: {error}") from None

    def _expanded(self, instruction: _Instruction, text: str) -> str:
        try:
            return expand(text, self._values.get, escape=self._escape)
        except Unset as unset:
            name = self._culprits.get(unset.name, unset.name)
            if unset.demand:
                remedy = unset.demand
            elif name in self._values:
                remedy = f"say it with --build-arg {name}=..., or give ARG {name} a default"
            else:
                remedy = f"no ARG {name} stands before the first FROM"
            raise Unusable(instruction.line, f"{instruction.name} {text}: ${name} has no value: {remedy}") from None
        except Unexpandable as error:
            raise Unusable(instruction.line, f"{instruction.name} {text}: {error}") from None

    def _is_image(self, source: str) -> bool:
        """And no stage, by name or number."""
        return bool(source) and not source.isdecimal() and source.lower() not in self._stages and source != "scratch"

    def _source(self, instruction: _Instruction, source: str) -> Mention:
        if "$" in source:
            raise Unusable(
                instruction.line,
                f"{instruction.name}: from={source}: a builder puts no variables in there: give that image a stage of"
                " its own, with FROM",
            )
        return Mention(source, instruction.line, self._target)


def _platform_arguments(prefix: str, platform: Platform) -> dict[str, str]:
    """Those that BuildKit sets (Dockerfile reference, "Automatic platform ARGs in the global scope")."""
    return {
        f"{prefix}PLATFORM": str(platform),
        f"{prefix}OS": platform.os,
        f"{prefix}ARCH": platform.architecture,
        f"{prefix}VARIANT": platform.full_variant if platform.architecture == "arm" else platform.variant,
    }


def _mounted(mount: str) -> str:
    """The `from` of RUN --mount, "" where it has none."""
    fields = next(csv.reader([mount]), [])
    return next((value for key, _, value in (field.partition("=") for field in fields) if key.lower() == "from"), "")


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
