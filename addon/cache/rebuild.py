"""Bringing what is known about content in line with the files: at every start; all of it, should the database be lost.

The files say what is here; index.json which tags point at it, and so which repositories
hold it, and which of these everybody may read.
"""

from __future__ import annotations

import json
import logging
import os
import time
from itertools import takewhile
from typing import TYPE_CHECKING

from addon.cache import manifest
from addon.cache.reference import BadReference, Reference
from addon.cache.store import PUBLIC
from addon.oci import Digest, OciError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from addon.cache.contents import Contents
    from addon.cache.links import Links
    from addon.cache.rights import Rights
    from addon.cache.store import Store
    from addon.cache.tags import Tags

log = logging.getLogger("mirrortap")

# Bytes that index.json may have: a hundred thousand tags.
_MAX_INDEX = 32 << 20


def reconcile(store: Store, contents: Contents, tags: Tags, links: Links, rights: Rights, budget: float = 10.0) -> None:
    """To be called once, before anything is served. Blocks; for at most about `budget` seconds at manifests."""
    try:
        new = contents.reconcile(contents.known(), store.contents())
    except OSError as error:
        log.warning("%s: what is cached cannot be listed: %s", store.folder, error.strerror)
        return
    if any(tags.all()):
        links.prune()
        return
    listed = list(_listed(store))
    tags.restore(
        (reference.registry, reference.repository, str(reference.target), digest, modified)
        for reference, digest, modified, _ in listed
    )
    rights.restore((reference.registry, reference.repository) for reference, _, _, public in listed if public)
    deadline = time.monotonic() + budget

    def in_time(_: Digest) -> bool:
        return time.monotonic() < deadline

    links.restore(
        (reference.registry, reference.repository, reached)
        for reference, digest, _, _ in listed
        for reached in takewhile(in_time, manifest.reach(store, digest))
        if store.size(reached) is not None
    )
    if listed or new:
        log.warning(
            "%s: the database did not know what is cached: found %d files, and %d tags in index.json",
            store.folder,
            new,
            len(listed),
        )
    if time.monotonic() >= deadline:
        log.warning("%s: following these took too long: what some hold is checked upstream again", store.folder)


def _listed(store: Store) -> Iterator[tuple[Reference, Digest, float, bool]]:
    """The tags of index.json whose manifests are here, when these were stored, and whether everybody may read them."""
    try:
        with open(store.folder / "index.json", "rb") as file:
            document = json.loads(file.read(_MAX_INDEX))
    except (OSError, ValueError, RecursionError):
        return
    entries = document.get("manifests") if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        try:
            annotations = entry["annotations"]
            reference = Reference.parse(annotations["org.opencontainers.image.ref.name"])
            public = annotations.get(PUBLIC) == "true"
            digest = Digest.parse(entry["digest"])
            modified = os.stat(store.path(digest)).st_mtime
        except (LookupError, TypeError, AttributeError, BadReference, OciError, OSError):
            continue
        if digest.verifiable and isinstance(reference.target, str):
            yield reference, digest, modified, public
