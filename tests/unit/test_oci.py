"""What requests mean, which of them are refused, and what errors look like on the wire."""

from __future__ import annotations

import hashlib
import itertools
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from addon import oci
from addon.oci import Blob, Digest, Manifest, OciError, Other, Ping, understand

HEX = hashlib.sha256(b"content").hexdigest()
SHA256 = f"sha256:{HEX}"
SHA512 = f"sha512:{hashlib.sha512(b'content').hexdigest()}"

# The distribution-spec's grammars: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* between slashes, and
# [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}; built, as st.from_regex takes seconds.
alphanumeric = st.text("abz019", min_size=1, max_size=4)
separated = st.tuples(st.sampled_from([".", "_", "__", "-", "-----", "/"]), alphanumeric).map("".join)
names = st.builds("{}{}".format, alphanumeric, st.lists(separated, max_size=6).map("".join))
tags = st.builds("{}{}".format, st.sampled_from("aZ0_"), st.text("aZ0._-", max_size=127))
digests = st.binary(max_size=8).flatmap(
    lambda data: st.sampled_from(
        [f"sha256:{hashlib.sha256(data).hexdigest()}", f"sha512:{hashlib.sha512(data).hexdigest()}"]
    )
)


# --- what is asked for ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v2/", Ping()),
        ("/v2", Ping()),
        ("/v2/?a=b", Ping()),
        ("/v2/alpine/manifests/3.20", Manifest("alpine", "3.20")),
        ("/v2/library/alpine/manifests/latest?ns=docker.io", Manifest("library/alpine", "latest")),
        ("/v2/a/b/c/d/manifests/_", Manifest("a/b/c/d", "_")),
        ("/v2/a.b_c__d---e/manifests/V1.0-rc_1", Manifest("a.b_c__d---e", "V1.0-rc_1")),
        ("/v2/a/manifests/" + "t" * 128, Manifest("a", "t" * 128)),
        ("/v2/" + "n" * 255 + "/manifests/t", Manifest("n" * 255, "t")),
        (f"/v2/a/manifests/{SHA256}", Manifest("a", Digest("sha256", HEX))),
        (f"/v2/a/blobs/{SHA256}", Blob("a", Digest("sha256", HEX))),
        (f"/v2/a/blobs/{SHA512}", Blob("a", Digest.parse(SHA512))),
        # Escaping changes no meaning (RFC 3986, 2.3), and some clients escape the colon.
        (f"/v2/a/blobs/sha256%3A{HEX}", Blob("a", Digest("sha256", HEX))),
        (f"/v2/a/manifests/sha256%3a{HEX}", Manifest("a", Digest("sha256", HEX))),
        ("/v2/%61lpine/manifests/l%61test", Manifest("alpine", "latest")),
        # A digest nobody here can check is still a digest: the origin may know it.
        ("/v2/a/blobs/blake3:abc", Blob("a", Digest("blake3", "abc"))),
        ("/v2/a/blobs/sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564", None),
        # The words of the API are legal in names.
        ("/v2/manifests/manifests/manifests", Manifest("manifests", "manifests")),
        ("/v2/blobs/blobs/manifests/blobs", Manifest("blobs/blobs", "blobs")),
        (f"/v2/uploads/blobs/{SHA256}", Blob("uploads", Digest("sha256", HEX))),
    ],
)
def test_pulls(method: str, path: str, target: oci.Target | None) -> None:
    understood = understand(method, path)
    if target is None:
        assert isinstance(understood, Blob)
        assert not understood.reference.verifiable
    else:
        assert understood == target


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1/search",
        "/v2/_catalog",
        "/v2/token",
        "/v2/library/alpine/tags/list",
        "/v2/library/alpine/blobs/uploads/",
        "/v2/library/alpine/blobs/uploads",
        "/v2/library/alpine/blobs/uploads/5e6f-41?_state=x",
        "/token?scope=repository:library/alpine:pull",
        # Neither a manifest nor a blob, so for the origin to refuse.
        "/v2/a/manifests/b/",
        "/v2/a/manifests/..%2f..%2fetc",
        # Repositories named like a part of the API.
        "/v2/team/blobs/tool/tags/list?n=2",
    ],
)
def test_the_origins_own_business(path: str) -> None:
    assert understand("GET", path) == Other()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "get", "", "G\u0130T"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/a/manifests/b", f"/v2/a/blobs/{SHA256}", "/v2/A/manifests/.."])
