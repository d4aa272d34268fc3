"""What each target makes of what is wanted: as its programs read it."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from addon.config.load import load
from ca.trust import actions, buildkit, containerd, containers, docker, kubernetes, system, targets
from ca.trust.certificates import Bundle, missing
from ca.trust.errors import TrustError
from ca.trust.plan import System, Wanted

if TYPE_CHECKING:
    from support.certificates import Authority

PROXY = "http://proxy.corp:3128"


@pytest.fixture(scope="session")
def bundle(authority: Authority, stranger: Authority) -> Bundle:
    """Two certificates, as during a rotation."""
    return Bundle.parse(authority.file.read_bytes() + stranger.file.read_bytes(), "test")


@pytest.fixture
def wanted(bundle: Bundle) -> Wanted:
    return Wanted(bundle, ("docker.io", "registry.corp:5000"), PROXY)


@pytest.mark.parametrize(
    ("found", "anchors", "program"),
    [
        (System(("debian",)), "/usr/local/share/ca-certificates", "update-ca-certificates"),
        (System(("ubuntu", "debian")), "/usr/local/share/ca-certificates", "update-ca-certificates"),
        (System(("alpine",)), "/usr/local/share/ca-certificates", "update-ca-certificates"),
        (System(("rocky", "rhel", "centos", "fedora")), "/etc/pki/ca-trust/source/anchors", "update-ca-trust"),
        (System(("opensuse-leap", "suse")), "/etc/pki/trust/anchors", "update-ca-certificates"),
        (System(("arch",)), "/etc/ca-certificates/trust-source/anchors", "update-ca-trust"),
        (
            System((), frozenset({"/etc/pki/ca-trust/source/anchors"})),
            "/etc/pki/ca-trust/source/anchors",
            "update-ca-trust",
        ),
        (
            # Who it says it is counts for more than a folder that some package made.
            System(("fedora",), frozenset({"/usr/local/share/ca-certificates"})),
            "/etc/pki/ca-trust/source/anchors",
            "update-ca-trust",
        ),
    ],
)
def test_the_system_store_has_one_certificate_a_file(bundle: Bundle, found: System, anchors: str, program: str) -> None:
    plan = system.plan(Wanted(bundle, system=found))
    assert [str(put.path) for put in plan.puts] == [f"{anchors}/mirrortap.crt", f"{anchors}/mirrortap-2.crt"]
    assert [put.data for put in plan.puts] == list(bundle.pems)
    assert plan.refresh
    assert plan.refresh.argv[0] == program


def test_an_unknown_system_is_refused(bundle: Bundle) -> None:
    with pytest.raises(TrustError, match="os-release says plan9; known: alpine, arch"):
        system.plan(Wanted(bundle, system=System(("plan9",))))


def test_docker_gets_a_file_for_each_registry_beside_the_registrys_own(bundle: Bundle) -> None:
    plan = docker.plan(Wanted(bundle, ("ghcr.io", "registry.corp:5000"), PROXY))
    assert {str(put.path): put.data for put in plan.puts} == {
        "/etc/docker/certs.d/ghcr.io/mirrortap.crt": bundle.pem,
        "/etc/docker/certs.d/registry.corp:5000/mirrortap.crt": bundle.pem,
    }
    assert "NOT for Docker Hub" in plan.next
    assert f"Environment=HTTPS_PROXY={PROXY}" in plan.next


def test_docker_is_not_given_a_file_that_it_does_not_read(wanted: Wanted) -> None:
    with pytest.raises(TrustError, match=r"does not look into certs\.d for Docker Hub.*trust system"):
        docker.plan(wanted)


def test_containers_of_the_machine_and_of_a_user(wanted: Wanted) -> None:
    paths = [str(put.path) for put in containers.plan(wanted).puts]
    assert paths == [
        "/etc/containers/certs.d/docker.io/mirrortap.crt",
        "/etc/containers/certs.d/registry.corp:5000/mirrortap.crt",
    ]
    plan = containers.plan(Wanted(wanted.bundle, ("ghcr.io",), home=PurePosixPath("/home/a")))
    assert str(plan.puts[0].path) == "/home/a/.config/containers/certs.d/ghcr.io/mirrortap.crt"
    assert plan.puts[0].hides
    assert [str(folder) for folder in plan.puts[0].hides.folders] == [
        "/etc/containers/certs.d/ghcr.io",
        "/etc/docker/certs.d/ghcr.io",
    ]


def test_hosts_toml_names_the_ca_for_the_host_that_is_asked(wanted: Wanted) -> None:
    plan = containerd.plan(wanted)
    found = {str(put.path): put.data for put in plan.puts}
    folder = "/etc/containerd/certs.d"
    for name, api in ("docker.io", "registry-1.docker.io"), ("registry.corp:5000", "registry.corp:5000"):
        hosts = tomllib.loads(found[f"{folder}/{name}/hosts.toml"].decode())
        assert hosts == {
            "server": f"https://{api}",
            "ca": ["mirrortap.crt"],
            "host": {f"https://{api}": {"ca": ["mirrortap.crt"]}},
        }
        assert found[f"{folder}/{name}/mirrortap.crt"] == wanted.pem


def test_buildkitd_toml_is_one_that_is_read(wanted: Wanted, tmp_path: Path) -> None:
    """By the reader of the same format that the proxy has: it opens the CA as buildkitd does."""
    home = Wanted(wanted.bundle, wanted.hosts, PROXY, home=PurePosixPath(tmp_path))
    plan = buildkit.plan(home)
    for put in plan.puts:
        Path(put.path).parent.mkdir(parents=True, exist_ok=True)
        Path(put.path).write_bytes(put.data)
    ca, toml = (Path(put.path) for put in plan.puts)
    assert ca.read_bytes() == wanted.pem
    assert tomllib.loads(toml.read_text())["registry"] == {host: {"ca": [str(ca)]} for host in wanted.hosts}
    assert set(wanted.hosts) <= set(load([toml]).rules)
    assert f"--buildkitd-config {toml}" in plan.next
    assert f"--driver-opt env.HTTPS_PROXY={PROXY}" in plan.next
    assert "--driver-opt env.SSL_CERT_FILE=/etc/buildkit/certs/docker.io/mirrortap.crt" in plan.next


def test_the_builders_folder_is_named_as_buildx_names_it() -> None:
    assert buildkit.in_builder(("registry.corp:5000",), "ca.crt") == "/etc/buildkit/certs/registry.corp_5000/ca.crt"


def _yaml(text: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(text))


def test_the_daemonset_runs_the_script_of_the_config_map(wanted: Wanted) -> None:
    config, daemons = _yaml(kubernetes.plan(Wanted(wanted.bundle, proxy=PROXY, image="r.corp/tools:1")).document)
    assert (config["kind"], daemons["kind"]) == ("ConfigMap", "DaemonSet")
    assert config["data"]["node.sh"] == kubernetes.node_script(Wanted(wanted.bundle, proxy=PROXY))
    pod = daemons["spec"]["template"]
    assert daemons["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (volume,) = pod["spec"]["volumes"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    (step,) = pod["spec"]["initContainers"]
    assert step["volumeMounts"][0]["name"] == volume["name"]
    assert f"{step['volumeMounts'][0]['mountPath']}/node.sh" in step["command"][-1]
    assert step["securityContext"] == {"privileged": True}
    assert pod["spec"]["hostPID"] is True
    images = {each["image"] for each in pod["spec"]["initContainers"] + pod["spec"]["containers"]}
    assert images == {"r.corp/tools:1"}


def test_the_daemonset_that_cleans_up_replaces_the_other(wanted: Wanted) -> None:
    put, clean = (
        _yaml(kubernetes.plan(Wanted(wanted.bundle, proxy=PROXY, remove=remove)).document) for remove in (False, True)
    )
    assert clean[0]["data"]["node.sh"] == kubernetes.remove_script()
    sums = [each[1]["spec"]["template"]["metadata"]["annotations"] for each in (put, clean)]
    assert sums[0] != sums[1]  # else the pods would not be made anew
    for before, after in zip(put, clean, strict=True):
        assert before["metadata"] == after["metadata"]


def test_the_steps_of_a_workflow(wanted: Wanted) -> None:
    ((machine, builder),) = _yaml(actions.plan(wanted).document)
    assert machine["env"] == {"MIRRORTAP_CA": "${{ vars.MIRRORTAP_CA }}"}
    assert machine["run"] == actions.shell(PROXY)
    assert builder["uses"].startswith("docker/setup-buildx-action@")
    options = builder["with"]
    assert options["driver-opts"].splitlines() == [
        f"env.HTTPS_PROXY={PROXY}",
        "env.SSL_CERT_FILE=/etc/buildkit/certs/docker.io/mirrortap.crt",
    ]
    # buildx copies it from there, where the first step has put it.
    assert tomllib.loads(options["buildkitd-config-inline"]) == {
        "registry": {"docker.io": {"ca": ["/tmp/mirrortap.crt"]}}
    }
    assert "> /tmp/mirrortap.crt\n" in machine["run"]


def test_each_name_finds_its_target() -> None:
    for target in targets.ALL:
        assert targets.find(target.name) is target
    for alias, name in targets.ALIASES.items():
        assert targets.find(alias) is targets.find(name) is not None
    assert targets.find("windows") is None


def test_a_bundle_is_searched_by_content_not_by_line_length(authority: Authority, stranger: Authority) -> None:
    pem, other = authority.file.read_bytes(), stranger.file.read_bytes()
    body = b"".join(pem.split(b"-----")[2].split())
    one_line = b"# a title\n-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"
    assert not missing(pem, other + one_line)
    assert missing(pem, other)
    assert missing(pem + other, pem)
