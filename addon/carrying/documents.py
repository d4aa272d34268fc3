"""The documents of an archive: which images it has, and a manifest for those that have none. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from addon import oci
from addon.carrying import names
from addon.carrying.names import BadArchive, Listed
from addon.oci import Digest, OciError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DOCUMENT = 16 << 20
"""Bytes; tens of thousands of images' names."""

# Docker's "Image Manifest Version 2, Schema 2".
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"  # not compressed: what is in the archive is served as it is


class _Descriptor(BaseModel):
    digest: str
    annotations: dict[str, str] | None = None


class _Index(BaseModel):
    manifests: list[_Descriptor]


class _Saved(BaseModel):
    """An image in `docker save`'s manifest.json."""

    config: str = Field(alias="Config")
    tags: list[str] | None = Field(alias="RepoTags", default=None)
    layers: list[str] | None = Field(alias="Layers", default=None)


class _RootFs(BaseModel):
    diff_ids: list[str] | None = None


class _Config(BaseModel):
    rootfs: _RootFs


_SAVED = TypeAdapter(list[_Saved])


def index(content: bytes) -> list[Listed]:
    """The images of index.json (image-spec, "Image Layout"). Raises BadArchive."""
    found = []
    for entry in _read(TypeAdapter(_Index), names.INDEX, content).manifests:
        try:
            digest = Digest.parse(entry.digest)
        except OciError as error:
            raise BadArchive(f"{names.INDEX}: {error.message}") from None
        found.append(Listed(digest, *names.annotated(entry.annotations or {})))
    return found


def layout(content: bytes) -> None:
    """Raises BadArchive where oci-layout says a version that is not known here."""
    try:
        version = json.loads(content)["imageLayoutVersion"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise BadArchive(f"{names.LAYOUT} is damaged") from None
    if not str(version).startswith("1."):
        raise BadArchive(f"{names.LAYOUT}: version {names.shown(str(version))} is not known to this mirrortap")


def saved(
    content: bytes, found: Callable[[str], tuple[Digest, int] | None], read: Callable[[Digest], bytes | None]
) -> list[tuple[Listed, bytes]]:
    """The images of `docker save`'s manifest.json, with a manifest made for each. Raises BadArchive.

    `found` says the digest and the size of a member, `read` has the content of a small one.
    """
    images = []
    for entry in _read(_SAVED, names.DOCKER, content):
        manifest = _manifest(entry, found, read)
        digest = Digest.of(manifest)
        tags = [(tag, names.familiar(tag)) for tag in entry.tags or [""]]
        images += [(Listed(digest, str(reference or tag), reference), manifest) for tag, reference in tags]
    return images


def _manifest(
    entry: _Saved, found: Callable[[str], tuple[Digest, int] | None], read: Callable[[Digest], bytes | None]
) -> bytes:
    config, config_size = _member(entry.config, found)
    wanted = _read(TypeAdapter(_Config), entry.config, read(config) or b"").rootfs.diff_ids or []
    layers = [_member(layer, found) for layer in entry.layers or []]
    if len(wanted) != len(layers):
        raise BadArchive(f"{names.shown(entry.config)}: speaks of {len(wanted)} layers, the archive has {len(layers)}")
    for name, (digest, _), expected in zip(entry.layers or [], layers, wanted, strict=True):
        if str(digest) != expected:
            raise BadArchive(
                f"{names.shown(name)}: has digest {digest}, not {names.shown(expected)}: it is damaged, or compressed;"
                " if it is, skopeo copy docker-archive:FILE oci-archive:OTHER makes what can be imported"
            )
    described = [{"mediaType": _LAYER, "size": size, "digest": str(digest)} for digest, size in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.DOCKER_MANIFEST,
        "config": {"mediaType": _CONFIG, "size": config_size, "digest": str(config)},
        "layers": described,
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def _member(name: str, found: Callable[[str], tuple[Digest, int] | None]) -> tuple[Digest, int]:
    member = found(names.clean(name))
    if member is None:
        raise BadArchive(f"{names.DOCKER}: names {names.shown(name)}, which is not in the archive")
    return member


def _read[T](model: TypeAdapter[T], name: str, content: bytes) -> T:
    try:
        return model.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArchive(f"{names.shown(name)}: {where or 'it'}: {first['msg']}") from None
