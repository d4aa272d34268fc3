"""Which hosts are intercepted, by which rule, and that the CA can speak for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.config import toml

from addon.config import wellknown
from addon.config.load import load
from addon.config.model import Config, host_of, is_address
from ca.authority import AuthorityError, dns_name, subtrees, within

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS = load([])


def registry(config: Config, host: str, port: int = 443) -> str | None:
    rule = config.rule(host, port)
    return rule.registry if rule else None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("Registry-1.Docker.IO", "docker.io"),
        ("registry-1.docker.io.", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("lscr.io", "lscr.io"),
        ("quay.io", "quay.io"),
        ("mcr.microsoft.com", "mcr.microsoft.com"),
        ("registry.k8s.io", "registry.k8s.io"),
        ("registry.gitlab.com", "registry.gitlab.com"),
        ("nvcr.io", "nvcr.io"),
        ("public.ecr.aws", "public.ecr.aws"),
        ("gcr.io", "gcr.io"),
        ("eu.gcr.io", "eu.gcr.io"),
        ("europe-west1-docker.pkg.dev", "europe-west1-docker.pkg.dev"),
        ("me.azurecr.io", "me.azurecr.io"),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
        # Not registries: tunnelled.
        ("auth.docker.io", None),
        ("hub.docker.com", None),
        ("production.cloudflare.docker.com", None),
        ("cdn.quay.io", None),
        ("gitlab.com", None),
        ("xgcr.io", None),
        ("gcr.io.example.com", None),
        ("pkg.dev", None),
        ("azurecr.io", None),
        ("io", None),
        ("s3.eu-west-1.amazonaws.com", None),
        ("dkr.ecr.eu-west-1.amazonaws.com", None),
        ("1.dkr.ecr.nowhere-1.amazonaws.com", None),
        ("example.com", None),
        ("192.0.2.1", None),
        ("::1", None),
        ("", None),
        (".", None),
    ],
)
def test_hosts_out_of_the_box(host: str, expected: str | None) -> None:
    assert registry(DEFAULTS, host) == expected
    # Clients that speak plain http to a registry mean the same one.
    assert registry(DEFAULTS, host, 80) == expected
    assert registry(DEFAULTS, host, 5000) is None
    assert not expected or within(dns_name(expected), subtrees(DEFAULTS.certificate_names()))


def test_a_public_registry_is_its_own_origin() -> None:
    rule = DEFAULTS.rule("quay.io", 443)
    assert rule is not None
    assert [(e.name, e.url, e.is_origin) for e in rule.origins] == [("quay.io", "https://quay.io", True)]
    assert rule.mirrors == ()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    tables = ["reg.example", "reg.example:5000", "quay.io", "sub.gcr.io", "10.0.0.1:5000", "a_b.example"]
    path: Path = tmp_path_factory.mktemp("config") / "buildkitd.toml"
    path.write_text(toml({name: {"mirrors": ["m.io"]} for name in tables}))
    return load([path])


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("reg.example", 443, "reg.example"),
        ("REG.example.", 80, "reg.example"),
        ("reg.example", 5000, "reg.example:5000"),
        ("reg.example", 5001, None),
        ("x.reg.example", 443, None),
        ("quay.io", 443, "quay.io"),
        ("sub.gcr.io", 443, "sub.gcr.io"),
        ("other.gcr.io", 443, "other.gcr.io"),
        ("m.io", 443, None),
        ("10.0.0.1", 5000, None),
        ("a_b.example", 443, None),
    ],
)
def test_configured_hosts(config: Config, host: str, port: int, expected: str | None) -> None:
    assert registry(config, host, port) == expected


def test_a_registry_configured_with_port_80(tmp_path: Path) -> None:
    path = tmp_path / "buildkitd.toml"
    path.write_text(toml({"reg.example:80": {"http": True, "mirrors": ["m.io"]}}))
    assert registry(load([path]), "reg.example", 80) == "reg.example:80"


labels = st.sampled_from(
    ["docker", "io", "gcr", "eu", "www", "pkg", "dev", "reg", "example", "dkr", "ecr", "us-east-1"]
)
labels |= st.sampled_from(["amazonaws", "com", "azurecr", "quay", "123", "a_b", "-a", "", "X", "d\u00f6"])
somewhere = st.one_of(
    st.lists(labels, max_size=6).map(".".join),
    st.builds("{}.{}".format, st.lists(labels, max_size=3).map(".".join), st.sampled_from(sorted(wellknown.DOMAINS))),
    st.text(max_size=12),
)


@given(host=somewhere, port=st.sampled_from([443, 80, 5000, 65535]))
@example(host="reg.example", port=5000)
def test_the_ca_can_speak_for_every_intercepted_host(config: Config, host: str, port: int) -> None:
    for each in (config, DEFAULTS):
        if each.rule(host, port) is None:
            continue
        try:
            name = dns_name(host.rstrip("."))
        except AuthorityError:  # "a_b.gcr.io" or worse, for which nobody has a certificate
            continue
        assert within(name, subtrees(each.certificate_names()))


def test_certificates_are_for_registries_only(config: Config) -> None:
    """A stolen key must not speak for all of a cloud provider."""
    names = subtrees(config.certificate_names())
    assert {"reg.example", "quay.io", "docker.io"} <= set(names)
    for host in ("amazonaws.com", "s3.amazonaws.com", "microsoft.com", "aws", "com", "io", "m.io", "gitlab.com"):
        assert not within(host, names)
    assert not any(is_address(name) or ":" in name for name in names)


def test_registries_for_people() -> None:
    shown = wellknown.registries()
    assert "*.gcr.io" in shown
    assert "docker.io" in shown
    assert len([name for name in shown if "amazonaws" in name]) == 1


@pytest.mark.parametrize(
    ("authority", "host"),
    [("a.io", "a.io"), ("a.io:5000", "a.io"), ("[::1]:5000", "::1"), ("[::1]", "::1"), ("10.0.0.1:1", "10.0.0.1")],
)
def test_the_host_of_an_authority(authority: str, host: str) -> None:
    assert host_of(authority) == host


def test_addresses() -> None:
    assert all(map(is_address, ["127.0.0.1", "10.1.2.3", "::1", "2001:db8::1"]))
    assert not any(map(is_address, ["localhost", "a.io", "1.2.3.io", "1.2.3", "", "docker.io"]))
