"""Who may read and who may not ask for one cold thing at once, of two workers: the second are given no byte of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.config import toml
from support.images import MANIFEST
from support.pieces import Piece, blob, manifest, put
from support.processes import needs
from support.programs import docker_registry
from support.proxy import serve
from support.threads import LoopThread
from support.token_server import TokenServer
from support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.certificates import Authority
    from support.config import Table
    from support.programs import RealRegistry
    from support.proxy import Proxy

pytestmark = needs("docker-registry")

TEAM = "team/a"
EACH = 6  # clients of each kind
SIZE = 2 << 20
# What the origin sends is held back until everybody has asked.
PATIENT = {"connect-timeout": "60s", "first-byte-timeout": "60s"}


@dataclass(frozen=True)
class World:
    tokens: TokenServer
    registry: RealRegistry
    loop: LoopThread
    wire: Wire
    proxy: Proxy

    def token(self, user: str | None) -> str:
        return self.tokens.issue(user, [f"repository:{TEAM}:pull"])

    def hold(self, at: int) -> None:
        """What the origin sends, after so many bytes more."""

        async def hold() -> None:
            self.wire.hold_at(self.wire.carried + at)

        self.loop.run(hold())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("stampede")
    policy = Policy({"alice": "pw", "bob": "pw"}, {TEAM: {"alice"}})
    with ExitStack() as stack:
        tokens = stack.enter_context(TokenServer(policy, folder, authority.server_context()))
        registry = stack.enter_context(docker_registry(folder / "origin", tls=authority.pair(), token_auth=tokens))
        loop = stack.enter_context(LoopThread())
        wire = loop.enter(Wire(registry.endpoint))
        ca = {"ca": [authority.file]}
        tables: dict[str, Table] = {
            "registry.example": {"server": f"https://{wire.endpoint}", **ca},
            tokens.endpoint: ca,
        }
        proxy = stack.enter_context(serve(folder / "proxy", toml(tables, PATIENT), workers=2))
        yield World(tokens, registry, loop, wire, proxy)


@pytest.mark.parametrize(
    ("kind", "middle"), [("blob", False), ("blob", True), ("tag", False)], ids=["blob", "blob in its middle", "tag"]
)
def test_a_stampede_across_rights(kind: str, middle: bool, world: World) -> None:
    """All have asked before any has more than the origin sends until then; in the middle, one has had some of it."""
    piece, target = something(world, kind, f"{kind} {middle}")
    users = ["alice", "bob", None] * EACH
    begun = threading.Barrier(len(users))
    asked = threading.Barrier(len(users), lambda: world.loop.call(world.wire.release))
    world.hold(SIZE // 2 if middle else 0)

    def read(number: int) -> tuple[str | None, int, bytes]:
        user = users[number]
        headers = {"Accept": MANIFEST, "Authorization": f"Bearer {world.token(user)}"}
        with closing(world.proxy.client("registry.example").connect()) as connection:
            connection.connect()
            if middle and number > 0:
                begun.wait(30)
            connection.request("GET", target, headers=headers)
            data = b""
            if middle and number == 0:
                answer = connection.getresponse()
                data = answer.read(1)
                begun.wait(30)
            asked.wait(30)
            if not data:
                answer = connection.getresponse()
            return user, answer.status, data + answer.read()

    with ThreadPoolExecutor(len(users)) as pool:
        got = set(pool.map(read, range(len(users))))
    assert {answer for answer in got if answer[0] == "alice"} == {("alice", 200, piece.data)}
    refused = {answer for answer in got if answer[0] != "alice"}
    assert {(user, status) for user, status, _ in refused} == {("bob", 401), (None, 401)}
    assert not any(piece.shows_in(body) for _, _, body in refused)


def something(world: World, kind: str, seed: str) -> tuple[Piece, str]:
    """That nobody has asked for, and its path."""
    layer = blob(seed, SIZE)
    put(world.registry, TEAM, layer)
    if kind == "blob":
        return layer, f"/v2/{TEAM}/blobs/{layer.digest}"
    tagged = manifest(seed, layer)
    put(world.registry, TEAM, tagged, "1.0")
    return tagged, f"/v2/{TEAM}/manifests/1.0"
