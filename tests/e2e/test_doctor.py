"""`mirrortap doctor` on set-ups that are really broken, each in one way: what it calls that, and what it says to do.

The proxy, its registries and the builders are real; so is every fault.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.access import Policy, basic
from support.auth import BasicAuth, BearerAuth
from support.config import toml
from support.faults import Challenge, Headers, Status
from support.images import Image, make_image
from support.processes import clean_env, needs, run
from support.proxy import ROOT, serve
from support.registry import FakeRegistry
from support.threads import LoopThread

from addon.cache.reference import Reference
from addon.cli import main
from addon.doctor.builders import Machine
from addon.doctor.examination import Wish, examine
from addon.doctor.processes import Process
from ca.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.proxy import Proxy

GOOD = "docker.io/library/app:1.0"
ALICE = basic("alice", "wonder-land")
DOWN = "127.0.0.1:1"


@dataclass(frozen=True)
class Ward:
    """A proxy in front of registries, each with what a case needs; `found` gives what the doctor says of an image."""

    proxy: Proxy
    config: Path
    registries: dict[str, FakeRegistry]
    image: Image

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Of a builder on which all is well."""
        return clean_env(home, **{"HTTPS_PROXY": self.proxy.url, "SSL_CERT_FILE": str(self.proxy.ca), **more})


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    image = make_image(folder / "image", seed=9)
    policy = Policy(users={"alice": "wonder-land"}, private={"library/app": {"alice"}})
    origins = {
        "late.test": FakeRegistry(),
        "limited.test": FakeRegistry(),
        "private.test": FakeRegistry(auth=BearerAuth(policy)),
        "basic.test": FakeRegistry(auth=BasicAuth(policy)),
    }
    mirror = FakeRegistry()
    with ExitStack() as stack:
        loop = stack.enter_context(LoopThread())
        for registry in (mirror, *origins.values()):
            loop.enter(registry)
            loop.run(_added(registry, image))
        spent = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600", "Retry-After": "900"}
        origins["limited.test"].inject(Status(429, spent), kind="manifest")
        wrong = format_datetime(datetime.now(UTC) + timedelta(hours=3), usegmt=True)
        origins["late.test"].inject(Headers({"Date": wrong}), kind="ping")
        tables: dict[str, Any] = {
            "docker.io": {"mirrors": [mirror.endpoint], "fallback": False},
            "down.test": {"mirrors": [DOWN], "fallback": False},
            "lost.test": {"mirrors": ["nobody.test"], "fallback": False},
            **{name: {"server": registry.url} for name, registry in origins.items()},
            **{registry.endpoint: {"http": True} for registry in (mirror, *origins.values())},
        }
        proxy = stack.enter_context(serve(folder / "proxy", toml(tables)))
        yield Ward(proxy, folder / "proxy/mirrortap.toml", {"docker.io": mirror, **origins}, image)


async def _added(registry: FakeRegistry, image: Image) -> None:
    registry.add(image, "library/app", "1.0")


def told(environment: dict[str, str], *arguments: str | Path, fails: bool = True) -> dict[str, dict[str, Any]]:
    """What `mirrortap doctor` finds wrong in an environment, by code."""
    without = dict.fromkeys(os.environ)
    done = CliRunner(env={**without, **environment}).invoke(main, ["doctor", "--json", *map(str, arguments)])
    assert done.exit_code == (1 if fails else 0), done.output
    return {each["code"]: each for each in json.loads(done.stdout)["findings"] if each["code"]}


def told_by(clock: str, environment: dict[str, str], *arguments: str | Path) -> dict[str, dict[str, Any]]:
    """The same on a builder whose clock is off by that much, in faketime's terms."""
    doctor = [sys.executable, "-m", "addon.cli", "doctor", "--json", *arguments]
    done = run(["faketime", "--exclude-monotonic", "-f", clock, *doctor], env=environment, cwd=ROOT, check=False)
    return {each["code"]: each for each in json.loads(done.stdout)["findings"] if each["code"]}


