"""Who is asked, in which order: what dockerd and its BuildKit do with a file, against what the engine does with it.

All servers answer 404, so that one pull that fails shows the whole order. What is compared is which manifest was asked
for where (scheme, host, path, query); how often and by which method is each program's own affair.

Not to be had from dockerd's BuildKit, which takes its settings from daemon.json, and for which there must be a
buildkitd: mirrors of other registries than docker.io, mirrors with a path, `ca`, `keypair` and `tlsconfigdir` in the
file, and `http = false` for a loopback address.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from engine.harness import Proxy, manifest
from support.config import toml
from support.island import Island, Witness
from support.processes import needs
from support.programs import dockerd

from addon.config.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.certificates import Authority
    from support.config import Table
    from support.programs import Dockerd

pytestmark = needs("dockerd", "docker", "containerd", "runc", "ip", "mount")

HOSTS = {
    "localhost": "127.0.0.1",
    "registry-1.docker.io": "192.0.2.1",
    "mirror.gcr.io": "192.0.2.2",
    "quay.io": "192.0.2.3",
    "one.test": "192.0.2.11",
    "two.test": "192.0.2.12",
    "plain.test": "192.0.2.13",
    "both.test": "192.0.2.14",
    "gone.test": "192.0.2.15",
    "unknown-ca.test": "198.51.100.1",
}
HUB = "https://registry-1.docker.io"

Asked = list[tuple[str, str, str]]  # endpoint, path, query


@dataclass(frozen=True)
class Case:
    name: str
    file: Any  # daemon.json
    registry: str = "docker.io"
    # What the engine asks where it is not what dockerd asks, and why that is meant to be so.
    instead: list[str] | None = None
    why: str = ""
    refusal: str = ""  # what dockerd says to the file
    toml: dict[str, Table] = field(default_factory=dict)  # the same for BuildKit

    @property
    def repository(self) -> str:
        # Its own in each case, to know it by where several run at once.
        return f"{'built' if self.toml else 'pulled'}/{self.name.replace(' ', '-')}"

    @property
    def references(self) -> tuple[str, str]:
        return "1.0", f"sha256:{hashlib.sha256(self.name.encode()).hexdigest()}"


def mirrors(*urls: str, insecure: tuple[str, ...] = ()) -> dict[str, list[str]]:
    return {"registry-mirrors": list(urls), **({"insecure-registries": list(insecure)} if insecure else {})}


UNKNOWN_CA = "https://unknown-ca.test"
DOCKERD = [
    Case(
        "nothing said",
        {},
        instead=["https://mirror.gcr.io?ns=docker.io", HUB],
        why="mirror.gcr.io is the engine's own for Docker Hub, until a file says something of Docker Hub's mirrors",
    ),
    Case("no mirrors", mirrors()),
    Case("one", mirrors("http://one.test")),
    Case("two in order", mirrors("https://two.test", "http://one.test")),
    Case("two in the other order", mirrors("http://one.test", "https://two.test")),
    Case("twice the same", mirrors("http://one.test/", "http://two.test", "http://one.test")),
    Case("nobody there", mirrors("http://gone.test:5000", "http://one.test")),
    Case("unknown ca", mirrors(UNKNOWN_CA)),
    Case("unknown ca but insecure", mirrors(UNKNOWN_CA, "http://one.test", insecure=("unknown-ca.test",))),
    Case("insecure with a scheme", mirrors(UNKNOWN_CA, insecure=("https://unknown-ca.test",))),
    Case("another port is insecure", mirrors(UNKNOWN_CA, insecure=("unknown-ca.test:5000",))),
    Case("insecure with a port", mirrors(f"{UNKNOWN_CA}:5000", insecure=("unknown-ca.test:5000",))),
    Case("in an insecure network", mirrors(UNKNOWN_CA, insecure=("10.0.0.0/8", "198.51.100.77/24"))),
    Case("in no insecure network", mirrors(UNKNOWN_CA, insecure=("198.51.100.128/25", "fd00::/8"))),
    Case("loopback is insecure", mirrors("https://127.0.0.1:5443")),
    Case("a name on loopback is insecure", mirrors("https://localhost:5443")),
    Case("https of a plain one stays https", mirrors("https://plain.test:5000", insecure=("plain.test:5000",))),
    Case("http of a mirror with tls stays http", mirrors("http://both.test:5000", insecure=("both.test:5000",))),
    Case("other registries have no mirrors", mirrors("http://one.test"), registry="quay.io"),
    Case("insecure registry", mirrors(insecure=("unknown-ca.test",)), registry="unknown-ca.test"),
    Case("insecure plain registry", mirrors(insecure=("plain.test:5000",)), registry="plain.test:5000"),
    Case(
        "insecure registry with tls and without",
        mirrors(insecure=("both.test:5000",)),
        registry="both.test:5000",
    ),
    Case(
        "a path",
        mirrors("http://one.test/some/Path"),
        instead=["http://one.test/some/Path", HUB],
        why="dockerd takes it since 24.0.8 (moby pull request 46594)",
        refusal="invalid mirror",
    ),
    Case(
        "a map",
        {"registries": {"docker.io": ["http://two.test"]}, "registry-mirrors": ["http://one.test"]},
        instead=["http://two.test", "http://one.test", HUB],
        why="it is from Watchtower's documentation; dockerd does not know it",
        refusal="docker.io",
    ),
]

BUILDKIT = [
    Case("no mirrors", mirrors(), toml={"docker.io": {}}),
    Case(
        "plain",
        mirrors("http://one.test", insecure=("http://one.test",)),
        toml={"docker.io": {"mirrors": ["one.test"]}, "one.test": {"http": True}},
    ),
    Case(
        "two in order",
        mirrors("https://two.test", "http://one.test", insecure=("http://one.test",)),
        toml={"docker.io": {"mirrors": ["two.test", "one.test"]}, "one.test": {"http": True}},
    ),
    Case(
        "two in the other order",
        mirrors("https://one.test", "https://two.test"),
        toml={"docker.io": {"mirrors": ["one.test", "two.test"]}},
    ),
    Case("loopback is plain", mirrors("http://127.0.0.1:5000"), toml={"docker.io": {"mirrors": ["127.0.0.1:5000"]}}),
    Case(
        "nobody there",
        mirrors("https://gone.test:5000", "https://two.test"),
        toml={"docker.io": {"mirrors": ["gone.test:5000", "two.test"]}},
    ),
    Case("unknown ca", mirrors(UNKNOWN_CA), toml={"docker.io": {"mirrors": ["unknown-ca.test"]}}),
    Case(
        "unknown ca but insecure",
        mirrors(UNKNOWN_CA, insecure=(UNKNOWN_CA,)),
        toml={"docker.io": {"mirrors": ["unknown-ca.test"]}, "unknown-ca.test": {"insecure": True}},
    ),
    Case(
        "plain and insecure",
        mirrors("https://127.0.0.1:5001", insecure=("https://127.0.0.1:5001",)),
        toml={"docker.io": {"mirrors": ["127.0.0.1:5001"]}, "127.0.0.1:5001": {"http": True, "insecure": True}},
        instead=["https://127.0.0.1:5001?ns=docker.io", HUB],
        why="the one in dockerd 20.10 begins with plain http; since then BuildKit begins with https (httpFallback)",
    ),
    Case("plain origin", mirrors(insecure=("http://docker.io",)), toml={"docker.io": {"http": True}}),
    Case("insecure origin", mirrors(insecure=("https://docker.io",)), toml={"docker.io": {"insecure": True}}),
    Case(
        "other registries have no mirrors",
        mirrors("https://two.test"),
        registry="quay.io",
        toml={"docker.io": {"mirrors": ["two.test"]}},
    ),
    Case(
        "plain registry",
        mirrors(insecure=("http://plain.test:5000",)),
        registry="plain.test:5000",
        toml={"plain.test:5000": {"http": True}},
    ),
    Case(
        "insecure registry",
        mirrors(insecure=(UNKNOWN_CA,)),
        registry="unknown-ca.test",
        toml={"unknown-ca.test": {"insecure": True}},
    ),
]


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Island]:
    with Island(tmp_path_factory.mktemp("island"), HOSTS) as island:
        yield island


@pytest.fixture(scope="module")
def witness(island: Island, authority: Authority, stranger: Authority) -> Witness:
    async def listen(witness: Witness) -> None:
        known = authority.server_context(*HOSTS)
        for name in "registry-1.docker.io", "mirror.gcr.io", "quay.io", "one.test", "two.test":
            await witness.listen(HOSTS[name], 443, tls=known)
        for name, port in ("one.test", 80), ("two.test", 80), ("registry-1.docker.io", 80), ("plain.test", 5000):
            await witness.listen(HOSTS[name], port, plain=True)
        await witness.listen("127.0.0.1", 5000, plain=True)
        unknown = stranger.server_context(*HOSTS)
        for port in 443, 5000:
            await witness.listen(HOSTS["unknown-ca.test"], port, tls=unknown)
        await witness.listen("127.0.0.1", 5443, tls=unknown)
        for address, port in ("127.0.0.1", 5001), (HOSTS["both.test"], 5000):
            await witness.listen(address, port, tls=unknown, plain=True)

    witness = island.enter(Witness())
    island.run(listen(witness))
    return witness


@pytest.fixture(scope="module")
def docker(island: Island, witness: Witness, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Dockerd:
    """One for all: it takes other mirrors and insecure registries while it runs."""
    return island.start(dockerd(tmp_path_factory.mktemp("docker"), SSL_CERT_FILE=str(authority.file)))


@pytest.fixture(scope="module")
def built(
    island: Island, witness: Witness, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Asked]]:
    """What was asked for each of the builds, by name: BuildKit's settings are those that dockerd was started with."""

    def build(case: Case) -> list[Asked]:
        folder = tmp_path_factory.mktemp("built")
        environment = {"SSL_CERT_FILE": str(authority.file), "DOCKER_BUILDKIT": "1"}
        asked = []
        with dockerd(folder / "docker", json.dumps(case.file), **environment) as docker:
            for reference in case.references:
                (folder / "Dockerfile").write_text(f"FROM {_image(case, reference)}\n")
                docker.cli("build", str(folder), check=False)
                asked.append(_asked(witness, case, reference))
        return asked

    def all_of_them() -> dict[str, list[Asked]]:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip([case.name for case in BUILDKIT], pool.map(build, BUILDKIT), strict=True))

    return island.do(all_of_them, timeout=300)


