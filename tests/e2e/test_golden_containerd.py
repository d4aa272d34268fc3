"""The same certs.d for containerd's ctr and for us: both ask the same endpoints for the same, in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest
from engine.harness import Proxy, closed_port
from support.config import toml
from support.images import Image, make_image, parts
from support.processes import clean_env, needs
from support.programs import Containerd, containerd

from addon.config.load import load

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from support.certificates import Authority

pytestmark = needs("containerd", "ctr")

NAME = "library/app"
Asked = dict[str, list[str]]  # of "METHOD manifests/REFERENCE": "endpoint /path?query", in order


class Endpoint:
    """Answers 404, or with what it `has`, and writes down what it is asked, with the others."""

    def __init__(self, name: str, journal: list[str], context: ssl.SSLContext | None = None) -> None:
        self.has: Image | None = None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                told = [f"{key}={value}" for key, value in parse_qsl(url.query)]
                told += [f"{key}: {value}" for key, value in self.headers.items() if key.lower() == "x-golden"]
                journal.append(" ".join([self.command, name, url.path, *told]))
                data, media_type = endpoint.content(url.path.rpartition("/")[2])
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                if data is not None and endpoint.has:
                    self.send_header("Content-Type", media_type)
                    if "/manifests/" in url.path:
                        self.send_header("Docker-Content-Digest", endpoint.has.manifest.digest)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data or b"")

            do_HEAD = do_GET

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # whoever speaks no TLS, or does not trust it
                    super().handle()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        if context:
            # In the thread of each connection, lest one that says nothing keeps the others waiting.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def content(self, reference: str) -> tuple[bytes | None, str]:
        if self.has is None:
            return None, ""
        digest = self.has.manifest.digest if reference == self.has.tag else reference
        media_type = self.has.manifest.media_type if digest == self.has.manifest.digest else "application/octet-stream"
        return parts(self.has).get(digest), media_type

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class World:
    """Mirrors a, b and c, one with TLS (s), and the origin, which both find at localhost."""

    endpoints: Mapping[str, Endpoint]
    journal: list[str]
    images: Iterator[Image]
    containerd: Containerd
    env: dict[str, str]
    ca: Path
    stranger: Path

    def filled(self, text: str) -> str:
        """With the places of the endpoints, and the names of files."""
        for name, endpoint in self.endpoints.items():
            text = text.replace(f"<{name}>", f"127.0.0.1:{endpoint.port}").replace(f"<{name}:port>", str(endpoint.port))
        for name, value in (("ca", self.ca), ("stranger", self.stranger), ("dead", closed_port())):
            text = text.replace(f"<{name}>", str(value))
        return text

    def asked(self) -> Asked:
        """Since this was last asked for; what was asked again at once is told once."""
        asked: Asked = {}
        for line in self.journal:
            method, endpoint, path, *told = line.split(" ", 3)
            asked.setdefault(f"{method} {'/'.join(path.split('/')[-2:])}", []).append(" ".join([endpoint, path, *told]))
        self.journal.clear()
        return {key: [line for line, _ in itertools.groupby(lines)] for key, lines in asked.items()}

    def by_ctr(self, hosts: Path, image: str) -> Asked:
        options = "--snapshotter=native", f"--hosts-dir={hosts}"
        self.containerd.ctr("images", "pull", *options, image, env=self.env, check=False)
        return self.asked()

    def by_us(self, hosts: Path, data: Path, registry: str, questions: Iterable[str]) -> Asked:
        """The same questions, from a client that asks us."""

        data.mkdir(exist_ok=True)
        patient = data / "patient.toml"
        # However slow this machine is just now, nobody gets a rival or is given up.
        patient.write_text(toml({}, {"hedge-delay": "0s", "connect-timeout": "60s", "first-byte-timeout": "60s"}))

        async def ask() -> None:
            proxy = Proxy(load([hosts, patient]), data)
            try:
                for question in questions:
                    method, _, what = question.partition(" ")
                    await proxy.fetch(method, f"/v2/{NAME}/{what}", registry=registry)
            finally:
                await proxy.close()

        asyncio.run(ask())
        return self.asked()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, authority: Authority, stranger: Authority) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("golden")
    journal: list[str] = []
    context = authority.server_context("localhost")
    endpoints = {
        name: Endpoint(name, journal, context if name == "s" else None) for name in ("a", "b", "c", "s", "origin")
    }
    # ctr fetches nothing that containerd has.
    images = (make_image(folder / f"image-{seed}", seed=seed, layer_sizes=(10,)) for seed in itertools.count())
    with containerd(folder / "containerd") as daemon:
        env = clean_env(folder / "home")
        yield World(endpoints, journal, images, daemon, env, authority.file, stranger.file)
    for endpoint in endpoints.values():
        endpoint.close()


@dataclass(frozen=True)
class Case:
    """The hosts.toml of `folder`, and who is asked by tag and by digest when nobody has it.

    `holder`: who has it, in a pull that succeeds. Where we differ, and `why`: `ours`, whom we ask what nobody has;
    `spared`, who is asked for content by containerd alone.
    """

    text: str
    by_tag: str
    by_digest: str = ""
    folder: str = "localhost_<origin:port>_"
    registry: str = "localhost:<origin:port>"
    holder: str = ""
    ours: str = ""
    spared: str = ""
    why: str = ""


CASES = {
    "in the order of the file, then the registry itself": Case(
        '[host."http://<b>"]\n[host."http://<a>"]\n[host."http://<c>"]', "b a c origin", holder="c"
    ),
    "the registry itself by its name": Case(
        'server = "http://localhost:<origin:port>"\n[host."http://<a>"]', "a origin", holder="origin"
    ),
    "a folder with a colon": Case('[host."http://<a>"]', "a origin", folder="localhost:<origin:port>"),
    "somewhere else": Case('server = "http://<c>"\n[host."http://<a>"]', "a c", holder="c"),
    "somewhere else, at a path": Case('server = "http://<c>/hub"\n[host."http://<a>"]', "a c", holder="c"),
    "never the registry itself": Case(
        'server = "http://<b>"\n[host."http://<a>"]\n[host."http://<b>"]', "a b", holder="b"
    ),
    "the registry itself before a mirror": Case(
        '[host."http://localhost:<origin:port>"]\n[host."http://<a>"]', "origin a origin", holder="a"
    ),
    "paths": Case(
        """
        [host."http://<a>/one"]
        [host."http://<b>/two/v2"]
        [host."http://<c>/v2/three/"]
          override_path = true
        [host."http://<a>//four/./five/../six"]
        [host."http://<b>/v2"]
        [host."http://<c>"]
          override_path = true
        """,
        "a b c a b c origin",
        holder="c",
    ),
    "a mirror that is not asked for tags": Case(
        """
        [host."http://<a>"]
          capabilities = ["pull"]
        [host."http://<b>"]
          capabilities = ["PULL", "Resolve"]
        """,
        "b origin",
        "a b origin",
        holder="b",
    ),
    "mirrors that are not asked at all": Case(
        """
        [host."http://<a>"]
          capabilities = ["resolve"]
        [host."http://<b>"]
          capabilities = ["push"]
        [host."http://<c>"]
          capabilities = []
        """,
        "c origin",
        holder="origin",
        spared="a b",
        why="containerd looks at capabilities when it resolves, and then fetches from any host; we do as it documents",
    ),
    "the registry itself is not asked for tags": Case(
        """
        server = "http://localhost:<origin:port>"
        capabilities = ["pull"]
        [host."http://<a>"]
        """,
        "a",
        "a origin",
        holder="a",
    ),
    "capabilities of no server": Case('capabilities = ["push"]\n[host."http://<a>"]', "a origin"),
    "TLS, with and without a scheme": Case(
        '[host."<s>"]\nca = "<ca>"\n[host."https://<s>/skipped"]\nskip_verify = true', "s s origin", holder="s"
    ),
    "TLS that cannot be verified": Case(
        '[host."https://<s>"]\nca = ["<stranger>"]\n[host."https://<s>/unknown"]\n[host."http://<a>"]', "a origin"
    ),
    "a registry that its own table says how to verify": Case(
        'server = "https://localhost:<s:port>"\n[host."https://localhost:<s:port>"]\nca = "<ca>"',
        "s",
        folder="localhost_<s:port>_",
        registry="localhost:<s:port>",
        holder="s",
    ),
    "TLS settings for plain http": Case('[host."http://<a>"]\nskip_verify = true', "a origin", holder="a"),
    "headers": Case(
        """
        [host."http://<a>"]
          [host."http://<a>".header]
            x-golden = ["1", "2"]
        [host."http://<b>".header]
          X-Golden = "3"
        """,
        "a b origin",
        holder="b origin",
        ours="origin",
        why="a header may be a credential: first the origin shows that everybody may read what such a mirror gives us",
    ),
    "a mirror that is down": Case(
        '[host."http://<dead>"]\ndial_timeout = "1s"\n[host."http://<a>"]', "a origin", holder="a"
    ),
    "whatever registry has no folder": Case(
        'server = "http://<c>"\n[host."http://<a>"]', "a c", folder="_default", registry="ghcr.io", holder="c"
    ),
    "Docker Hub": Case(
        'server = "http://<b>"\n[host."http://<b>"]', "b", folder="docker.io", registry="docker.io", holder="b"
    ),
    "no host at all": Case(
        'server = "http://<c>"',
        "origin",
        ours="c",
        why="containerd 1.6 takes such a file for a broken one, 2.x does not",
    ),
    "an unknown capability": Case(
        '[host."http://<a>"]\n[host."http://<b>"]\ncapabilities = ["referrers"]',
        "origin",
        ours="a origin",
        why="containerd 1.6 does not know it, and then none of the file",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_ask_the_same(case: Case, world: World, tmp_path: Path) -> None:
    registry, hosts, image = world.filled(case.registry), tmp_path / "certs.d", next(world.images)
    folder = hosts / world.filled(case.folder)
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(world.filled(case.text))
    digest = image.manifest.digest
    for reference, expected in (("1.0", case.by_tag), (digest, case.by_digest or case.by_tag)):
        question = f"HEAD manifests/{reference}"
        theirs = world.by_ctr(hosts, f"{registry}/{NAME}{'@' if reference == digest else ':'}{reference}")
        ours = world.by_us(hosts, tmp_path / "data", registry, [question])
        assert names(theirs[question]) == expected.split()
        if case.ours:
            assert names(ours[question]) == case.ours.split(), case.why
        else:
            assert ours[question] == theirs[question]
    if not case.holder:
        return
    for holder in case.holder.split():
        world.endpoints[holder].has = image
    try:
        theirs = world.by_ctr(hosts, f"{registry}/{NAME}:1.0")
        ours = world.by_us(hosts, tmp_path / "pulled", registry, theirs)
    finally:
        for endpoint in world.endpoints.values():
            endpoint.has = None
    assert len(theirs) == 4, "manifest by tag and digest, configuration, layer"
    for question, asked in theirs.items():
        spared = [line for line in asked if line.partition(" ")[0] not in case.spared.split()]
        assert ours[question] == spared or (case.ours and question.startswith("HEAD")), case.why


def test_what_is_no_pull_is_told_which_registry_is_meant_too(world: World, tmp_path: Path) -> None:
    registry, folder = world.filled("localhost:<origin:port>"), tmp_path / "certs.d" / world.filled(Case.folder)
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(world.filled('server = "http://<c>/hub"\n[host."http://<a>"]'))
    asked = world.by_us(folder.parent, tmp_path / "data", registry, ["GET tags/list", "POST blobs/uploads"])
    # A push would go on at another path than the client can be told.
    assert asked == {"GET tags/list": [f"c /hub/v2/{NAME}/tags/list ns={registry}"]}


def names(asked: list[str]) -> list[str]:
    return [line.partition(" ")[0] for line in asked]