def test_on_a_healthy_set_up_there_is_nothing_to_say(ward: Ward, tmp_path: Path) -> None:
    on_its_machine = ("--data", ward.proxy.data, "--config", ward.config)
    assert told(ward.environment(tmp_path), GOOD, *on_its_machine, fails=False) == {}
    # For people, on a narrow terminal and without one.
    environment = {**dict.fromkeys(os.environ), **ward.environment(tmp_path, COLUMNS="40")}
    done = CliRunner(env=environment).invoke(main, ["doctor", "app:1.0", "--data", str(ward.proxy.data)])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 40
    assert "ok second time: a hit" in done.stdout
    assert "What to do" not in done.stdout
    assert "\x1b" not in done.stdout


def test_a_builder_that_trusts_an_older_mirrortap(ward: Ward, tmp_path: Path) -> None:
    old = Authority.open(tmp_path / "ca", ["docker.io"])
    finding = told(ward.environment(tmp_path / "home", SSL_CERT_FILE=str(old.root_path)), GOOD)["wrong-ca"]
    assert str(old.root_path) in finding["what"]
    assert old.fingerprint[:20] in finding["what"]
    assert f"{ward.proxy.url}/ca.crt" in finding["remedy"]
    assert f"take the old one out of {old.root_path}" in finding["remedy"]