def test_other_methods_are_the_origins_own_business(method: str, path: str) -> None:
    assert understand(method, path) == Other()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/v2/A/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/../blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a/../b/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a/%2e%2e/b/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a/%2E./b/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a//b/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2//blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a/b//blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/-a/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a-/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a___b/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a..b/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a%00/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a%0Ab/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a%0A/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/%25/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/%ff/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/caf\u00e9/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/a\u0661/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/{'n' * 300}/blobs/{SHA256}", "NAME_INVALID"),
        (f"/v2/{'n' * 5000}/blobs/{SHA256}", "NAME_INVALID"),
        ("/v2/a/manifests/", "TAG_INVALID"),
        ("/v2/a/blobs/", "DIGEST_INVALID"),
        ("/v2/a/manifests/..", "TAG_INVALID"),
        ("/v2/a/manifests/%2e%2e", "TAG_INVALID"),
        ("/v2/a/manifests/-a", "TAG_INVALID"),
        ("/v2/a/manifests/a%00", "TAG_INVALID"),
        ("/v2/a/manifests/a%0a", "TAG_INVALID"),
        ("/v2/a/manifests/\u0663.0", "TAG_INVALID"),
        ("/v2/a/manifests/a@b", "TAG_INVALID"),
        ("/v2/a/manifests/a%3Fb", "TAG_INVALID"),
        ("/v2/a/manifests/" + "t" * 129, "TAG_INVALID"),
        ("/v2/a/blobs/latest", "DIGEST_INVALID"),
        ("/v2/a/manifests/sha256:", "DIGEST_INVALID"),
        ("/v2/a/blobs/:", "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:..", "DIGEST_INVALID"),
        ("/v2/a/blobs/blake3:..", "DIGEST_INVALID"),
        ("/v2/a/blobs/blake3:a.b", "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:%2e%2e", "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:../../../etc/passwd", "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:..%2f..%2fetc", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256:{HEX[:-1]}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256:{HEX}0", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256:{HEX.upper()}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/SHA256:{HEX}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256:{'g' * 64}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256:{chr(0x661) * 64}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256::{HEX}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha512:{HEX}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/sha256%253A{HEX}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/..:{HEX}", "DIGEST_INVALID"),
        (f"/v2/a/blobs/{SHA256}%0a", "DIGEST_INVALID"),
    ],
)
def test_what_the_spec_does_not_allow(path: str, code: str) -> None:
    for method in ("GET", "HEAD"):
        with pytest.raises(OciError) as caught:
            understand(method, path)
        assert (caught.value.status, caught.value.code) == (400, code)
        # It ends up in logs and terminals.
        assert caught.value.message.isprintable()
        assert caught.value.message.isascii()
        assert len(caught.value.message) < 700


@given(name=names, tag=tags, digest=digests, query=st.sampled_from(["", "?", "?ns=docker.io", "?a=/v2/b/blobs/c"]))
def test_all_that_the_spec_allows(name: str, tag: str, digest: str, query: str) -> None:
    assert understand("GET", f"/v2/{name}/manifests/{tag}{query}") == Manifest(name, tag)
    assert understand("HEAD", f"/v2/{name}/manifests/{digest}{query}") == Manifest(name, Digest.parse(digest))
    assert understand("GET", f"/v2/{name}/blobs/{digest}{query}") == Blob(name, Digest.parse(digest))
    assert str(Digest.parse(digest)) == digest


