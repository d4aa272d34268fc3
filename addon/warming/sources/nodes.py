"""YAML as a graph of nodes that know their lines. Pure.

An alias is the very node that it stands for, so that the graph is no larger than its text, whatever it would come to
as plain values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from addon.warming.sources.mentions import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

# Merges ("<<") within each other, and in one list: a few are what people write.
_DEPTH, _MERGED = 4, 16


def documents(text: str) -> list[Node]:
    """Those of the text that are not empty. Raises Unusable."""
    try:
        return [node for node in YAML(typ="safe", pure=True).compose_all(text) if node is not None]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unusable(mark.line + 1 if mark else 0, f"it is no YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise Unusable(0, f"it is no YAML: {ascii(str(error).splitlines()[0])[1:-1]}") from None
    except RecursionError:
        raise Unusable(0, "its lists and maps are nested too deeply") from None


def line(node: Node) -> int:
    """From 1."""
    return int(node.start_mark.line) + 1


def fields(node: Node | None) -> dict[str, Node]:
    """What a map says by text, with what is merged into it; nothing where it is no map. Raises Unusable."""
    return _fields(node, {}, 0)


def _fields(node: Node | None, known: dict[int, dict[str, Node]], depth: int) -> dict[str, Node]:
    """`known`: what was found out before of what several merge, by identity."""
    if not isinstance(node, MappingNode):
        return {}
    if id(node) in known:
        return known[id(node)]
    own: dict[str, Node] = {}
    merged: dict[str, Node] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            continue
        if key.value == "<<" and key.style is None:
            sources = items(value) or [value]
            if depth == _DEPTH or len(sources) > _MERGED:
                raise Unusable(line(node), "too much is merged here (<<)")
            for each in sources:
                merged = {**_fields(each, known, depth + 1), **merged}
        else:
            own[key.value] = value
    known[id(node)] = {**merged, **own}
    return known[id(node)]


def items(node: Node | None) -> list[Node]:
    """Those of a list; nothing where it is none."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def text(node: Node | None) -> str | None:
    """That of a scalar which is not empty."""
    return node.value if isinstance(node, ScalarNode) and node.value else None


def within(node: Node) -> Iterator[Node]:
    """The node and all that it holds, each once."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, MappingNode):
            waiting += [value for _, value in reversed(each.value)]
        else:
            waiting += reversed(items(each))