def test_a_builder_that_trusts_no_mirrortap(ward: Ward, tmp_path: Path) -> None:
    environment = ward.environment(tmp_path, SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt")
    assert f"mirrortap trust system --proxy {ward.proxy.url}" in told(environment, GOOD)["no-ca"]["remedy"]
    assert told(environment, GOOD, "--ca", ward.proxy.ca, fails=False) == {}
    gone = told(ward.environment(tmp_path, SSL_CERT_FILE=str(tmp_path / "gone.crt")), GOOD)
    assert list(gone) == ["ca-file", "no-ca"]


@needs("containerd", "unshare")
@pytest.mark.parametrize("has_it", [False, True])
def test_the_variable_is_in_the_shell_and_not_in_the_daemon(ward: Ward, tmp_path: Path, has_it: bool) -> None:
    """A real containerd, the only one among the processes of a namespace of its own."""
    settings = tmp_path / "config.toml"
    settings.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{tmp_path}/socket"\n'
    )
    script = (
        f"{'' if has_it else 'env -u HTTPS_PROXY '}containerd --config {settings} >/dev/null 2>&1 &\n"
        "until grep -qx containerd /proc/$!/comm; do :; done\n"
        f"exec {sys.executable} -m addon.cli doctor --builder containerd --json {GOOD}\n"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    done = run(command, env=ward.environment(tmp_path / "home"), cwd=ROOT, check=False)
    found = {each["code"]: each for each in json.loads(done.stdout)["findings"] if each["code"]}
    if has_it:
        assert found == {}
        return
    assert done.returncode == 1
    assert list(found) == ["not-the-daemon"]
    assert "this shell (HTTPS_PROXY)" in found["not-the-daemon"]["what"]
    remedy = found["not-the-daemon"]["remedy"]
    assert f"Environment=HTTPS_PROXY={ward.proxy.url}" in remedy
    assert "/etc/systemd/system/containerd.service.d/mirrortap.conf" in remedy
    assert "systemctl restart containerd" in remedy


class Clock:
    """That of a program which runs with this `environment`; it can be set meanwhile. In faketime's terms."""

    def __init__(self, folder: Path, time: str) -> None:
        self._file = folder / "clock"
        library = run(["faketime", "-f", time, "printenv", "LD_PRELOAD"], env=clean_env(folder / "home")).stdout.strip()
        self.environment: dict[str, Any] = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.set(time)

    def set(self, time: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(time)
        new.replace(self._file)  # it is read at every look at the clock, and must never be empty


@needs("faketime")
def test_a_proxys_clock_is_off(ward: Ward, tmp_path: Path) -> None:
    """It starts by one that is late, and that is set again and again while it runs."""
    private, mirror = (ward.registries[name] for name in ("private.test", "docker.io"))
    tables: dict[str, Any] = {
        "private.test": {"server": private.url},
        "docker.io": {"mirrors": [mirror.endpoint], "fallback": False},
        **{registry.endpoint: {"http": True} for registry in (private, mirror)},
    }
    image = "private.test/library/app:1.0"
    clock = Clock(tmp_path, "-14d")
    with serve(tmp_path / "proxy", toml(tables, {"leaf-life": "20s"}), **clock.environment) as proxy:
        environment = clean_env(tmp_path / "home", HTTPS_PROXY=proxy.url, SSL_CERT_FILE=str(proxy.ca))
        late = told(environment, image)
        # Nobody else is asked: two clocks, and it cannot be known which of them is right.
        alone = told(environment, GOOD)
        clock.set("+14d")
        early = told(environment, image)
        clock.set("-30d")
        before_its_ca = told(environment, GOOD)
        clock.set("-40s")
        expired = told(environment, GOOD)
        clock.set("+0")
        assert told(environment, GOOD, fails=False) == {}
    assert list(late) == list(early) == list(alone) == list(before_its_ca) == ["clock"]
    assert "certificate has expired" in late["clock"]["what"]
    assert "the proxy is the odd one out: its clock is 14 days behind this machine's" in late["clock"]["what"]
    assert "On the proxy's machine, set the clock:\n  timedatectl set-ntp true" in late["clock"]["remedy"]
    assert "not yet valid" in early["clock"]["what"]
    assert "the proxy is the odd one out: its clock is 14 days ahead of this machine's" in early["clock"]["what"]
    assert "the proxy and this machine do not agree" in alone["clock"]["what"]
    assert alone["clock"]["remedy"].startswith("See whose is wrong")
    assert "the connection was closed" in before_its_ca["clock"]["what"]
    assert "its clock is 30 days behind this machine's" in before_its_ca["clock"]["what"]
    # A leaf that lives shorter than clocks differ that are not called off.
    assert list(expired) == ["leaf-expired"]
    assert "certificate has expired" in expired["leaf-expired"]["what"]
    assert "look at its clock and at its CA" in expired["leaf-expired"]["remedy"]
    assert "mirrortap ca show" in expired["leaf-expired"]["remedy"]


def test_every_mirror_is_down(ward: Ward, tmp_path: Path) -> None:
    image = "down.test/library/app:1.0"
    found = told(ward.environment(tmp_path), image, "--data", ward.proxy.data, "--config", ward.config)
    assert list(found) == ["mirror-down", "endpoint"]
    assert f"{DOWN}: Connection refused" in found["mirror-down"]["what"]
    assert f"{DOWN}: start it" in found["mirror-down"]["remedy"]
    assert "mirrortap config check" in found["mirror-down"]["remedy"]
    assert "nothing listens there" in found["endpoint"]["what"]


def test_names_that_dns_does_not_know(ward: Ward, tmp_path: Path) -> None:
    """That of an endpoint, as the proxy's machine looks it up, and that of the proxy."""
    finding = told(ward.environment(tmp_path), "lost.test/library/app:1.0")["dns"]
    assert "nobody.test: DNS: nobody.test is not known" in finding["what"]
    assert "getent hosts nobody.test" in finding["remedy"]
    assert "On the proxy's machine" in finding["remedy"]
    found = told(ward.environment(tmp_path, HTTPS_PROXY="http://nobody.test:3128"), GOOD)
    assert list(found) == ["dns"]
    assert "getent hosts nobody.test" in found["dns"]["remedy"]
    assert "proxy variable" in found["dns"]["remedy"]


def test_a_registrys_clock_is_off(ward: Ward, tmp_path: Path) -> None:
    """Or that of the machine on which both the builder and the proxy are: they go by one clock."""
    found = told(ward.environment(tmp_path), "late.test/library/app:1.0", fails=False)
    assert list(found) == ["clock"]
    assert "the registry does not agree with this machine, where the proxy is as well" in found["clock"]["what"]
    assert "its clock is 3 hours ahead" in found["clock"]["what"]
    assert found["clock"]["remedy"].startswith("Set this machine's clock")
    assert "whoever runs the registry" in found["clock"]["remedy"]


@needs("faketime")
@pytest.mark.parametrize(("clock", "off"), [("+400d", "400 days behind"), ("-30d", "30 days ahead of")])
def test_a_builders_clock_is_off(ward: Ward, tmp_path: Path, clock: str, off: str) -> None:
    """That of the builder alone, to which certificates are bad that are good."""
    found = told_by(clock, ward.environment(tmp_path), "private.test/library/app:1.0", "--data", ward.proxy.data)
    assert list(found) == ["clock", "ca-broken"]
    assert f"the proxy and the registry agree, and this machine does not: its clock is {off}" in found["clock"]["what"]
    assert found["clock"]["remedy"].startswith("Set this machine's clock")
    assert "timedatectl set-ntp true" in found["clock"]["remedy"]
    # What was issued by such a clock would be bad as soon as that is right.
    assert "mirrortap ca renew" not in found["ca-broken"]["remedy"]
    assert "a clock that is in doubt" in found["ca-broken"]["remedy"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=16M", "none", folder], env=clean_env(tmp_path / "home"))
    yield folder
    run(["umount", "--lazy", folder], env=clean_env(tmp_path / "home"))


def test_the_caches_disk_is_full(ward: Ward, disk: Path, tmp_path: Path) -> None:
    mirror = ward.registries["docker.io"].endpoint
    tables: dict[str, Any] = {"docker.io": {"mirrors": [mirror], "fallback": False}, mirror: {"http": True}}
    with serve(tmp_path / "proxy", toml(tables), data=disk / "data") as proxy:
        environment = clean_env(tmp_path / "home", HTTPS_PROXY=proxy.url, SSL_CERT_FILE=str(proxy.ca))
        with (disk / "hog").open("wb", buffering=0) as hog, suppress(OSError):
            while hog.write(bytes(4096)):
                pass
        finding = told(environment, GOOD, "--data", proxy.data)["disk-full"]
    assert f"at {proxy.cache}" in finding["what"]
    assert f"df -h {proxy.cache}" in finding["remedy"]
    assert "cache-size" in finding["remedy"]


def test_the_quota_is_used_up(ward: Ward, tmp_path: Path) -> None:
    found = told(ward.environment(tmp_path), "limited.test/library/app:1.0")
    assert list(found) == ["quota"]
    assert "0 of 100 requests left in 6 hours" in found["quota"]["what"]
    assert "asked again in 900 s" in found["quota"]["what"]
    for line in "docker login limited.test", '[registry."limited.test".auth]', "mirrors = ":
        assert line in found["quota"]["remedy"]


@pytest.mark.parametrize("registry", ["private.test", "basic.test"])
def test_logins(ward: Ward, tmp_path: Path, registry: str) -> None:
    """A wrong password, and none, are two things; with the right one all is well."""
    image, file = f"{registry}/library/app:1.0", tmp_path / ".docker/config.json"
    environment = ward.environment(tmp_path)
    assert f"docker login {registry}" in told(environment, image)["login"]["remedy"]
    file.parent.mkdir()

    def log_in(authorization: str) -> None:
        file.write_text(json.dumps({"auths": {registry: {"auth": authorization.removeprefix("Basic ")}}}))

    log_in(basic("alice", "w0nder-land"))
    found = told(environment, image)
    assert list(found) == ["password"]
    assert f"alice in {file}" in found["password"]["what"]
    assert f"docker login {registry}" in found["password"]["remedy"]
    assert "w0nder-land" not in json.dumps(found)
    log_in(ALICE)
    assert told(environment, image, fails=False) == {}


def test_a_password_is_not_shown_to_a_token_server_without_https(ward: Ward, tmp_path: Path) -> None:
    elsewhere = Challenge('Bearer realm="http://tokens.test/token",service="fake"')
    ward.registries["private.test"].inject(elsewhere, kind="ping", times=1)
    file = tmp_path / ".docker/config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"auths": {"private.test": {"auth": ALICE.removeprefix("Basic ")}}}))
    found = told(ward.environment(tmp_path), "private.test/library/app:1.0")
    assert list(found) == ["registry"]
    assert "a token server without https (tokens.test)" in found["registry"]["what"]


def test_a_builder_in_a_container_is_told_of_itself(ward: Ward, tmp_path: Path) -> None:
    environment = ward.environment(tmp_path)
    inside = Process(1, "buildkitd", ("buildkitd",), environment, Path("/"), "net:[2]")
    machine = Machine({}, tmp_path, processes=(inside,), network="net:[1]")
    found = list(examine(Wish(Reference.parse(GOOD), tmp_path / "none", kind="buildkit"), machine))
    (wrong,) = [each for each in found if each.code]
    assert (wrong.verdict, wrong.code) == ("failed", "loopback")
    assert "127.0.0.1 is the container itself" in wrong.what
    assert "--listen" in wrong.remedy


def test_something_else_has_the_port(ward: Ward, tmp_path: Path) -> None:
    """A web server, and something that is none: `mirrortap serve` cannot have that port."""
    registry = ward.registries["docker.io"]
    found = told(ward.environment(tmp_path, HTTPS_PROXY=registry.url), GOOD)
    assert list(found) == ["port-taken"]
    assert f"(pid {os.getpid()})" in found["port-taken"]["what"]
    assert "HTTP 404" in found["port-taken"]["what"]
    assert "mirrortap serve --listen" in found["port-taken"]["remedy"]
    with talker(b"SSH-2.0-OpenSSH_9.2\r\n") as url:
        assert "it does not speak http" in told(ward.environment(tmp_path, HTTPS_PROXY=url), GOOD)["port-taken"]["what"]
        listen = ["serve", "--listen", url.removeprefix("http://"), "--data", str(tmp_path / "data")]
        assert "Address already in use" in CliRunner().invoke(main, listen).output


@contextmanager
def talker(banner: bytes) -> Iterator[str]:
    """Something that speaks first, to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.sendall(banner)
                    while connection.recv(1000):
                        pass

        threading.Thread(target=speak, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_a_proxy_that_does_not_let_one_in(tmp_path: Path) -> None:
    """Without a login, with a wrong one, and, after an edit of its configuration, not from this address."""
    (tmp_path / "users").write_text("bob:$2b$04$2IiJDyAW2zQ0DRu1v1z2AezYJDqg7bWDXcmqgkn5OlLJ4ZrR.2bmm\n")
    users = {"proxy-users": tmp_path / "users"}
    with serve(tmp_path / "proxy", toml({}, users)) as proxy:
        environment = clean_env(tmp_path / "home", HTTPS_PROXY=proxy.url, SSL_CERT_FILE=str(proxy.ca))
        finding = told(environment, GOOD)["proxy-login"]
        assert "wants a login" in finding["what"]
        assert f"HTTPS_PROXY=http://USER:PASSWORD@{proxy.host}:{proxy.port}" in finding["remedy"]
        environment["HTTPS_PROXY"] = f"http://bob:s3cret@{proxy.host}:{proxy.port}"
        wrong = told(environment, GOOD)
        config = tmp_path / "proxy/mirrortap.toml"
        config.write_text(toml({}, {**users, "allow-clients": ["192.0.2.0/24"]}))
        proxy.log.wait_for("the configuration has changed")
        turned_away = told(environment, GOOD)
    assert "does not know this user or password" in wrong["proxy-login"]["what"]
    assert "s3cret" not in json.dumps(wrong)
    assert list(turned_away) == ["turned-away"]
    assert "allow-clients = " in turned_away["turned-away"]["remedy"]


def test_no_proxy_at_all(ward: Ward, tmp_path: Path) -> None:
    environment = ward.environment(tmp_path)
    del environment["HTTPS_PROXY"]
    assert "export HTTPS_PROXY=" in told({**environment, "HTTP_PROXY": "http://x:1"}, GOOD)["no-variable"]["remedy"]
    # On its own machine the proxy is found without it.
    assert told(environment, GOOD, "--data", ward.proxy.data, fails=False) == {}
    past = told({**environment, "HTTPS_PROXY": ward.proxy.url, "NO_PROXY": "corp.test,.docker.io"}, GOOD)
    assert "Take .docker.io out of NO_PROXY" in past["past-the-proxy"]["remedy"]
    nowhere = told({**environment, "HTTPS_PROXY": "http://255.255.255.255:3128"}, GOOD)
    assert list(nowhere) == ["unreachable"]
    nobody = told(ward.environment(tmp_path, HTTPS_PROXY=f"http://{DOWN}"), GOOD, "--data", ward.proxy.data)
    assert f"export HTTPS_PROXY={ward.proxy.url}" in nobody["nothing-listens"]["remedy"]
