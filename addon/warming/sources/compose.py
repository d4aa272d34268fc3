"""The images of a compose file's services (https://github.com/compose-spec/compose-spec). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.warming.platforms import BadPlatform, Platform
from addon.warming.sources import nodes
from addon.warming.sources.expansion import Unexpandable, Unset, expand
from addon.warming.sources.mentions import Mention, Mentions, Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ruamel.yaml import Node


def is_one(documents: Sequence[Node]) -> bool:
    """Whether it looks like one."""
    return any("services" in nodes.fields(each) and "kind" not in nodes.fields(each) for each in documents)


def parse(documents: Sequence[Node], environment: Mapping[str, str]) -> Mentions:
    """`environment` is what ${NAME} refers to. Raises Unusable."""
    found = Mentions()
    for document in documents:
        top = nodes.fields(document)
        if "include" in top:
            found.notes.append("what it includes is not looked into: name those files, too")
        for name, service in nodes.fields(top.get("services")).items():
            _service(name, service, environment, found)
    return found


def _service(name: str, service: Node, environment: Mapping[str, str], found: Mentions) -> None:
    said = nodes.fields(service)
    image = said.get("image")
    if "build" in said:
        found.notes.append(f"service {name} is built: name its Dockerfile to warm what that needs")
    elif image is None:
        why = "extends another" if "extends" in said else "has no image"
        found.notes.append(f"service {name} {why}: there is nothing to warm")
    else:
        platform = said.get("platform")
        found.images.append(
            Mention(
                _expanded(image, environment),
                nodes.line(image),
                _platform(platform, environment) if platform else None,
            )
        )
    for volume in nodes.items(said.get("volumes")):
        mount = nodes.fields(volume)
        if nodes.text(mount.get("type")) == "image" and (source := mount.get("source")):
            found.images.append(Mention(_expanded(source, environment), nodes.line(source)))


def _platform(node: Node, environment: Mapping[str, str]) -> Platform:
    try:
        return Platform.parse(_expanded(node, environment))
    except BadPlatform as error:
        raise Unusable(nodes.line(node), str(error)) from None


def _expanded(node: Node, environment: Mapping[str, str]) -> str:
    text = nodes.text(node)
    if text is None:
        raise Unusable(nodes.line(node), "a text is expected here")
    try:
        return expand(text, environment.get, doubled=True)
    except Unset as unset:
        remedy = unset.demand or f"set it in the environment of this command, or write ${{{unset.name}:-VALUE}}"
        raise Unusable(nodes.line(node), f"{text}: ${unset.name} has no value: {remedy}") from None
    except Unexpandable as error:
        raise Unusable(nodes.line(node), f"{text}: {error}") from None
