"""What is in an archive, by its name; and the names that archives give to images. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from addon.cache.reference import BadReference, Reference, normalised
from addon.oci import Digest, OciError

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_NAME = "org.opencontainers.image.ref.name"
"""Image-spec, "Pre-Defined Annotation Keys": a full reference, or a tag alone."""
CONTAINERD_NAME = "io.containerd.image.name"
"""containerd's, which BuildKit and Docker write as well: a full reference."""

LAYOUT, INDEX, DOCKER = "oci-layout", "index.json", "manifest.json"

# Bytes of a member's name; a digest has 71.
_LONGEST = 512
_BLOB = re.compile(r"blobs/([a-z0-9+._-]+)/([0-9a-f]+)")
# `docker save` up to version 24: ID.json, ID/layer.tar; podman and skopeo: HEX.json, HEX.tar.
_LOOSE = re.compile(r"[^/]+\.json|[^/]+(?:/layer)?\.tar")
_LAYER_LINK = re.compile(r"[^/]+/layer\.tar")

Kind = Literal["layout", "index", "docker", "loose", "other"]


class BadArchive(Exception):
    """It is damaged, hostile, or of another kind; the message says what is wrong with it."""


def clean(name: str) -> str:
    """A member's name, without what stands for the folder itself ("" for that). Raises BadArchive."""
    if len(name) > _LONGEST or not name.isprintable():
        raise BadArchive(f"{shown(name)}: no archive of images has such a name in it")
    parts = [part for part in name.split("/") if part != "."]
    if name.startswith("/") or ".." in parts:
        raise BadArchive(f"{shown(name)}: leads out of the archive")
    return "/".join(part for part in parts if part)


def kind(name: str) -> Kind | Digest:
    """What a clean name says that it is: a blob, by its digest, or else."""
    if match := _BLOB.fullmatch(name):
        try:
            digest = Digest.parse(f"{match[1]}:{match[2]}")
        except OciError:
            return "other"
        return digest if digest.verifiable else "other"
    documents: dict[str, Kind] = {LAYOUT: "layout", INDEX: "index", DOCKER: "docker"}
    return documents.get(name) or ("loose" if _LOOSE.fullmatch(name) else "other")


def linked(name: str, target: str) -> str:
    """The member that a link leads to: Docker, podman and skopeo have layers under two names. Raises BadArchive."""
    folder, _, rest = target.partition("/")
    if _LAYER_LINK.fullmatch(name) and folder == ".." and kind(rest) == "loose":
        return clean(rest)
    raise BadArchive(f"{shown(name)}: is a link to {shown(target)}, which no archive of images needs")


def shown(text: str) -> str:
    """For a message: short, and without control characters."""
    return ascii(text if len(text) <= 100 else f"{text[:97]}...")


@dataclass(frozen=True)
class Listed:
    """An image of an archive, and what it is called there; `reference` is None where that is no full name."""

    digest: Digest
    called: str
    reference: Reference | None


def annotated(annotations: Mapping[str, str]) -> tuple[str, Reference | None]:
    """The name that an image has by its annotations, as it is written, and in full if it is."""
    for key in CONTAINERD_NAME, OCI_NAME:
        if reference := full(annotations.get(key, "")):
            return str(reference), reference
    return annotations.get(OCI_NAME, "") or annotations.get(CONTAINERD_NAME, ""), None


def full(text: str) -> Reference | None:
    """A complete reference, under the name that clients' requests have; None for what is none."""
    try:
        return Reference.parse(text).canonical
    except BadReference:
        return None


def familiar(text: str) -> Reference | None:
    """As Docker writes names (RepoTags): without a registry they are Docker Hub's."""
    try:
        return normalised(text)
    except BadReference:
        return None