@pytest.mark.parametrize("case", DOCKERD, ids=lambda case: case.name)
def test_dockerd(
    case: Case,
    docker: Dockerd,
    island: Island,
    witness: Witness,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    (tmp_path / "daemon.json").write_text(json.dumps(case.file))
    refusal = docker.reload(json.dumps(case.file))
    assert case.refusal in refusal
    assert bool(case.refusal) == bool(refusal)
    for reference in case.references:
        theirs: Asked = []
        if not refusal:
            docker.cli("pull", _image(case, reference), check=False)
            theirs = _asked(witness, case, reference)
        _compare(case, reference, theirs, _engine(island, witness, tmp_path / "daemon.json", case, reference))


@pytest.mark.parametrize("case", BUILDKIT, ids=lambda case: case.name)
def test_buildkit(
    case: Case,
    built: dict[str, list[Asked]],
    island: Island,
    witness: Witness,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    (tmp_path / "buildkitd.toml").write_text(toml(case.toml))
    for reference, theirs in zip(case.references, built[case.name], strict=True):
        _compare(case, reference, theirs, _engine(island, witness, tmp_path / "buildkitd.toml", case, reference))


def _compare(case: Case, reference: str, theirs: Asked, ours: Asked) -> None:
    if case.instead is None:
        assert theirs
        assert ours == theirs
    else:
        assert ours == [_place(url, case, reference) for url in case.instead]
        assert ours != theirs, f"no difference any more: {case.why}"


def _engine(island: Island, witness: Witness, file: Path, case: Case, reference: str) -> Asked:
    """What an engine of that configuration asks, the first time."""

    async def ask() -> None:
        data = file.parent / reference.replace(":", "-")
        data.mkdir()
        proxy = Proxy(load([file]), data)
        try:
            got = await proxy.get(manifest(reference, case.repository), registry=case.registry)
        finally:
            await proxy.close()
        assert got.status >= 400

    before = len(witness.asked)
    island.run(ask())
    return _asked(witness, case, reference, before)


def _asked(witness: Witness, case: Case, reference: str, since: int = 0) -> Asked:
    """One after another is one: HEAD, then GET."""
    path = manifest(reference, case.repository)
    asked = [(each.endpoint, each.path, each.query) for each in witness.asked[since:] if each.path.endswith(path)]
    return [each for each, _ in itertools.groupby(asked)]


def _image(case: Case, reference: str) -> str:
    return f"{case.registry}/{case.repository}{'@' if ':' in reference else ':'}{reference}"


def _place(url: str, case: Case, reference: str) -> tuple[str, str, str]:
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", f"{slash}{path}{manifest(reference, case.repository)}", query
