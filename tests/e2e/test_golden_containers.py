"""registries.conf means to the proxy what it means to podman and skopeo: both are given the same file and asked for the
same images, and the registries write down what they are asked for.

Compared is who is asked for the manifest, in which order and under which name. Most registries have nothing, so that
one pull shows the whole order. Plain http is `insecure`, as the clients have no other word for it.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engine.harness import Got, Proxy, read
from support.clients import Sandbox
from support.config import toml
from support.images import Image, make_image
from support.processes import needs
from support.registry import FakeRegistry
from support.together import Together

from addon.config.load import load
from addon.reply import Request

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

    from support.certificates import Authority

pytestmark = needs("skopeo")

# {a} is where the registry a is. a, b and c speak plain http, s TLS, u TLS that nobody trusts.
NAMES = "abcsu"


@dataclass(frozen=True)
class Case:
    """Who is asked, as "registry repository", for `image` by its tag and by its digest.

    `image` is `repository` at one that `has` it. `ours_*`: where the proxy means to do otherwise, `because`.
    """

    conf: str
    image: str
    tag: list[str]
    digest: list[str]
    has: str = ""
    drop_ins: dict[str, str] = field(default_factory=dict)
    ours_tag: list[str] | None = None
    ours_digest: list[str] | None = None
    because: str = ""


def table(prefix: str, location: str, *more: str) -> str:
    lines = [f'prefix = "{prefix}"', *([f'location = "{location}"'] if location else []), *more]
    return "\n".join(["[[registry]]", *lines, ""])


def mirror(location: str, *more: str, insecure: bool = True) -> str:
    lines = [f'location = "{location}"', *(["insecure = true"] if insecure else []), *more]
    return "\n".join(["[[registry.mirror]]", *lines])


ANY = "insecure = true"
BLOCKED = "blocked = true"

CASES = {
    "mirrors in their order, then the location": Case(
        table("r.test", "{c}/up", ANY, mirror("{a}"), mirror("{b}/hub")),
        "r.test/ns/app",
        both := ["a ns/app", "b hub/ns/app", "c up/ns/app"],
        both,
    ),
    "the first that has it": Case(
        table("r.test", "{c}", ANY, mirror("{a}"), mirror("{b}/hub")),
        "r.test/ns/app",
        both := ["a ns/app", "b hub/ns/app"],
        both,
        has="b hub/ns/app",
    ),
    "a namespace is replaced": Case(
        table("r.test/ns", "{c}/other", ANY, mirror("{a}"), mirror("{b}/x/y")),
        "r.test/ns/app",
        both := ["a app", "b x/y/app", "c other/app"],
        both,
    ),
    "a repository is replaced": Case(
        table("r.test/ns/app", "{c}/x/y", ANY, mirror("{a}/other")),
        "r.test/ns/app",
        both := ["a other", "c x/y"],
        both,
    ),
    "the longest prefix, part by part": Case(
        table("r.test", "{a}", ANY) + table("r.test/ns", "{b}/b", ANY) + table("r.test/ns/app", "{c}/c", ANY),
        "r.test/ns/apple",
        both := ["b b/apple"],
        both,
    ),
    "a port is part of the name": Case(
        table("r.test:5000/ns", "{a}", ANY) + table("r.test", "{b}", ANY),
        "r.test:5000/ns/app",
        both := ["a app"],
        both,
    ),
    "a wildcard that is elsewhere, and a longer one": Case(
        table("*.corp.test", "{a}/corp", ANY) + table("*.b.corp.test", "{b}/b", ANY),
        "x.y.b.corp.test/ns/app",
        both := ["b b/ns/app"],
        both,
    ),
    "a wildcard that stays where it is": Case(
        table("*.corp.test", "", mirror("{a}"), mirror("{b}/corp")),
        "x.corp.test/ns/app",
        both := ["a ns/app", "b corp/ns/app"],
        both,
        has="b corp/ns/app",
    ),
    "a wildcard and a name as long": Case(
        table("*.corp.test", "{a}", ANY) + table("x.corp.test", "{b}", ANY),
        "x.corp.test/ns/app",
        both := ["a ns/app"],
        both,
        ours_tag=(ours := ["b ns/app"]),
        ours_digest=ours,
        because="the client sorts them and takes the first, by accident; the name says more",
    ),
    "pull-from-mirror": Case(
        table(
            "r.test",
            "{c}",
            ANY,
            mirror("{a}", 'pull-from-mirror = "digest-only"'),
            mirror("{b}", 'pull-from-mirror = "tag-only"'),
            mirror("{s}", 'pull-from-mirror = "all"', insecure=False),
        ),
        "r.test/ns/app",
        ["b ns/app", "s ns/app", "c ns/app"],
        ["a ns/app", "s ns/app", "c ns/app"],
        ours_digest=["a ns/app", "s ns/app", "c ns/app", "b ns/app"],
        because="the images of an index by tag are asked for by digest, which the proxy cannot tell apart: asked last",
    ),
    "mirror-by-digest-only": Case(
        table("r.test", "{c}", ANY, "mirror-by-digest-only = true", mirror("{a}"), mirror("{b}")),
        "r.test/ns/app",
        ["c ns/app"],
        ["a ns/app", "b ns/app", "c ns/app"],
    ),
    "Docker Hub, by a short name": Case(
        table("docker.io", "docker.io", mirror("{a}/hub"), mirror("{b}")),
        "busybox",
        both := ["a hub/library/busybox", "b library/busybox"],
        both,
        has="b library/busybox",
    ),
    "docker.io/busybox is a namespace": Case(
        table("docker.io", "{a}", ANY)
        + table("docker.io/busybox", "{b}", ANY)
        + table("docker.io/library", "{c}", ANY),
        "docker.io/busybox",
        both := ["c busybox"],
        both,
    ),
    "tables without a prefix, of one place": Case(
        '[[registry]]\nlocation = "r.test"\n' + mirror("{a}") + "\n" + mirror("{a}/second"),
        "r.test/ns/app",
        both := ["a ns/app", "a second/ns/app"],
        both,
        has="a second/ns/app",
    ),
    "of tables with one prefix the first": Case(
        table("r.test", "{a}", ANY) + table("r.test", "{b}", ANY),
        "r.test/ns/app",
        both := ["a ns/app"],
        both,
    ),
    "drop-ins replace whole tables": Case(
        table("r.test", "{c}", ANY, mirror("{a}")) + table("s.test", "{u}", BLOCKED),
        "r.test/ns/app",
        both := ["s two/ns/app", "b ns/app"],
        both,
        drop_ins={
            "20.conf": table("r.test", "{b}", ANY, mirror("{s}/two", insecure=False)),
            "10.conf": 'unqualified-search-registries = ["s.test"]\n' + table("r.test", "{a}", BLOCKED),
            "30.toml": "no drop-in",
        },
    ),
    "blocked": Case(table("r.test", "r.test", BLOCKED), "r.test/ns/app", [], []),
    "blocked, but for its mirrors": Case(
        table("r.test", "r.test", BLOCKED, mirror("{a}"), mirror("{b}")),
        "r.test/ns/app",
        both := ["a ns/app", "b ns/app"],
        both,
        has="b ns/app",
    ),
    "blocked, and elsewhere": Case(
        table("r.test", "{c}", BLOCKED, ANY, mirror("{a}")),
        "r.test/ns/app",
        both := ["a ns/app", "c ns/app"],
        both,
        ours_tag=(ours := ["a ns/app"]),
        ours_digest=ours,
        because="the client blocks what is at the prefix itself; here the manual is taken at its word",
    ),
    "a part of what is blocked": Case(
        table("r.test", "r.test", BLOCKED) + table("r.test/ns", "{a}", ANY), "r.test/ns/app", both := ["a app"], both
    ),
    "a blocked part": Case(
        table("r.test", "{a}", ANY) + table("r.test/ns", "r.test/ns", BLOCKED), "r.test/ns/app", [], []
    ),
    "who is not trusted, or speaks no TLS, has nothing": Case(
        table(
            "r.test", "{c}", mirror("{u}", insecure=False), mirror("{a}", insecure=False), mirror("{s}", insecure=False)
        ),
        "r.test/ns/app",
        both := ["s ns/app"],
        both,
    ),
    "insecure is TLS with whomever, too": Case(
        table("r.test", "{s}", ANY, mirror("{u}/x"), mirror("{a}")),
        "r.test/ns/app",
        both := ["u x/ns/app", "a ns/app", "s ns/app"],
        both,
    ),
}


class World:
    """The registries; a machine with the file where clients look for it; and an engine that is given the same file."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.registries: dict[str, FakeRegistry] = {}
        self.together = Together()
        # What is not on loopback is not there; nor does it take time to find that out.
        self.machine = Sandbox(folder / "home", proxy="http://127.0.0.1:9", ca=authority.file)
        self.conf = self.machine.home / ".config" / "containers" / "registries.conf"
        # skopeo looks there by itself.
        self.machine.env["CONTAINERS_REGISTRIES_CONF"] = str(self.conf)
        self._authority = authority
        self._folder = folder

    def write(self, conf: str, drop_ins: dict[str, str]) -> None:
        # The clients look for drop-ins there, whatever file they are given.
        folder = self.conf.with_name("registries.conf.d")
        folder.mkdir(parents=True)
        for path, text in {self.conf: conf, **{folder / name: text for name, text in drop_ins.items()}}.items():
            for name, registry in self.registries.items():
                text = text.replace(f"{{{name}}}", registry.endpoint)
            path.write_text(text)

    def skopeo(self, image: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(dir=self._folder) as got:
            return self.machine.skopeo("copy", f"docker://{image}", f"dir:{got}", check=False)

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[Proxy]:
        """Knows nothing yet. A second file is for the CA, and for patience: that a machine is slow must not count."""
        patient = {"hedge-delay": "0s", "first-byte-timeout": "60s", "connect-timeout": "60s", "stale-after": "60s"}
        own = self._folder / "mirrortap.toml"
        own.write_text(toml({self.registries["s"].endpoint: {"http": False, "ca": [self._authority.file]}}, patient))
        with tempfile.TemporaryDirectory(dir=self._folder) as data:
            proxy = Proxy(load([self.conf, own]), Path(data))
            try:
                yield proxy
            finally:
                await proxy.close()

    def asked_for(self, kind: str, reference: str) -> list[str]:
        assert not any(seen.query for name, seen in self.together.asked), "no client says ns"
        return self.together.asked_for(kind, reference)

    def manifests(self, reference: str) -> list[str]:
        """Who has been asked for it since this was last asked."""
        asked = self.asked_for("manifest", reference)
        self.together.asked.clear()
        return asked


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"), layer_sizes=(1000,))


@pytest.fixture
async def world(tmp_path: Path, authority: Authority, stranger: Authority) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = World(tmp_path, authority)
        for name in NAMES:
            registry = FakeRegistry(tls={"s": authority, "u": stranger}.get(name))
            world.together.note(name, registry)
            world.registries[name] = await stack.enter_async_context(registry)
        yield world


async def through(proxy: Proxy, image: str, reference: str, kind: str = "manifests") -> Got:
    """What the engine answers to who pulls the image by its full name."""
    authority, _, repository = image.partition("/")
    host, _, port = authority.partition(":")
    rule = proxy.config.rule(host, int(port or 443), repository)
    assert rule
    return await read(await proxy.engine.answer(Request(rule, "GET", f"/v2/{repository}/{kind}/{reference}", ())))


def full(image: str) -> str:
    """As clients make it of a short name."""
    name = image if "/" in image else f"docker.io/{image}"
    return name if name.count("/") > 1 or not name.startswith("docker.io/") else name.replace("/", "/library/", 1)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_the_proxy_asks_as_skopeo_does(case: Case, world: World, image: Image) -> None:
    world.write(case.conf, case.drop_ins)
    if case.has:
        name, repository = case.has.split()
        world.registries[name].add(image, repository)
    for reference, mark, expected, ours in (
        ("1.0", ":", case.tag, case.ours_tag),
        (image.manifest.digest, "@", case.digest, case.ours_digest),
    ):
        ran = await asyncio.to_thread(world.skopeo, f"{case.image}{mark}{reference}")
        assert world.manifests(reference) == expected
        assert ((ran.returncode == 0), "blocked" in ran.stderr) == (bool(case.has), not expected), ran.stderr
        async with world.proxy() as proxy:
            got = await through(proxy, full(case.image), reference)
        assert world.manifests(reference) == (expected if ours is None else ours), case.because
        if case.has:
            assert (got.status, got.digest) == (200, image.manifest.digest)
        elif not expected:
            assert (got.status, got.error["code"]) == (403, "DENIED")
            assert f"{world.conf}: registry[" in got.error["message"]
        else:
            assert got.status in (404, 502)


@needs("podman", "runc")
@pytest.mark.parametrize(
    "name",
    [
        "mirrors in their order, then the location",
        "pull-from-mirror",
        "Docker Hub, by a short name",
        "drop-ins replace whole tables",
        "blocked",
    ],
)
async def test_podman_asks_as_skopeo_does(name: str, world: World, image: Image) -> None:
    case = CASES[name]
    world.write(case.conf, case.drop_ins)
    if case.has:
        holder, repository = case.has.split()
        world.registries[holder].add(image, repository)
    for reference, mark, expected in (("1.0", ":", case.tag), (image.manifest.digest, "@", case.digest)):
        pull = ("pull", f"--signature-policy={world.machine.policy}", f"{full(case.image)}{mark}{reference}")
        ran = await asyncio.to_thread(world.machine.podman, *pull, check=False)
        assert ((ran.returncode == 0), "blocked" in ran.stderr) == (bool(case.has), not expected), ran.stderr
        assert world.manifests(reference) == expected


async def test_blobs_come_from_whoever_has_them(world: World, image: Image) -> None:
    """Where we differ: the client asks the one that had the manifest; the proxy asks each, in order, for each blob."""
    mirrors = mirror("{a}", 'pull-from-mirror = "digest-only"'), mirror("{b}"), mirror("{s}/s", insecure=False)
    world.write(table("r.test", "{c}", ANY, *mirrors), {})
    config, (layer,) = image.config.digest, image.layers
    world.registries["b"].add(image, "ns/app")
    world.registries["c"].add(image, "ns/app")
    world.registries["a"].content.put_blob("ns/app", layer.data)

    def blobs() -> dict[str, list[str]]:
        return {digest: world.asked_for("blob", digest) for digest in (config, layer.digest)}

    ran = await asyncio.to_thread(world.skopeo, "r.test/ns/app:1.0")
    assert ran.returncode == 0, ran.stderr
    assert blobs() == {config: ["b ns/app"], layer.digest: ["b ns/app"]}
    world.together.asked.clear()
    del world.registries["b"].content.repositories["ns/app"].blobs[config]
    ran = await asyncio.to_thread(world.skopeo, "r.test/ns/app:1.0")
    assert ran.returncode != 0
    world.together.asked.clear()
    async with world.proxy() as proxy:
        assert (await through(proxy, "r.test/ns/app", "1.0")).digest == image.manifest.digest
        # By the digest that b announced for the tag, a is asked, too: that is what it is there for.
        assert world.asked_for("manifest", "1.0") == ["b ns/app"]
        assert world.asked_for("manifest", image.manifest.digest) == ["a ns/app", "b ns/app"]
        for digest in (config, layer.digest):
            assert (await through(proxy, "r.test/ns/app", digest, "blobs")).digest == digest
    assert blobs() == {
        config: ["a ns/app", "b ns/app", "s s/ns/app", "c ns/app"],
        layer.digest: ["a ns/app"],
    }
