"""References to images: REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@DIGEST, and what people write for them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from addon import oci
from addon.config import wellknown
from addon.oci import Digest, Manifest, OciError

_REGISTRY = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


class BadReference(Exception):
    """It is none; the message says why."""


@dataclass(frozen=True)
class Reference:
    """A tag (str) or digest of a repository."""

    registry: str
    repository: str
    target: Digest | str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises BadReference unless it is complete: no registry, library/ or :latest is thought in."""
        name, at, target = text.partition("@")
        if not at:
            if ":" not in text.rpartition("/")[2]:
                raise BadReference(f"{text!a} has neither a tag nor a digest")
            name, _, target = text.rpartition(":")
        registry, _, repository = name.partition("/")
        # What has neither is a folder of Docker Hub's to all clients, as in library/alpine.
        if not _REGISTRY.fullmatch(registry) or not ("." in registry or ":" in registry or registry == "localhost"):
            raise BadReference(f"{text!a} does not begin with a registry, as docker.io/library/alpine:3.20 does")
        try:
            reference = cls(registry, repository, Digest.parse(target) if at else target)
            # It is what the path of a request for it would mean.
            if oci.understand("GET", f"/v2/{repository}/manifests/{target}") == Manifest(repository, reference.target):
                return reference
        except OciError as error:
            raise BadReference(f"{text!a}: {error.message}") from None
        raise BadReference(f"{text!a} is neither REGISTRY/REPOSITORY:TAG nor REGISTRY/REPOSITORY@DIGEST")

    @property
    def canonical(self) -> Reference:
        """The same under the name that clients' requests have: Docker Hub has several."""
        registry = wellknown.canonical(self.registry)
        of_library = registry == wellknown.DOCKER_HUB and "/" not in self.repository
        return replace(
            self, registry=registry, repository=f"library/{self.repository}" if of_library else self.repository
        )

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{'@' if isinstance(self.target, Digest) else ':'}{self.target}"


def normalised(text: str) -> Reference:
    """The image that is meant by `text` as Docker's clients read it, under the name that their requests have.

    Raises BadReference. Without a registry it is Docker Hub's, without a folder there it is in library/, without tag
    and digest it is latest; where there are both, the digest counts.
    """
    if "://" in text:
        raise BadReference(f"{text[:100]!a} is a URL: write what is behind its //")
    name, at, digest = text.partition("@")
    folder, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if at and colon:
        # It counts for nothing, but must be one.
        Reference.parse(f"localhost/{last}:{tag}")
    registry, _, repository = f"{folder}{slash}{last}".partition("/")
    if not repository or not ("." in registry or ":" in registry or registry.lower() == "localhost"):
        registry, repository = "docker.io", f"{folder}{slash}{last}"
    target = f"@{digest}" if at else f":{tag if colon else 'latest'}"
    return Reference.parse(f"{registry.lower()}/{repository}{target}").canonical
