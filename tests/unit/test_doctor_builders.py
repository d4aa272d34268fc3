"""What builders' own settings say, below the root of a scratch machine, and who is to blame for what is missing."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from addon.doctor import processes, settings
from addon.doctor.builders import Machine, look, shell
from addon.doctor.processes import Process

if TYPE_CHECKING:
    from addon.doctor.builders import Builder
    from addon.doctor.remedies import Kind

PROXY = "http://proxy.test:3128"
HAS = {"HTTPS_PROXY": PROXY}


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "home").mkdir()
    return Machine({}, tmp_path / "home", tmp_path, network="net:[1]")


def process(name: str, root: Path, *arguments: str, **environment: str) -> Process:
    return Process(7, name, (name, *arguments), environment, root, "net:[1]")


def codes(builder: Builder) -> list[str]:
    return [each.code for each in builder.findings if each.code]


def test_an_environment_of_systemd(tmp_path: Path) -> None:
    """In the order of systemd.unit(5), with its quotes, resets and files."""
    folder = tmp_path / "etc/systemd/system/docker.service.d"
    put(tmp_path / "usr/lib/systemd/system/docker.service", "[Service]\nEnvironment=A=unit B=unit\n")
    put(tmp_path / "usr/lib/systemd/system/docker.service.d/20.conf", "[Service]\nEnvironment=A=shadowed\n")
    first = put(folder / "10.conf", '[Service]\nEnvironment="C=with space" D=50%%\n# Environment=E=1\n')
    put(folder / "20.conf", "[Service]\nEnvironmentFile=-/etc/default/docker\n")
    put(folder / "30.txt", "[Service]\nEnvironment=F=1\n")
    put(tmp_path / "etc/default/docker", '# text\nG="quoted"\n')
    found, said = settings.of_unit(tmp_path, "docker")
    assert found == {"A": "unit", "B": "unit", "C": "with space", "D": "50%", "G": "quoted"}
    assert first in said
    put(folder / "40.conf", "[Service]\nEnvironment=\nEnvironment=H=1 \\\nI=2\n")
    assert settings.of_unit(tmp_path, "docker")[0] == {"H": "1", "I": "2"}
    put(folder / "50.conf", '[Service]\nEnvironment="unfinished\n')
    assert settings.of_unit(tmp_path, "docker")[0] == {"H": "1", "I": "2"}
    assert settings.of_unit(tmp_path, "containerd") == ({}, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"proxies": 3}', '{"proxies": {"https-proxy": 3, "default": []}}'])
def test_settings_that_are_none(tmp_path: Path, text: str) -> None:
    file = put(tmp_path / "file", text)
    assert settings.of_daemon_json(file) == settings.of_docker_client(file) == {}
    assert settings.of_containers_conf([file, tmp_path / "gone"]) == {}
    assert settings.cas_of_buildkitd(file, "docker.io") == []


@pytest.mark.parametrize("kind", ["dockerd", "containerd"])
def test_the_daemon_lacks_what_the_shell_has(machine: Machine, kind: Kind) -> None:
    machine = replace(machine, environment=HAS, processes=(process(kind, machine.root),))
    builder = look(kind, machine, "docker.io", PROXY)
    assert codes(builder) == ["not-the-daemon"]
    assert "this shell (HTTPS_PROXY)" in builder.findings[-1].what
    assert f"Environment=HTTPS_PROXY={PROXY}" in builder.findings[-1].remedy
    assert codes(look(kind, replace(machine, environment={}), "docker.io", PROXY)) == ["no-variable"]
    good = replace(machine, processes=(process(kind, machine.root, **HAS),))
    assert codes(look(kind, good, "docker.io", PROXY)) == []


def test_of_several_daemons_the_one_that_lacks_it_counts(machine: Machine) -> None:
    several = (process("containerd", machine.root, **HAS), process("containerd", machine.root))
    assert codes(look("containerd", replace(machine, processes=several), "docker.io", PROXY)) == ["no-variable"]


def test_the_docker_clients_settings_are_not_the_daemons(machine: Machine) -> None:
    file = put(machine.root / "home/.docker/config.json", json.dumps({"proxies": {"default": {"httpsProxy": PROXY}}}))
    machine = replace(machine, processes=(process("dockerd", machine.root),))
    builder = look("dockerd", machine, "docker.io", PROXY)
    assert codes(builder) == ["not-the-daemon"]
    assert str(file) in builder.findings[-1].what


def test_a_drop_in_that_came_after_the_start(machine: Machine) -> None:
    put(machine.root / "etc/systemd/system/docker.service.d/p.conf", f"[Service]\nEnvironment=HTTPS_PROXY={PROXY}\n")
    # It will have it when it is started.
    stopped = look("dockerd", machine, "docker.io", PROXY)
    assert codes(stopped) == ["not-seen"]
    assert stopped.environment == HAS
    running = look("dockerd", replace(machine, processes=(process("dockerd", machine.root),)), "docker.io", PROXY)
    assert codes(running) == ["not-restarted"]
    assert "systemctl restart docker" in running.findings[-1].remedy


def test_dockerds_settings_count_for_more(machine: Machine) -> None:
    put(machine.root / "etc/docker/daemon.json", json.dumps({"proxies": {"https-proxy": PROXY, "no-proxy": "x"}}))
    other = put(machine.root / "other.json", json.dumps({"proxies": {"https-proxy": "http://other.test:1"}}))

    def environment(*arguments: str, **own: str) -> dict[str, str]:
        daemon = process("dockerd", machine.root, *arguments, **own)
        return dict(look("dockerd", replace(machine, processes=(daemon,)), "docker.io", PROXY).environment)

    assert environment(HTTPS_PROXY="http://own.test:1") == {**HAS, "NO_PROXY": "x"}
    assert environment(f"--config-file=/{other.name}") == {"HTTPS_PROXY": "http://other.test:1"}
    assert environment("--https-proxy", "http://option.test:1")["HTTPS_PROXY"] == "http://option.test:1"


@pytest.mark.parametrize("kind", ["dockerd", "containerd", "buildkit"])
def test_a_builder_that_is_not_here(machine: Machine, kind: Kind) -> None:
    builder = look(kind, replace(machine, environment=HAS), "docker.io", PROXY)
    assert codes(builder) == ["not-seen"]
    # On with what there is.
    assert builder.environment == HAS
    hidden = replace(process(f"{kind}d".replace("dd", "d"), machine.root), environment=None)
    seen = look(kind, replace(machine, processes=(hidden,)), "docker.io", PROXY)
    assert codes(seen) == ["not-seen"]
    assert f"sudo mirrortap doctor --builder {kind}" in seen.findings[-1].remedy


def test_podman_has_its_own_environment_and_settings(machine: Machine) -> None:
    assert dict(look("podman", machine, "docker.io", PROXY).environment) == {}
    put(machine.root / "etc/containers/containers.conf", '[engine]\nenv = ["HTTPS_PROXY=http://old.test:1", "X=1"]\n')
    put(machine.root / "etc/containers/containers.conf.d/1.conf", f'[engine]\nenv = ["HTTPS_PROXY={PROXY}"]\n')
    assert look("podman", machine, "docker.io", PROXY).environment == {**HAS, "X": "1"}
    named = put(machine.root / "named.conf", "[engine]\n")
    machine = replace(machine, environment={"CONTAINERS_CONF": str(named)})
    assert "HTTPS_PROXY" not in look("podman", machine, "docker.io", PROXY).environment


def test_the_cas_that_each_reads(machine: Machine) -> None:
    root = machine.root
    system = put(root / "etc/ssl/certs/ca-certificates.crt")
    docker = put(root / "etc/docker/certs.d/quay.io/ca.crt")
    containers = put(root / "etc/containers/certs.d/docker.io/ca.crt")
    own = put(machine.root / "home/.config/containers/certs.d/quay.io/ca.crt")
    containerd = put(root / "etc/containerd/certs.d/docker.io/ca.pem")
    ca = put(root / "etc/certs/docker.io.crt")
    put(root / "etc/buildkit/buildkitd.toml", '[registry."docker.io"]\nca = ["/etc/certs/docker.io.crt"]\n')
    for other in "etc/docker/certs.d/quay.io/ca.key", "etc/docker/certs.d/docker.io/ca.crt":
        put(root / other)
    daemons = tuple(process(name, root, **HAS) for name in ("dockerd", "containerd", "buildkitd"))
    machine = replace(machine, processes=daemons)

    def reads(kind: Kind, registry: str) -> set[Path]:
        return set(look(kind, machine, registry, PROXY).files) - {system}

    assert set(shell(machine).files) == {system}
    # dockerd does not look there for Docker Hub.
    assert reads("dockerd", "docker.io") == set()
    assert reads("dockerd", "quay.io") == {docker}
    assert reads("containerd", "docker.io") == {containerd}
    assert reads("buildkit", "docker.io") == {ca}
    assert reads("podman", "docker.io") == {containers}
    # The first that has a folder for the registry.
    assert reads("podman", "quay.io") == {own}


def test_a_container_has_a_network_of_its_own(machine: Machine) -> None:
    inside = replace(process("buildkitd", machine.root, **HAS), network="net:[2]")
    assert look("buildkit", replace(machine, processes=(inside,)), "docker.io", PROXY).elsewhere
    beside = process("buildkitd", machine.root, **HAS)
    assert not look("buildkit", replace(machine, processes=(beside,)), "docker.io", PROXY).elsewhere


def test_a_process_as_the_kernel_shows_it() -> None:
    found = processes.process(os.getpid())
    assert found
    assert found.environment
    assert found.environment["PATH"]
    assert found.root == Path("/")
    assert found.network == os.readlink("/proc/self/ns/net")
    assert found.pid in [each.pid for each in processes.running()]
    assert processes.process(2**22 + 1) is None


def test_options_of_a_process(tmp_path: Path) -> None:
    daemon = process("dockerd", tmp_path, "--config-file=/a", "--https-proxy", "b", "--last")
    assert daemon.option("--config-file") == "/a"
    assert daemon.option("--https-proxy") == "b"
    assert daemon.option("--last") == ""
    assert daemon.option("--config") is None


def test_who_listens() -> None:
    """Also where a lower descriptor vanishes while they are gone through: that by which they are listed."""
    lower = os.open("/", os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        os.close(lower)
        holder = processes.listener(listening.getsockname()[1])
        with socket.create_connection(listening.getsockname()) as connection:
            assert processes.listener(connection.getsockname()[1]) is None
    assert holder
    assert holder.pid == os.getpid()
