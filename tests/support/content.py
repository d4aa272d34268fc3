"""What a fake registry holds, and the uploads under way."""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field

from support.images import Image, MultiArch, sha256


@dataclass
class Repository:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # digest -> media type, bytes
    tags: dict[str, str] = field(default_factory=dict)


class Content:
    def __init__(self) -> None:
        self.repositories: defaultdict[str, Repository] = defaultdict(Repository)
        self.uploads: dict[str, bytearray] = {}

    def add(self, image: Image | MultiArch, repository: str, tag: str | None = None) -> None:
        """The whole image; its tag is the one it was made with unless told."""
        for blob in image.blobs:
            self.put_blob(repository, blob.data)
        for each in image.images:
            self.put_manifest(repository, each.manifest.digest, each.manifest.data, each.manifest.media_type)
        self.put_manifest(repository, tag or image.tag, image.top.data, image.top.media_type)

    def put_blob(self, repository: str, data: bytes) -> str:
        digest = sha256(data)
        self.repositories[repository].blobs[digest] = data
        return digest

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """By tag, or by digest (then the bytes need not match it: a registry may be wrong)."""
        where = self.repositories[repository]
        digest = reference if reference.startswith("sha256:") else sha256(data)
        where.manifests[digest] = (media_type, data)
        if reference != digest:
            where.tags[reference] = digest
        return digest

    def manifest(self, repository: str, reference: str) -> tuple[str, str, bytes] | None:
        """digest, media type, bytes"""
        where = self.repositories.get(repository)
        if where is None:
            return None
        digest = where.tags.get(reference, reference)
        found = where.manifests.get(digest)
        return (digest, *found) if found else None

    def blob(self, repository: str, digest: str) -> bytes | None:
        where = self.repositories.get(repository)
        return where.blobs.get(digest) if where else None

    def start_upload(self) -> str:
        session = uuid.uuid4().hex
        self.uploads[session] = bytearray()
        return session

    def finish_upload(self, session: str, repository: str, digest: str) -> bool:
        """False if the bytes are not what the digest says; the upload is then gone, as in a real registry."""
        data = bytes(self.uploads.pop(session))
        if sha256(data) != digest:
            return False
        self.put_blob(repository, data)
        return True

    def mount(self, digest: str, source: str, target: str) -> bool:
        data = self.blob(source, digest)
        if data is None:
            return False
        self.put_blob(target, data)
        return True