fragments = st.one_of(
    st.sampled_from(
        [
            "/v2/",
            "/",
            "//",
            "manifests",
            "/manifests/",
            "blobs",
            "/blobs/",
            "uploads",
            "/uploads/",
            "tags/list",
            "library",
        ]
    ),
    st.sampled_from(
        [SHA256, SHA512, "sha256:", "sha256%3A", HEX, "%2e%2e", "%2F", "..", "%00", "%", "%zz", "?", "#", ":"]
    ),
    st.text(max_size=5),
)
paths = st.lists(fragments, max_size=8).map("".join)
methods = st.sampled_from(["GET", "HEAD", "PUT"]) | st.text(max_size=8)


def outcome(method: str, path: str) -> oci.Target | OciError:
    try:
        return understand(method, path)
    except OciError as problem:
        return problem


@given(method=methods, path=st.one_of(paths, paths.map("/v2/".__add__), st.text()))
@example(method="GET", path="/v2/a/blobs/\udcff")
@example(method="GET", path="/v2/%ED%B3%BF/manifests/a")
def test_any_request_is_understood_or_refused(method: str, path: str) -> None:
    target = outcome(method, path)
    match target:
        case OciError():
            assert (target.status, method in ("GET", "HEAD")) == (400, True)
            assert json.loads(target.body())["errors"]
            return
        case Manifest(repository, reference):
            kind = "manifests"
        case Blob(repository, reference):
            kind = "blobs"
        case _:
            return
    assert understand("GET", f"/v2/{repository}/{kind}/{reference}") == target
    # Both become parts of URLs, the digest a path on disk too.
    for text in (repository, str(reference)):
        assert text.isascii()
        assert text.isprintable()
        assert not {"..", ".", ""} & set(text.replace(":", "/").split("/"))
        assert not set("\\%?# ") & set(text)
    assert "/" not in str(reference)


@given(
    st.text() | st.builds("{}:{}".format, st.sampled_from(["sha256", "sha512", "sha1", "a+b"]), st.text(max_size=70))
)
def test_a_digest_is_parsed_or_refused(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except OciError as problem:
        told = problem.status, problem.code
    else:
        assert str(digest) == text
        assert text.startswith(digest.short)
        return
    assert told == (400, "DIGEST_INVALID")


def test_the_digest_of_content() -> None:
    assert str(Digest.of(b"content")) == SHA256
    assert Digest.of(b"").verifiable
    assert Digest.parse(SHA512).verifiable
    assert not Digest.parse("md5:abc").verifiable


# --- errors ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(code=st.text(), message=st.text(), detail=json_values)
def test_an_error_is_what_the_distribution_spec_says(code: str, message: str, detail: object) -> None:
    document = json.loads(OciError(400, code, message, detail=detail).body())
    expected = {"code": code, "message": message} | ({} if detail is None else {"detail": detail})
    assert document == {"errors": [expected]}


# --- Accept ---


@given(st.data())
def test_the_order_of_accept_says_nothing(data: st.DataObject) -> None:
    """dockerd sends its types in random order, in one header or several."""
    types = data.draw(st.lists(st.sampled_from([*oci.MANIFEST_TYPES, "text/html", "application/json"])))
    decorated = [data.draw(st.sampled_from([t, f" {t} ", f"{t};q=0.5", t.upper(), f"{t} ; q=1"])) for t in types]
    shuffled = data.draw(st.permutations(decorated))
    cut = data.draw(st.integers(0, len(types)))
    assert oci.accepted([",".join(types)]) == oci.accepted([",".join(shuffled[:cut]), ",".join(shuffled[cut:])])
    assert oci.accepted(types) <= frozenset(oci.MANIFEST_TYPES)


@pytest.mark.parametrize("accept", [[], [""], [", ,"], ["*/*"], ["application/*;q=0.1"], [oci.OCI_INDEX, "*/*"]])
def test_accepting_everything(accept: list[str]) -> None:
    assert oci.accepted(accept) == frozenset(oci.MANIFEST_TYPES)


def test_accepting_some() -> None:
    for some in itertools.combinations(oci.MANIFEST_TYPES, 2):
        assert oci.accepted([", ".join(some)]) == frozenset(some)
    assert oci.accepted(["text/html"]) == frozenset()


# --- the type of a manifest ---


@pytest.mark.parametrize("stated", [*oci.MANIFEST_TYPES, "application/vnd.cncf.openpolicyagent.config.v1+json"])
def test_a_manifest_states_its_type(stated: str) -> None:
    assert oci.media_type(json.dumps({"schemaVersion": 2, "mediaType": stated, "manifests": []}).encode()) == stated


@pytest.mark.parametrize(
    ("document", "type_"),
    [
        ({"schemaVersion": 2, "manifests": []}, oci.OCI_INDEX),
        ({"schemaVersion": 2, "config": {}, "layers": []}, oci.OCI_MANIFEST),
        ({"schemaVersion": 1, "name": "a", "fsLayers": [], "signatures": []}, oci.DOCKER_SCHEMA1),
        ({"schemaVersion": 2}, None),
        ({"config": {}}, None),
        ({"layers": []}, None),
        ({}, None),
        ({"mediaType": 7, "manifests": []}, oci.OCI_INDEX),
        # It becomes a header: nothing but a media type may.
        ({"mediaType": "a/b\r\nX-Evil: 1", "manifests": []}, oci.OCI_INDEX),
        ({"mediaType": "a/b\n", "layers": [], "config": 1}, oci.OCI_MANIFEST),
        ({"mediaType": "", "manifests": []}, oci.OCI_INDEX),
        ({"mediaType": "a/" + "b" * 300}, None),
        ([], None),
        ("manifests", None),
        (None, None),
        (2, None),
    ],
)
def test_the_type_of_a_manifest_that_does_not_state_it(document: object, type_: str | None) -> None:
    assert oci.media_type(json.dumps(document).encode()) == type_


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1f\x8b\x08\x00",
        b"{",
        b"\xff\xfe",
        b"<html>",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"1" * 5000,
        random.Random(1).randbytes(1000),
    ],
    ids=lambda content: repr(content[:8]),
)
def test_garbage_is_no_manifest(content: bytes) -> None:
    assert oci.media_type(content) is None


