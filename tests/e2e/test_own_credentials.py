"""The proxy logs in to real registries itself, and no credential, its own or a client's, is written down anywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.access import Policy, basic
from support.certificates import write_bundle
from support.config import toml
from support.helper import CredentialHelper
from support.images import make_image
from support.processes import needs
from support.proxy import mitmdump
from support.token_server import TokenServer

from e2e.conftest import fill

if TYPE_CHECKING:
    from pathlib import Path

    from support.certificates import Authority
    from support.clients import Sandbox
    from support.images import Image

    from e2e.conftest import Builder, Registries

pytestmark = needs("skopeo", "docker-registry")

TEAM, PASSWORDS = "registry.example", {"alice": "wonder-land", "robot": "m4chine-word"}
TOKEN = re.compile(rb"eyJ[\w-]{20,}\.eyJ[\w-]{20,}\.")


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialHelper:
    helper = CredentialHelper(tmp_path / "bin")
    helper.on_path(monkeypatch)
    helper.gives("robot", PASSWORDS["robot"])
    return helper


def test_a_mirror_with_a_helper_an_origin_with_a_password_and_mitmproxys_flows(
    tmp_path: Path,
    authority: Authority,
    registries: Registries,
    direct: Sandbox,
    builder: Builder,
    app: Image,
    helper: CredentialHelper,
) -> None:
    mirror = registries("mirror", tls=authority.pair(), htpasswd=PASSWORDS)
    fill(direct, mirror, app, "library/app:1.0", f"--dest-creds=robot:{PASSWORDS['robot']}")
    secret = make_image(tmp_path / "layouts", seed=43)
    policy = Policy(users=PASSWORDS, private={"team/app": {"alice", "robot"}})
    password = tmp_path / "password"
    password.write_text(PASSWORDS["robot"])
    password.chmod(0o600)
    flows = tmp_path / "flows"
    with TokenServer(policy, tmp_path, authority.server_context()) as tokens:
        origin = registries("origin", tls=authority.pair(), token_auth=tokens)
        ca = {"ca": [authority.file]}
        config = toml(
            {
                "docker.io": {"mirrors": [mirror.endpoint], "fallback": False, "access": "open"},
                mirror.endpoint: ca
                | {"http": False, "auth": {"docker-config": helper.config(tmp_path / "config.json", mirror.endpoint)}},
                tokens.endpoint: ca,
                TEAM: ca | {"server": origin.url, "auth": {"username": "robot", "password-file": password}},
            }
        )
        with mitmdump(tmp_path / "proxy", config, "-w", flows, "--set", "flow_detail=3") as proxy:
            bundle = write_bundle(tmp_path / "bundle.pem", proxy.ca, authority.file)
            alice = builder(proxy, "alice", bundle)
            alice.push(secret.reference, f"{TEAM}/team/app:1.0", f"--dest-creds=alice:{PASSWORDS['alice']}")
            for image, name in (app, "docker.io/library/app:1.0"), (secret, f"{TEAM}/team/app:1.0"):
                pulled = builder(proxy, "anybody", bundle).pull(name)
                assert pulled.digest == image.manifest.digest
                assert pulled.blobs() == {blob.digest: blob.size for blob in image.blobs}
            # One that looks as little like a token as may be.
            proxy.client(TEAM).get("/v2/team/app/tags/list", {"Authorization": "Basic cl13nts-own", "Cookie": "c00kie"})
    assert helper.runs == [f"get {mirror.endpoint}"]
    logins = {request.headers.get("Authorization") for request in tokens.requests}
    assert {basic(user, word) for user, word in PASSWORDS.items()} <= logins
    saved = flows.read_bytes()
    assert saved.count(b"/v2/team/app/") > 5, "the flows are there"
    assert b"[hidden]" in saved
    words = [text for user, word in PASSWORDS.items() for text in (word, basic(user, word).split()[1])]
    written = {"log": proxy.program.output().encode(), "flows": saved}
    written |= {str(path): path.read_bytes() for path in proxy.data.rglob("*") if path.is_file()}
    assert b"/v2/team/app/tags/list" in written["log"]
    for where, content in written.items():
        for word in *words, "cl13nts-own", "c00kie":
            assert word.encode() not in content, where
        assert not TOKEN.search(content), where
