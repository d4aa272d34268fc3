"""The images of Kubernetes manifests: whatever has containers, at any depth. Pure.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from addon.warming.sources import nodes
from addon.warming.sources.mentions import Mention, Mentions, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ruamel.yaml import Node

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def is_one(documents: Sequence[Node]) -> bool:
    """Whether it looks like one."""
    return any({"apiVersion", "kind"} <= nodes.fields(each).keys() for each in documents)


def parse(documents: Sequence[Node]) -> Mentions:
    """Raises Unusable."""
    found = Mentions()
    for document in documents:
        for node in nodes.within(document):
            said = nodes.fields(node)
            for image in _images(said):
                name = nodes.text(image)
                if name is None or "{{" in name or "$(" in name:
                    raise Unusable(nodes.line(image), "the image is a template: render it first (helm template)")
                found.images.append(Mention(name, nodes.line(image)))
    return found


def _images(said: dict[str, Node]) -> Iterator[Node]:
    """Of a pod's specification; of anything else none."""
    for kind in _CONTAINERS:
        for container in nodes.items(said.get(kind)):
            if image := nodes.fields(container).get("image"):
                yield image
    for volume in nodes.items(said.get("volumes")):
        source = nodes.fields(volume).get("image")
        if reference := nodes.fields(source).get("reference"):
            yield reference
