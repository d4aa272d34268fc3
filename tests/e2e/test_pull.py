"""A pull through the proxy from a mirror: right bytes, fetched once, served without the mirror afterwards."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from support.config import toml
from support.images import Image, make_index, sha256
from support.processes import needs
from support.proxy import exchange, mitmdump

from e2e.conftest import APP, fill

if TYPE_CHECKING:
    from pathlib import Path

    from support.clients import Sandbox
    from support.programs import RealRegistry

    from e2e.conftest import Builder, Registries, Serve

pytestmark = needs("skopeo", "docker-registry")


def from_mirror(registry: RealRegistry) -> str:
    return toml(
        {
            "docker.io": {"mirrors": [registry.endpoint], "fallback": False},
            registry.endpoint: {"http": True},
        }
    )


def test_a_pull_misses_once_then_hits_and_outlives_the_mirror(
    app: Image, registries: Registries, start_proxy: Serve, builder: Builder, direct: Sandbox
) -> None:
    registry = registries("mirror")
    fill(direct, registry, app, "library/app:1.0")
    proxy = start_proxy(from_mirror(registry))
    machine = builder(proxy)
    wanted = {blob.digest: blob.size for blob in app.blobs}
    requests = 1 + len(wanted)

    first = machine.pull(APP)
    assert (first.digest, first.blobs()) == (app.manifest.digest, wanted)
    answered = proxy.wait_answered(requests)
    proxy.log.wait_for(rf"prefetching \d blobs of docker.io/library/app@{app.manifest.digest}")
    # Blobs may have been here before they were asked for.
    assert {each.cache for each in answered if each.kind == "manifest"} == {"miss"}
    assert {each.endpoint for each in answered if each.cache == "miss"} == {registry.endpoint}
    assert {each.repository for each in answered} == {"docker.io/library/app"}

    mark = len(proxy.log)
    second = machine.pull(APP)
    assert (second.manifest, second.blobs()) == (first.manifest, wanted)
    assert {each.cache for each in proxy.wait_answered(requests, mark)} == {"hit"}

    registry.stop()
    gets = Counter(access.path for access in registry.accesses("/v2/library/app/blobs/") if access.method == "GET")
    assert gets == {f"/v2/library/app/blobs/{digest}": 1 for digest in wanted}

    mark = len(proxy.log)
    third = machine.pull(APP)
    assert (third.manifest, third.blobs()) == (first.manifest, wanted)
    by_kind = {each.kind: each.cache for each in proxy.wait_answered(requests, mark)}
    assert by_kind == {"manifest": "stale", "blob": "hit"}


def test_the_answers_say_what_the_cache_did(
    app: Image, registries: Registries, start_proxy: Serve, direct: Sandbox
) -> None:
    registry = registries("mirror")
    fill(direct, registry, app, "library/app:1.0")
    hub = start_proxy(from_mirror(registry)).client("registry-1.docker.io")
    manifest = "/v2/library/app/manifests/1.0"
    blob = f"/v2/library/app/blobs/{app.layers[-1].digest}"

    missed = f'mirrortap; fwd=miss; detail="{registry.endpoint}"'
    # The manifest last: with that its blobs begin to come.
    for path, body in (blob, app.layers[-1].data), (manifest, app.manifest.data):
        answers = [hub.get(path, {"Accept": app.manifest.media_type}) for _ in range(2)]
        assert [answer.headers["Cache-Status"] for answer in answers] == [missed, "mirrortap; hit"]
        assert {answer.headers["OCI-Namespace"] for answer in answers} == {"docker.io"}
        assert {answer.headers["Content-Length"] for answer in answers} == {str(len(body))}
        assert {answer.body for answer in answers} == {body}
        described = hub.request("HEAD", path, {"Accept": app.manifest.media_type})
        assert (described.status, described.body) == (200, b"")
        assert described.headers["Content-Length"] == str(len(body))
        assert described.headers["Docker-Content-Digest"] == sha256(body)

    registry.stop()
    stale = hub.get(manifest, {"Accept": app.manifest.media_type})
    assert stale.body == app.manifest.data
    assert stale.headers["Docker-Content-Digest"] == app.manifest.digest
    assert stale.headers["Cache-Status"].startswith("mirrortap; hit; ttl=-")
    assert stale.headers["Cache-Status"].endswith("; detail=stale")


def test_the_cache_is_an_oci_layout(
    app: Image, mirror: RealRegistry, start_proxy: Serve, builder: Builder, direct: Sandbox, tmp_path: Path
) -> None:
    proxy = start_proxy(from_mirror(mirror))
    builder(proxy).pull(APP)
    proxy.program.stop()

    assert json.loads((proxy.cache / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    out = tmp_path / "read"
    direct.skopeo("copy", "--quiet", f"oci:{proxy.cache}:{APP}", f"dir:{out}")
    assert (out / "manifest.json").read_bytes() == app.manifest.data
    for blob in app.blobs:
        digest = blob.digest.removeprefix("sha256:")
        assert (out / digest).read_bytes() == blob.data
        assert (proxy.cache / "blobs" / "sha256" / digest).read_bytes() == blob.data


def test_every_architecture_of_an_index(
    registries: Registries, start_proxy: Serve, builder: Builder, direct: Sandbox, tmp_path: Path
) -> None:
    index = make_index(tmp_path / "layouts", seed=7)
    registry = registries("mirror")
    direct.push(index.reference, f"{registry.endpoint}/library/multi:1.0", "--all", "--dest-tls-verify=false")
    proxy = start_proxy(from_mirror(registry))
    machine = builder(proxy)

    for _ in range(2):
        pulled = machine.pull("docker.io/library/multi:1.0", "--all")
        assert pulled.digest == index.index.digest
        assert pulled.blobs() == {blob.digest: blob.size for blob in index.blobs}
    registry.stop()
    asked = Counter(access.path for access in registry.accesses("/blobs/") if access.method == "GET")
    assert asked == {f"/v2/library/multi/blobs/{blob.digest}": 1 for blob in index.blobs}


def test_a_cache_survives_a_restart(
    app: Image, registries: Registries, start_proxy: Serve, builder: Builder, direct: Sandbox
) -> None:
    registry = registries("mirror")
    fill(direct, registry, app, "library/app:1.0")
    config = from_mirror(registry)
    before = start_proxy(config)
    builder(before).pull(APP)
    root = before.ca.read_bytes()
    assert before.program.stop() == 0
    registry.stop()

    after = start_proxy(config)
    assert after.ca.read_bytes() == root
    assert builder(after, "second").pull(APP).blobs() == {blob.digest: blob.size for blob in app.blobs}


def test_mitmdump_with_the_addon_as_a_script(
    app: Image, mirror: RealRegistry, builder: Builder, tmp_path: Path
) -> None:
    door = ("--set", "mirrortap_mirror_listen=127.0.0.1:0")
    with mitmdump(tmp_path / "mitmdump", from_mirror(mirror), *door) as running:
        machine = builder(running)
        for _ in range(2):
            assert machine.pull(APP).blobs() == {blob.digest: blob.size for blob in app.blobs}
        answer = running.client("registry-1.docker.io").get(f"/v2/library/app/blobs/{app.config.digest}")
        assert answer.headers["Cache-Status"] == "mirrortap; hit"
        with closing(http.client.HTTPConnection(running.mirror, timeout=30)) as at_mirror:
            assert exchange(at_mirror, "GET", f"/v2/app/blobs/{app.config.digest}").body == app.config.data
