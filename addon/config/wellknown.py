"""The public registries that are intercepted without being configured, and Docker Hub's several names."""

from __future__ import annotations

DOCKER_HUB = "docker.io"
_ALIASES = {"index.docker.io": DOCKER_HUB, "registry-1.docker.io": DOCKER_HUB}
_API_HOSTS = {DOCKER_HUB: "registry-1.docker.io"}

_REGISTRIES = frozenset(
    {
        DOCKER_HUB,
        "gcr.io",
        "ghcr.io",
        "lscr.io",
        "mcr.microsoft.com",
        "nvcr.io",
        "public.ecr.aws",
        "quay.io",
        "registry.gitlab.com",
        "registry.k8s.io",
    }
)
# ECR's hosts are <account>.dkr.ecr.<region>.amazonaws.com: a certificate that may stand for all of amazonaws.com
# would be one that can impersonate much more than registries, so the regions are spelled out.
_ECR_REGIONS = (
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
)
# Every subdomain of these is a registry.
_FAMILIES = frozenset({"gcr.io", "pkg.dev", "azurecr.io", *(f"dkr.ecr.{r}.amazonaws.com" for r in _ECR_REGIONS)})

# Where clients log in and get tokens for the registries of this page, as far as that is another host.
COMPANIONS = frozenset(
    {
        "auth.docker.io",
        "login.docker.com",
        "gitlab.com",
        "authn.nvidia.com",
        "login.microsoftonline.com",
        "oauth2.googleapis.com",
        "api.ecr-public.us-east-1.amazonaws.com",
        *(f"api.ecr.{region}.amazonaws.com" for region in _ECR_REGIONS),
    }
)

DOMAINS = _REGISTRIES | _FAMILIES
"""DNS names that cover, with their subdomains, every registry of this page."""

DEFAULT_MIRRORS = {DOCKER_HUB: ("mirror.gcr.io",)}
"""Mirrors used when the operator says nothing about a registry."""


def canonical(host: str) -> str:
    """One name per registry: docker.io, index.docker.io and registry-1.docker.io are the same."""
    return _ALIASES.get(host, host)


def api_host(registry: str) -> str:
    """The host that serves a registry's API."""
    return _API_HOSTS.get(registry, registry)


def is_public(host: str) -> bool:
    """Whether `host` (canonical, no port) is one of the registries intercepted out of the box."""
    if host in _REGISTRIES:
        return True
    labels = host.split(".")
    return any(".".join(labels[i:]) in _FAMILIES for i in range(1, len(labels)))


def registries() -> list[str]:
    """For people: the hosts of this page, families as `*.domain`, one line for all of ECR."""
    families = sorted(f"*.{name}" for name in _FAMILIES if not name.endswith("amazonaws.com"))
    return [*sorted(_REGISTRIES), *families, "*.dkr.ecr.*.amazonaws.com"]
