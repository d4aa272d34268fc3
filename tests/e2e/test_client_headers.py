"""What real clients say about themselves reaches neither mirrors nor where the origin redirects to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.certificates import write_bundle
from support.config import Table, toml
from support.faults import Status
from support.images import make_image
from support.processes import needs
from support.registry import FakeRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority
    from support.threads import LoopThread

    from e2e.conftest import Builder, Serve

pytestmark = needs("skopeo")

HOST = "registry.example"
LOGIN = "alice:wonder-land"


@pytest.mark.parametrize("kind", [BearerAuth, BasicAuth])
def test_mirrors_and_redirect_targets_learn_nothing_of_a_client(
    kind: type[BearerAuth | BasicAuth],
    authority: Authority,
    loop_thread: LoopThread,
    start_proxy: Serve,
    builder: Builder,
    tmp_path: Path,
) -> None:
    auth = kind(Policy(users={"alice": "wonder-land"}, private={"team/app": {"alice"}}))
    origin = loop_thread.enter(FakeRegistry(tls=authority, auth=auth, cdn=True))
    mirrors = [loop_thread.enter(FakeRegistry()) for _ in range(2)]
    mirrors[0].inject(Status(401, {"WWW-Authenticate": 'Basic realm="mirror"'}))
    image = make_image(tmp_path / "layouts", seed=11)
    origin.add(image, "library/open", "1.0")
    table = {"mirrors": [each.endpoint for each in mirrors], "server": origin.url, "ca": [authority.file]}
    tables: dict[str, Table] = {HOST: table, str(origin.cdn_endpoint): {"ca": [authority.file]}}
    proxy = start_proxy(toml(tables | {each.endpoint: {"http": True} for each in mirrors}))
    machine = builder(proxy, ca=write_bundle(tmp_path / "bundle.pem", proxy.ca, authority.file))

    machine.push(image.reference, f"{HOST}/team/app:1.0", f"--dest-creds={LOGIN}")
    for name in "team/app", "library/open":
        pulled = machine.pull(f"{HOST}/{name}:1.0", f"--src-creds={LOGIN}")
        assert pulled.blobs() == {blob.digest: blob.size for blob in image.blobs}
    machine.pull_refused(f"{HOST}/team/app:1.0", "--src-creds=alice:wrong")
    own = {"Authorization": basic("alice", "wonder-land"), "Cookie": "alice-cookie", "X-Registry-Auth": "alice-header"}
    for path in "manifests/1.0", f"blobs/{image.config.digest}", f"referrers/{image.manifest.digest}", "tags/list":
        proxy.client(HOST).request("GET", f"/v2/team/app/{path}", own)

    secrets = [LOGIN, "wonder-land", *(basic("alice", word).split()[1] for word in ("wonder-land", "wrong"))]
    secrets += [*own.values(), *(auth.tokens if isinstance(auth, BearerAuth) else [])]

    def told(registry: FakeRegistry) -> dict[str, set[str]]:
        """By kind of request, the headers (or else "URL") that show a secret."""
        found: dict[str, set[str]] = {}
        for seen in registry.requests:
            said = [*seen.headers.items(), ("URL", f"{seen.path} {seen.query}")]
            shown = {name for name, value in said if any(secret in value for secret in secrets)}
            found[seen.kind] = found.get(seen.kind, set()) | shown
        return found

    at_origin = told(origin)
    assert at_origin.pop("cdn") == set()
    assert {"manifest", "blob", "upload"} <= {kind for kind, headers in at_origin.items() if "Authorization" in headers}
    for mirror in mirrors:
        assert told(mirror) == {"manifest": set(), "blob": set()}
