"""What requests to a mirror of many registries mean."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon import oci
from addon.mirroring import Meant, meant
from addon.oci import OciError

TAG = "manifests/1.0"

components = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True)
repositories = st.lists(components, min_size=1, max_size=4).map("/".join)
hosts = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}", fullmatch=True).filter(
    lambda host: host not in ("docker.io", "index.docker.io", "registry-1.docker.io")
)
registries = st.builds("{}{}".format, hosts, st.one_of(st.just(""), st.integers(1, 65535).map(":{}".format)))
kinds = st.sampled_from([TAG, f"manifests/sha256:{'a' * 64}", f"blobs/sha256:{'b' * 64}", "tags/list"])


@pytest.mark.parametrize(
    ("target", "registry", "asked"),
    [
        # dockerd, which knows mirrors of Docker Hub alone.
        (f"/v2/library/app/{TAG}", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/app/{TAG}", "docker.io", f"/v2/library/app/{TAG}"),
        ("/v2/app/tags/list?n=5", "docker.io", "/v2/library/app/tags/list?n=5"),
        (f"/v2/team/app/{TAG}", "docker.io", f"/v2/team/app/{TAG}"),
        # containerd.
        (f"/v2/library/app/{TAG}?ns=docker.io", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/app/{TAG}?ns=docker.io", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/app/{TAG}?ns=quay.io", "quay.io", f"/v2/app/{TAG}"),
        (f"/v2/app/{TAG}?ns=registry.test%3A5000", "registry.test:5000", f"/v2/app/{TAG}"),
        (f"/v2/app/{TAG}?ns=localhost:5000", "localhost:5000", f"/v2/app/{TAG}"),
        (f"/v2/app/{TAG}?ns=[::1]:5000", "[::1]:5000", f"/v2/app/{TAG}"),
        (f"/v2/library/app/{TAG}?ns=registry-1.docker.io", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/app/{TAG}?ns=QUAY.io:443", "quay.io", f"/v2/app/{TAG}"),
        ("/v2/app/tags/list?n=5&ns=quay.io&last=a", "quay.io", "/v2/app/tags/list?n=5&last=a"),
        # BuildKit's mirror with a path says both; containers/image the path.
        (f"/v2/quay.io/team/app/{TAG}?ns=quay.io", "quay.io", f"/v2/team/app/{TAG}"),
        (f"/v2/quay.io/team/app/{TAG}", "quay.io", f"/v2/team/app/{TAG}"),
        (f"/v2/docker.io/library/app/{TAG}", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/docker.io/app/{TAG}", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/index.docker.io/app/{TAG}?ns=docker.io", "docker.io", f"/v2/library/app/{TAG}"),
        (f"/v2/registry.test:5000/app/{TAG}", "registry.test:5000", f"/v2/app/{TAG}"),
        (f"/v2/registry.test%3A5000/app/{TAG}", "registry.test:5000", f"/v2/app/{TAG}"),
        (f"/v2/localhost/app/{TAG}", "localhost", f"/v2/app/{TAG}"),
        # ns decides: what else looks like a registry is part of the name.
        (f"/v2/quay.io/app/{TAG}?ns=registry.test", "registry.test", f"/v2/quay.io/app/{TAG}"),
        # A name of one part is a name.
        (f"/v2/my.app/{TAG}", "docker.io", f"/v2/library/my.app/{TAG}"),
        (f"/v2/quay.io/{TAG}?ns=quay.io", "quay.io", f"/v2/quay.io/{TAG}"),
        # What is about no repository.
        ("/v2/", "docker.io", "/v2/"),
        ("/v2", "docker.io", "/v2"),
        ("/v2/?ns=quay.io", "quay.io", "/v2/"),
        ("/v2/quay.io/", "quay.io", "/v2/"),
        ("/v2/quay.io/_catalog?n=1", "quay.io", "/v2/_catalog?n=1"),
    ],
)
def test_what_is_meant(target: str, registry: str, asked: str) -> None:
    found = meant(target)
    assert (found.registry, found.target) == (registry, asked)


@pytest.mark.parametrize(
    "ns",
    ["", "/", "quay.io/team", "user@quay.io", "quay.io:", "quay.io:65536", "quay.io:http", "..", "%00", "a b", "é"],
)
def test_an_ns_that_is_no_registry(ns: str) -> None:
    with pytest.raises(OciError) as refused:
        meant(f"/v2/app/{TAG}?ns={ns}")
    assert (refused.value.status, refused.value.code) == (400, "NAME_INVALID")
    assert refused.value.message.endswith(" is not a registry: host or host:port is")
    assert refused.value.message.isprintable()


def test_two_of_them() -> None:
    assert meant(f"/v2/app/{TAG}?ns=quay.io&ns=quay.io").registry == "quay.io"
    with pytest.raises(OciError, match="two registries"):
        meant(f"/v2/app/{TAG}?ns=quay.io&ns=ghcr.io")


@given(registries, repositories, kinds)
def test_all_ways_to_name_a_registry_mean_the_same(registry: str, repository: str, kind: str) -> None:
    expected = registry.removesuffix(":443"), f"/v2/{repository}/{kind}"
    for target in (
        f"/v2/{repository}/{kind}?ns={registry}",
        f"/v2/{repository}/{kind}?ns={quote(registry, safe='')}",
        f"/v2/{registry}/{repository}/{kind}",
        f"/v2/{registry}/{repository}/{kind}?ns={registry}",
    ):
        found = meant(target)
        assert (found.registry, found.target) == expected


@given(repositories, kinds)
def test_a_repository_of_docker_hub_has_two_parts(repository: str, kind: str) -> None:
    found = meant(f"/v2/{repository}/{kind}?ns=docker.io")
    assert found.registry == "docker.io"
    name = oci.repository(found.target)
    # A repository there may not be called docker.io: that is the registry again.
    assert name in (repository, f"library/{repository}", repository.partition("/")[2], f"library/{repository[10:]}")
    assert "/" in name


@given(st.text(), st.text())
def test_whatever_is_asked_is_understood_or_refused(path: str, query: str) -> None:
    target = f"/v2/{path}?{query}"
    try:
        found = meant(target)
    except OciError:
        return
    assert found.target.startswith("/v2/")
    assert not any(part.partition("=")[0] == "ns" for part in found.target.partition("?")[2].split("&"))
    assert 0 <= found.port <= 65535


@given(registries, repositories)
def test_a_link_leads_back_to_the_same_registry(registry: str, repository: str) -> None:
    link = f"</v2/{repository}/tags/list?n=5&last=a>"
    for asked in (f"/v2/{repository}/tags/list?ns={registry}", f"/v2/{registry}/{repository}/tags/list"):
        found = meant(asked)
        next_page = found.leading_back(f'{link}; rel="next"')
        assert next_page.endswith('>; rel="next"')
        again = meant(next_page[1:].partition(">")[0])
        assert (again.registry, again.target) == (found.registry, link[1:-1])


def test_a_link_with_a_host_of_its_own() -> None:
    asked = Meant("quay.io", 443, "/v2/app/tags/list", "/quay.io")
    assert asked.leading_back('<https://quay.io/v2/app/tags/list?last=a>; rel="next"') == (
        '</v2/quay.io/app/tags/list?last=a>; rel="next"'
    )
    elsewhere = '</docs>; rel="help"'
    assert asked.leading_back(elsewhere) == elsewhere
