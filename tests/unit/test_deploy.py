"""deploy/: whatever a file there says of the program is what the program is, and its parts fit each other."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML
from support.processes import needs
from support.units import read_unit

from addon import __version__
from addon.commands.ca import ca
from addon.commands.serve import serve_command
from addon.config.load import load
from addon.config.model import Admission
from addon.doors.listening import address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCS = ROOT / "docs" / "deploy"
DATA = "/var/lib/mirrortap"
CONFIG = "/etc/mirrortap/mirrortap.toml"
# Seconds that transfers get which run when the proxy is told to end.
DRAIN = Admission.drain
PAGES = {"/healthz", "/readyz", "/metrics", "/ca.crt"}

Document = Any


def read_yaml(path: Path) -> list[Document]:
    return list(YAML(typ="safe").load_all(path.read_text()))


def serving(argv: list[str]) -> dict[str, Any]:
    """What `mirrortap serve` understands of a command line. Raises click's errors."""
    assert argv[:2] == ["mirrortap", "serve"]
    return dict(serve_command.make_context("serve", list(argv[2:])).params)


def listens(parameters: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    return {"proxy": parameters["listen"], "mirror": parameters["mirror_listen"]}


EVERYWHERE = {"proxy": address(":3128"), "mirror": address(":5000")}


# --- the container image ---


def instructions(name: str) -> list[str]:
    """Of the Containerfile, without the lines' breaks."""
    text = "\n".join(line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#"))
    return re.findall(rf"^{name} +(.*)$", text.replace("\\\n", " "), re.MULTILINE)


def test_the_image_serves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    (entrypoint,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    variables = dict(each.split("=", 1) for each in shlex.split(" ".join(instructions("ENV"))))
    monkeypatch.setenv("XDG_DATA_HOME", variables["XDG_DATA_HOME"])
    found = serving([*json.loads(entrypoint), *json.loads(command)])
    assert listens(found) == EVERYWHERE
    assert instructions("EXPOSE") == [" ".join(str(port) for _, port in EVERYWHERE.values())]
    assert str(found["data"]) == DATA
    assert instructions("VOLUME") == [DATA]
    assert instructions("USER") == ["10001:10001"]


def test_the_image_is_asked_whether_it_is_healthy_where_it_listens() -> None:
    (health,) = instructions("HEALTHCHECK")
    assert f"'127.0.0.1', {EVERYWHERE['proxy'][1]}," in health
    assert "'/healthz'" in health


def test_all_that_is_copied_into_the_image_is_in_its_context() -> None:
    copied = {source for each in instructions("COPY") if not each.startswith("--from") for source in each.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied == {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((ROOT / each).exists() for each in copied)


# --- systemd ---


def test_the_service_and_its_folder() -> None:
    unit = read_unit(DEPLOY / "systemd" / "mirrortap.service")
    (started,) = unit["Service", "ExecStart"]
    path, *arguments = started.replace("%S", "/var/lib").split()
    found = serving([Path(path).name, *arguments])
    assert listens(found) == EVERYWHERE
    assert found["configs"] == (Path(CONFIG),)
    (folder,) = unit["Service", "StateDirectory"]
    assert found["data"] == Path("/var/lib") / folder == Path(DATA)
    assert float(unit["Service", "TimeoutStopSec"][0]) > DRAIN


# --- compose ---

COMPOSE = {"name", "services", "volumes"}
# https://github.com/compose-spec/compose-spec/blob/main/spec.md
SERVICE = {
    "build", "cap_drop", "command", "container_name", "depends_on", "entrypoint", "environment", "healthcheck",
    "hostname", "image", "ports", "privileged", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs",
    "user", "volumes",
}  # fmt: skip
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


@pytest.fixture(scope="module")
def compose() -> Document:
    (document,) = read_yaml(DEPLOY / "compose" / "compose.yaml")
    return document


def test_the_composition_is_of_parts_that_are_there(compose: Document) -> None:
    assert set(compose) <= COMPOSE
    folder = DEPLOY / "compose"
    for name, each in compose["services"].items():
        assert set(each) <= SERVICE, name
        for source in (volume.split(":")[0] for volume in each.get("volumes", ())):
            assert (folder / source).exists() if source.startswith("./") else source in compose["volumes"]
        for other, how in each.get("depends_on", {}).items():
            assert other in compose["services"]
            assert how["condition"] in CONDITIONS
    build = compose["services"]["mirrortap"]["build"]
    assert (folder / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_the_composed_proxy(compose: Document) -> None:
    each = compose["services"]["mirrortap"]
    found = serving(["mirrortap", *each["command"]])
    assert listens(found) == EVERYWHERE
    # A file that an editor has replaced is seen in a folder only.
    assert each["volumes"] == [f"./mirrortap:{Path(CONFIG).parent}:ro", f"data:{DATA}"]
    assert found["configs"] == (Path(CONFIG),)
    assert float(each["stop_grace_period"].removesuffix("s")) > DRAIN
    # Whoever is not on this machine is let in by who runs it.
    assert each["ports"] == [f"127.0.0.1:{port}:{port}" for _, port in EVERYWHERE.values()]
    assert each["read_only"] is True
    assert not load([DEPLOY / "compose" / "mirrortap" / Path(CONFIG).name]).warnings


def test_the_composed_builder_has_the_proxy_and_the_ca(compose: Document) -> None:
    builder, ca = compose["services"]["buildkitd"], compose["services"]["ca"]
    name = compose["services"]["mirrortap"]["hostname"]
    assert name in compose["services"]
    assert builder["environment"]["HTTPS_PROXY"] == f"http://{name}:{EVERYWHERE['proxy'][1]}"
    told = (DOCS / "compose.md").read_text()
    assert all(f"\n{name}={value}\n" in told for name, value in builder["environment"].items())
    readme = (ROOT / "README.md").read_text()
    assert set(builder["environment"]) <= set(re.findall(r"^export (\w+)=", readme, re.MULTILINE))
    volumes = {volume.split(":")[0]: volume.split(":")[1] for volume in builder["volumes"]}
    folder, name = builder["environment"]["SSL_CERT_FILE"].rsplit("/", 1)
    assert volumes["ca"] == folder
    assert ca["volumes"] == ["ca:/ca"]
    compile(ca["command"][0], "compose.yaml", "exec")
    assert f'"/ca/{name}"' in ca["command"][0]
    assert "/ca.crt" in ca["command"][0]
    # Its own kind of file is read by mirrortap itself; what is not about registries is passed over.
    assert not load([DEPLOY / "compose" / "buildkitd.toml"]).warnings


# --- Kubernetes ---


@pytest.fixture(scope="module")
def kubernetes() -> dict[tuple[str, str], Document]:
    files = [path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"]
    return {(each["kind"], each["metadata"]["name"]): each for path in files for each in read_yaml(path)}


VERSIONS = {
    "ConfigMap": "v1", "Deployment": "apps/v1", "Job": "batch/v1", "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1", "PersistentVolumeClaim": "v1", "Pod": "v1", "Service": "v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}  # fmt: skip


def pods(documents: Mapping[tuple[str, str], Document]) -> Iterator[tuple[str, Document]]:
    for (kind, name), each in documents.items():
        if kind in ("Deployment", "Job"):
            yield name, each["spec"]["template"]["spec"]
        elif kind == "Pod":
            yield name, each["spec"]


def kustomization() -> Document:
    (document,) = read_yaml(KUBERNETES / "kustomization.yaml")
    return document


def test_each_object_has_its_kind_and_is_listed(kubernetes: Mapping[tuple[str, str], Document]) -> None:
    for (kind, name), each in kubernetes.items():
        assert each["apiVersion"] == VERSIONS[kind], name
    listed = set(kustomization()["resources"])
    apart = {"service-monitor.yaml", "ca-import.yaml", "kustomization.yaml"}
    assert listed == {path.name for path in KUBERNETES.glob("*.yaml")} - apart
    (generated,) = kustomization()["configMapGenerator"]
    assert generated["files"] == [Path(CONFIG).name]
    assert not load([KUBERNETES / Path(CONFIG).name]).warnings


def test_the_deployment_serves(kubernetes: Mapping[tuple[str, str], Document]) -> None:
    deployment = kubernetes["Deployment", "mirrortap"]["spec"]
    # One process tree has charge of a data folder.
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    found = serving(["mirrortap", *container["args"]])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert listens(found) == EVERYWHERE
    assert ports == {name: port for name, (_, port) in EVERYWHERE.items()}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert found["configs"] == (Path(mounts["config"]) / Path(CONFIG).name,)
    assert mounts["data"] == DATA
    assert not any(argument.startswith("--data") for argument in container["args"])
    assert pod["terminationGracePeriodSeconds"] > DRAIN
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert asked["path"] in PAGES
    assert container["image"] == f"registry.example.com/mirrortap:{__version__}"
    (image,) = kustomization()["images"]
    assert f"{image['name']}:{image['newTag']}" == container["image"]


def test_what_refers_to_something_finds_it(kubernetes: Mapping[tuple[str, str], Document]) -> None:
    deployment = kubernetes["Deployment", "mirrortap"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    service_ = kubernetes["Service", "mirrortap"]
    monitor = kubernetes["ServiceMonitor", "mirrortap"]["spec"]
    policy = kubernetes["NetworkPolicy", "mirrortap"]["spec"]
    ports = {port["name"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert service_["spec"]["selector"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert monitor["selector"]["matchLabels"].items() <= service_["metadata"]["labels"].items()
    assert {port["targetPort"] for port in service_["spec"]["ports"]} == ports
    assert {port["port"] for port in policy["ingress"][0]["ports"]} == ports
    assert {each["port"] for each in monitor["endpoints"]} <= {port["name"] for port in service_["spec"]["ports"]}
    assert {each["path"] for each in monitor["endpoints"]} <= PAGES
    # A selector would be for pods, and caches of names on nodes are none of the cluster's network.
    open_to_all = [port for each in policy["egress"] if "to" not in each for port in each["ports"]]
    assert [(port["port"], port.get("protocol", "TCP")) for port in open_to_all] == [
        (53, "UDP"),
        (53, "TCP"),
        (443, "TCP"),
    ]
    builders = kubernetes["Namespace", "builders"]["metadata"]["labels"]
    allowed = [each["namespaceSelector"]["matchLabels"] for each in policy["ingress"][0]["from"]]
    assert any(each.items() <= builders.items() for each in allowed)
    maps = {each["name"] for each in kustomization()["configMapGenerator"]} | {"mirrortap-ca"}
    for name, pod in pods(kubernetes):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes), name
        for volume in volumes.values():
            assert volume.get("configMap", {"name": "mirrortap-ca"})["name"] in maps
            claim = volume.get("persistentVolumeClaim", {"claimName": "mirrortap"})["claimName"]
            assert ("PersistentVolumeClaim", claim) in kubernetes


def test_no_pod_has_more_rights_than_it_needs(kubernetes: Mapping[tuple[str, str], Document]) -> None:
    for name, pod in pods(kubernetes):
        assert pod["automountServiceAccountToken"] is False, name
        assert "hostNetwork" not in pod, name
        for container in pod["containers"]:
            assert not container.get("securityContext", {}).get("privileged"), name
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+:v?\d[\w.-]+", container["image"]), name
            if "mirrortap" in name:
                # Pod Security Standards, "restricted".
                context = {**pod["securityContext"], **container["securityContext"]}
                assert context["runAsNonRoot"] is True
                assert context["readOnlyRootFilesystem"] is True
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert context["seccompProfile"] == {"type": "RuntimeDefault"}
                assert f"{context['runAsUser']}:{context['runAsGroup']}" == instructions("USER")[0]
                # Always would open the CA's keys to the group at each start.
                assert context["fsGroupChangePolicy"] == "OnRootMismatch"


def test_builders_in_the_cluster_have_the_proxy_and_the_ca(kubernetes: Mapping[tuple[str, str], Document]) -> None:
    where = kubernetes["Service", "mirrortap"]["metadata"]["name"]
    (port,) = [each["port"] for each in kubernetes["Service", "mirrortap"]["spec"]["ports"] if each["name"] == "proxy"]
    for name in "buildkitd", "kaniko":
        (container,) = kubernetes["Pod", name]["spec"]["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["HTTPS_PROXY"] == f"http://{where}.{kustomization()['namespace']}.svc:{port}"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        # As `kubectl create configmap ... --from-file=ca.crt` names it.
        assert variables["SSL_CERT_FILE"] == f"{mounts['ca']}/ca.crt"
    told = (DOCS / "kubernetes.md").read_text()
    assert "kubectl -n builders create configmap mirrortap-ca --from-file=ca.crt\n" in told


def test_the_job_that_imports_a_ca(kubernetes: Mapping[tuple[str, str], Document]) -> None:
    (container,) = kubernetes["Job", "mirrortap-ca-import"]["spec"]["template"]["spec"]["containers"]
    line = container["args"][0].splitlines()[-1]
    # click looks for the files, which are in the cluster: the options alone are held against it.
    options = {option for part in ca.commands["import"].params for option in part.opts}
    assert shlex.split(line)[:3] == ["mirrortap", "ca", "import"]
    assert {part for part in shlex.split(line) if part.startswith("--")} <= options


# --- GitHub Actions ---

# https://github.com/docker/setup-buildx-action/blob/v3/action.yml and .../build-push-action/blob/v6/action.yml
INPUTS = {
    "actions/checkout@v4": set(),
    "docker/setup-buildx-action@v3": {"driver", "driver-opts", "buildkitd-config-inline"},
    "docker/build-push-action@v6": {"context", "push"},
}


def test_the_workflow_has_the_builder_and_its_command_trust_the_proxy() -> None:
    (workflow,) = read_yaml(DEPLOY / "github-actions" / "buildx.yml")
    steps = workflow["jobs"]["build"]["steps"]
    for step in steps:
        assert set(step) <= {"name", "uses", "with", "env", "run"}
        assert set(step.get("with", ())) <= INPUTS.get(step.get("uses", ""), set())
    trust, buildx, build = steps[1:]
    assert workflow["env"]["MIRRORTAP"].endswith(f":{EVERYWHERE['proxy'][1]}")
    written = re.search(r'> "\$RUNNER_TEMP(/\S+)"', trust["run"])
    assert written
    ca = "${{ runner.temp }}" + written[1]
    assert buildx["with"]["buildkitd-config-inline"].splitlines() == ['[registry."docker.io"]', f'  ca = ["{ca}"]']
    options = buildx["with"]["driver-opts"].splitlines()
    assert options == [
        "env.HTTPS_PROXY=${{ env.MIRRORTAP }}",
        f"env.SSL_CERT_FILE=/etc/buildkit/certs/docker.io{written[1]}",
    ]
    assert build["env"]["HTTPS_PROXY"] == "${{ env.MIRRORTAP }}"
    assert build["env"]["SSL_CERT_FILE"] == ca


# --- logs ---


@needs("logrotate")
def test_logrotate_understands_its_file(tmp_path: Path) -> None:
    # What it is not to rotate, and whose file this is, it looks at before it says what it would do.
    copied = tmp_path / "mirrortap"
    copied.write_text((DEPLOY / "logrotate" / "mirrortap").read_text())
    copied.chmod(0o644)
    told = subprocess.run(
        ["logrotate", "--debug", "--state", tmp_path / "state", copied], capture_output=True, text=True, check=True
    ).stderr
    assert "error" not in told.lower()
    assert "/var/log/mirrortap/*.log" in told
    assert "(14 rotations)" in told
    assert "copytruncate" in copied.read_text()
