"""What an image consists of, and when it is complete; what odd and hostile manifests come to."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from addon.cache import trees
from addon.cache.descriptors import document, platform
from addon.cache.trees import Tree, Trees
from addon.oci import OCI_INDEX, OCI_MANIFEST, Digest

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Shelf:
    """Content, of which some may be away."""

    def __init__(self) -> None:
        self.content: dict[Digest, bytes] = {}

    def put(self, content: bytes) -> Digest:
        self.content[Digest.of(content)] = content
        return Digest.of(content)

    def manifest(self, *layers: bytes, **more: Any) -> Digest:
        described = [self.describe(self.put(layer), LAYER) for layer in layers]
        config = self.describe(self.put(b'{"os":"linux","architecture":"amd64"}'), "config")
        return self.put(json.dumps({"mediaType": OCI_MANIFEST, "config": config, "layers": described, **more}).encode())

    def index(self, *manifests: Digest, **platforms: dict[str, str]) -> Digest:
        described = [{**self.describe(digest, OCI_MANIFEST)} for digest in manifests]
        for entry, said in zip(described, platforms.values(), strict=False):
            entry["platform"] = said
        return self.put(json.dumps({"mediaType": OCI_INDEX, "manifests": described}).encode())

    def describe(self, digest: Digest, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": str(digest), "size": len(self.content[digest])}

    def tree(self, digest: Digest) -> Tree:
        found = self.trees().of(digest)
        assert found
        return found

    def trees(self) -> Trees:
        return Trees(lambda digest: len(self.content[digest]) if digest in self.content else None, self.content.get)


AMD, ARM = {"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64", "variant": "v8"}


def test_an_image() -> None:
    shelf = Shelf()
    tree = shelf.tree(shelf.manifest(b"one", b"two", b"one"))
    assert [part.kind for part in tree.parts] == ["manifest", "config", "layer", "layer"]
    assert tree.complete
    assert tree.held == sum(map(len, shelf.content.values()))
    assert [name for name, _ in trees.platforms(tree, lambda _: "linux/amd64")] == ["linux/amd64"]
    del shelf.content[Digest.of(b"two")]
    tree = shelf.tree(tree.digest)
    assert not tree.complete
    assert [part.digest for part in tree.missing] == [Digest.of(b"two")]


def test_what_has_not_the_size_that_it_should_is_not_there() -> None:
    shelf = Shelf()
    digest = shelf.manifest(b"layer")
    shelf.content[Digest.of(b"layer")] = b"lay"
    assert not shelf.tree(digest).complete


def test_an_index_of_which_one_platform_is_there() -> None:
    shelf = Shelf()
    one, other = shelf.manifest(b"one"), shelf.manifest(b"other")
    top = shelf.index(one, other, amd=AMD, arm=ARM)
    del shelf.content[other]
    tree = shelf.tree(top)
    assert tree.complete
    assert [(name, image.complete) for name, image in trees.platforms(tree, lambda _: "")] == [
        ("linux/amd64", True),
        ("linux/arm64/v8", False),
    ]
    del shelf.content[Digest.of(b"one")]
    assert not shelf.tree(top).complete


def test_attestations_are_no_platform() -> None:
    shelf = Shelf()
    image, attested = shelf.manifest(b"one"), shelf.manifest(b"attestation")
    top = shelf.index(image, attested, amd=AMD, no={"os": "unknown", "architecture": "unknown"})
    tree = shelf.tree(top)
    assert [name for name, _ in trees.platforms(tree, lambda _: "")] == ["linux/amd64"]
    del shelf.content[Digest.of(b"one")]
    assert not shelf.tree(top).complete


def test_what_clients_have_from_elsewhere_need_not_be_there() -> None:
    shelf = Shelf()
    foreign = {"mediaType": LAYER, "digest": str(Digest.of(b"foreign")), "size": 7, "urls": ["https://elsewhere.test/"]}
    empty = {"mediaType": "config", "digest": str(Digest.of(b"{}")), "size": 2, "data": "e30="}
    top = shelf.put(json.dumps({"mediaType": OCI_MANIFEST, "config": empty, "layers": [foreign]}).encode())
    assert shelf.tree(top).complete
    assert shelf.tree(top).missing == []


def test_what_several_refer_to_is_there_once() -> None:
    """Else a few indexes of each other's children would be more than any memory."""
    shelf = Shelf()
    image = shelf.manifest(b"layer")
    one, other = shelf.index(image), shelf.index(image, shelf.manifest(b"another"))
    tree = shelf.tree(shelf.index(one, other))
    assert tree.children[0].children[0] is tree.children[1].children[0]
    assert tree.complete


def test_indexes_in_indexes_are_followed_so_far_only() -> None:
    shelf = Shelf()
    digest = shelf.manifest(b"layer")
    for _ in range(7):
        digest = shelf.index(digest)
    assert shelf.tree(digest).complete
    for _ in range(60):
        digest = shelf.index(digest)
    assert not shelf.tree(digest).complete


def test_what_damaged_content_says_of_itself_ends() -> None:
    shelf = Shelf()
    lying = Digest.of(b"")
    entry = {"mediaType": OCI_INDEX, "digest": str(lying)}
    shelf.content[lying] = json.dumps({"mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    assert not shelf.tree(lying).complete


def test_docker_schema_1() -> None:
    shelf = Shelf()
    layer = str(shelf.put(b"layer"))
    top = shelf.put(json.dumps({"schemaVersion": 1, "fsLayers": [{"blobSum": layer}, {"blobSum": layer}]}).encode())
    assert [str(part.digest) for part in shelf.tree(top).parts] == [str(top), layer]
    assert shelf.tree(top).complete


def test_what_is_no_manifest_has_no_tree() -> None:
    shelf = Shelf()
    assert shelf.trees().of(shelf.put(b'{"os":"linux"}')) is None
    assert shelf.trees().of(Digest.of(b"not here")) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
described = st.dictionaries(
    st.sampled_from(["digest", "size", "mediaType", "platform", "urls", "data", "os", "architecture"]),
    json_values | st.just(str(Digest.of(b""))),
)
keys = st.sampled_from(["manifests", "layers", "fsLayers", "config", "mediaType"])


@settings(max_examples=50)
@given(st.dictionaries(keys, json_values | st.lists(described) | described))
def test_odd_manifests_have_odd_content_or_none(said: dict[str, Any]) -> None:
    found = document(json.dumps(said).encode())
    for each in found.descriptors if found else ():
        assert each.digest.verifiable
        assert each.size is None or isinstance(each.size, int)


@settings(max_examples=50)
@given(json_values | st.dictionaries(st.sampled_from(["os", "architecture", "variant"]), json_values))
def test_a_platforms_name_can_be_shown(said: object) -> None:
    assert platform(said).isprintable()
