"""BuildKit: a buildkitd.toml of our own, from which buildx copies the CA into its builder (docker/buildx, confutil)."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

from ca.trust.plan import Plan, Put, Wanted

BUILDER_CERTS = "/etc/buildkit/certs"


def plan(wanted: Wanted) -> Plan:
    folder = wanted.home / ".config/mirrortap" if wanted.home else PurePosixPath("/etc/mirrortap")
    ca, settings = folder / "mirrortap.crt", folder / "buildkitd.toml"
    toml = registries(wanted.hosts, str(ca))
    return Plan(
        puts=(Put(ca, wanted.pem), Put(settings, toml.encode())),
        complete=True,
        next=(
            "For a builder of buildx, which copies the CA into its container:\n"
            "  docker buildx create --name mirrortap --use --driver docker-container \\\n"
            f"    --buildkitd-config {settings} \\\n"
            f"    --driver-opt env.HTTPS_PROXY={wanted.proxy} \\\n"
            f"    --driver-opt env.SSL_CERT_FILE={in_builder(wanted.hosts, ca.name)}\n"
            "  (Older ones say --config. The proxy must be reachable from the container: not 127.0.0.1.)\n"
            "For a buildkitd of your own, with the same two variables and that file, or its tables in yours:\n"
            f"  HTTPS_PROXY={wanted.proxy} SSL_CERT_FILE={ca} buildkitd --config {settings}\n"
            "docker and buildctl fetch tokens themselves: give them both variables as well, or neither."
        ),
        undone="If you made the builder: docker buildx rm mirrortap",
    )


def registries(hosts: tuple[str, ...], ca: str) -> str:
    """The tables of buildkitd.toml."""
    return "\n".join(f"[registry.{json.dumps(host)}]\n  ca = [{json.dumps(ca)}]\n" for host in hosts)


def in_builder(hosts: tuple[str, ...], name: str) -> str:
    """Where the CA is in a container that buildx made: one copy for each registry, of which any will do."""
    folder = re.sub(r"[^a-zA-Z0-9.-]+", "_", hosts[0]) if hosts else ""
    return f"{BUILDER_CERTS}/{folder}/{name}"