@settings(deadline=None)
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_have_a_type_or_none(content: bytes) -> None:
    type_ = oci.media_type(content)
    assert type_ is None or (type_.isascii() and type_.isprintable())


@pytest.mark.parametrize(
    ("path", "repository", "query"),
    [
        (f"/v2/library/alpine/referrers/{SHA256}", "library/alpine", ""),
        (f"/v2/team/manifests/tool/referrers/{SHA256}?artifactType=a%2Fb", "team/manifests/tool", "artifactType=a%2Fb"),
    ],
)
def test_referrers(path: str, repository: str, query: str) -> None:
    assert oci.understand("GET", path) == oci.Referrers(repository, Digest.parse(SHA256), query)
    assert oci.understand("POST", path) == Other()


@pytest.mark.parametrize(
    ("path", "repository"),
    [
        ("/v2/", ""),
        ("/v2/_catalog", ""),
        ("/v2/library/alpine/tags/list?n=5", "library/alpine"),
        ("/v2/library/alpine/manifests/3.20", "library/alpine"),
        ("/v2/library/alpine/blobs/uploads/", "library/alpine"),
        ("/v2/library/alpine/blobs/uploads/1b2c?_state=x/blobs/y", "library/alpine"),
        (f"/v2/team/manifests/tool/referrers/{SHA256}", "team/manifests/tool"),
        ("/token?scope=/v2/a/tags/list", ""),
        ("/v2/library/../secret/app/tags/list", "secret/app"),
        ("/v2/library/%2e%2E/secret/app/tags/list", "secret/app"),
        ("/v2//secret/./app/tags/list", "secret/app"),
        ("//v2/secret/app/tags/list", "secret/app"),
        ("/token/../v2/secret/app/tags/list", "secret/app"),
        ("/v2/sec%72et/app/tags/list", "secret/app"),
    ],
)
def test_the_repository_that_a_path_is_about(path: str, repository: str) -> None:
    assert oci.repository(path) == repository
