"""Who may read what: every cell of who asks, for what, where, and in which state, against a registry with token auth.

The rules are `outcome`; everything below it asks, and names what came.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from http.client import HTTPSConnection
from typing import TYPE_CHECKING

import pytest
from support.access import Policy
from support.config import toml
from support.pieces import Piece, blob, manifest, put
from support.processes import needs
from support.programs import docker_registry
from support.proxy import exchange, serve
from support.token_server import LEEWAY, TokenServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.certificates import Authority
    from support.config import Table
    from support.programs import RealRegistry
    from support.proxy import Response

pytestmark = needs("docker-registry")

A, B, PUBLIC = REPOSITORIES = ("team/a", "team/b", "library/open")
READERS = {A: {"alice", "carol"}, B: {"bob"}}
CHECKED, OPEN = "registry.example", "open.example"
TAG = "1.0"
RANGE = slice(500, 1500)


class State(Enum):
    COLD = "nobody has asked for anything of the repository, though content that it shares with others is cached"
    WARM = "who may has read all of the repository"
    DOWN = "the same, and then the origin has gone"


class Outcome(Enum):
    GIVEN = "exactly what was asked for"
    CHALLENGED = "the origin's own challenge to this client, and nothing of any content"
    ABSENT = "404, and nothing of any content"
    UNREACHABLE = "502, and nothing of any content"


@dataclass(frozen=True)
class Who:
    """A client with `user`'s token for the repository (an anonymous one: None), or without any.

    `taken`: whether the origin takes the token for what it is. `reads`: the private repositories that it then shows.
    `believed`: it did so through the proxy, and the token has not expired since.
    """

    name: str
    user: str | None = None
    token: bool = True
    taken: bool = True
    reads: frozenset[str] = frozenset()
    believed: bool = False
    life: int = 300  # of the token, in seconds
    fresh: bool = False  # a token for each request

    def __str__(self) -> str:
        return self.name


ANONYMOUS = Who("anonymous", token=False, taken=False)
ALICE = Who("alice", "alice", reads=frozenset({A}), believed=True)
BOB = Who("bob", "bob", reads=frozenset({B}), believed=True)
# docker-registry cannot take a token back, but takes one no longer that has expired for its LEEWAY.
REVOKED = Who("carol, revoked", "carol", taken=False, life=10 - LEEWAY)
# The registry still takes it, but no proof outlives it.
EXPIRED = Who("alice's token, expired", "alice", reads=frozenset({A}), life=2)
WHO = (
    ANONYMOUS,
    Who("anonymous with a token"),
    ALICE,
    Who("alice, each time with a new token", "alice", reads=frozenset({A}), fresh=True),
    EXPIRED,
    BOB,
    REVOKED,
)
# Who differs from them only in what was asked before.
NEWCOMERS = [who for who in WHO if who is not EXPIRED and not who.fresh]


@dataclass(frozen=True)
class Ask:
    method: str
    kind: str  # manifests or blobs
    by_tag: bool = False
    range: bool = False
    held_by: str = "this"  # repository alone; "all" of them; or only "another" one

    def __str__(self) -> str:
        how = " by tag" * self.by_tag + " range" * self.range
        return f"{self.method} {self.kind}{how}, held by {self.held_by}"


ASKS = [
    Ask(method, *what)
    for method in ("GET", "HEAD")
    for what in (
        ("manifests", True),
        ("manifests",),
        ("blobs",),
        ("blobs", False, True),
        ("blobs", False, False, "all"),
        ("blobs", False, False, "another"),
    )
]


def outcome(state: State, who: Who, repository: str, ask: Ask) -> Outcome:
    """The rules: public or proven, and known to be held there; while the origin is away, what was shown before."""
    held = ask.held_by != "another"
    may_read = repository == PUBLIC or repository in who.reads
    if state is State.DOWN:
        shown = repository == PUBLIC or (may_read and who.believed)
        return Outcome.GIVEN if shown and held else Outcome.UNREACHABLE
    if not may_read:
        return Outcome.CHALLENGED
    if held:
        return Outcome.GIVEN
    # The origin's own answer again, which is no 404 to a client without a token, even where everybody may read.
    return Outcome.ABSENT if who.taken else Outcome.CHALLENGED


SHARED = blob("shared by all repositories")


@dataclass(frozen=True)
class Repository:
    """`like` is the one of REPOSITORIES whose rights it has; `registry`: as what clients reach the origin."""

    name: str
    like: str
    registry: str = CHECKED

    @cached_property
    def blob(self) -> Piece:
        return blob(f"blob of {self.name}")

    @cached_property
    def manifest(self) -> Piece:
        return manifest(f"manifest of {self.name}", SHARED)

    @cached_property
    def pieces(self) -> tuple[Piece, Piece]:
        return self.blob, self.manifest


WARM = {name: Repository(name, name) for name in REPOSITORIES}
OPENED = replace(WARM[A], registry=OPEN)
ANOTHER = {A: WARM[B], B: WARM[A], PUBLIC: WARM[A]}
# A repository for each question, so that nothing is known of any.
COLD = {
    (who, like, ask): Repository(f"{like}-{who_number}-{number}", like)
    for who_number, who in enumerate(NEWCOMERS)
    for like in REPOSITORIES
    for number, ask in enumerate(ASKS)
}


def wanted(ask: Ask, repository: Repository) -> Piece:
    if ask.held_by == "all":
        return SHARED
    holder = ANOTHER[repository.like] if ask.held_by == "another" else repository
    return holder.manifest if ask.kind == "manifests" else holder.blob


@dataclass
class World:
    """A registry with everything in it, and connections to it, straight and, by its names, through the proxy."""

    tokens: TokenServer
    registry: RealRegistry
    direct: HTTPSConnection
    through: dict[str, HTTPSConnection]
    _issued: dict[tuple[Who, tuple[str, ...]], str] = field(default_factory=dict)

    def token(self, who: Who, repository: str) -> str | None:
        """The same again, unless it is to be a fresh one. One is for all warm repositories, whose rights are apart."""
        if not who.token:
            return None
        together = REPOSITORIES if repository in WARM else (repository,)
        if who.fresh or (who, together) not in self._issued:
            scopes = [f"repository:{name}:pull" for name in together]
            self._issued[who, together] = self.tokens.issue(who.user, scopes, who.life)
        return self._issued[who, together]

    def observed(self, state: State, who: Who, repository: Repository, ask: Ask) -> Outcome | str:
        """What the client is given, in words where it is nothing that may be."""
        piece = wanted(ask, repository)
        path = f"/v2/{repository.name}/{ask.kind}/{TAG if ask.by_tag else piece.digest}"
        token = self.token(who, repository.name)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Accept": piece.media_type} if piece.media_type else {}
        headers |= {"Range": f"bytes={RANGE.start}-{RANGE.stop - 1}"} if ask.range else {}
        answer = exchange(self.through[repository.registry], ask.method, path, headers)
        if answer.status < 300:
            problem = not_exactly(piece, ask, answer)
            if state is not State.COLD and not answer.headers.get("Cache-Status", "").startswith("mirrortap; hit"):
                problem = problem or "it is not from the cache"
            return f"{answer.status}: {problem}" if problem else Outcome.GIVEN
        if leaked := leak(answer, {*repository.pieces, *PIECES}, asked="" if ask.by_tag else piece.digest):
            return f"{answer.status} with a part of {leaked}"
        if answer.status == 401:
            own = exchange(self.direct, ask.method, path, headers).headers["WWW-Authenticate"]
            challenge = answer.headers["WWW-Authenticate"]
            return Outcome.CHALLENGED if challenge == own else f"401: {challenge}, where the origin says {own}"
        named = {404: Outcome.ABSENT, 502: Outcome.UNREACHABLE}
        return named.get(answer.status) or f"{answer.status}: {answer.body!r}"


PIECES = {SHARED, *(piece for repository in WARM.values() for piece in repository.pieces)}


def not_exactly(piece: Piece, ask: Ask, answer: Response) -> str | None:
    """What is wrong with an answer that should be the content."""
    whole, part = str(len(piece.data)), str(RANGE.stop - RANGE.start)
    if answer.headers["Docker-Content-Digest"] != piece.digest:
        return f"the digest is {answer.headers['Docker-Content-Digest']}"
    if ask.method == "HEAD":
        # A HEAD has no ranges (RFC 9110, 14.2), yet docker-registry knows some.
        return None if answer.headers["Content-Length"] in (whole, part if ask.range else whole) else "another length"
    if ask.range:
        inside = f"bytes {RANGE.start}-{RANGE.stop - 1}/{whole}"
        right = answer.status == 206 and answer.headers["Content-Range"] == inside and answer.body == piece.data[RANGE]
        return None if right else "not that range"
    return None if answer.status == 200 and answer.body == piece.data else "other bytes"


def leak(answer: Response, pieces: set[Piece], asked: str) -> str | None:
    """Whose bytes, or digest, an answer shows, other than the digest that the client itself `asked` for."""
    text = str(answer.headers).encode() + answer.body
    for piece in pieces:
        if piece.shows_in(answer.body) or (piece.digest != asked and piece.digest.encode() in text):
            return piece.digest
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[World]:
    """Everything is there, the warm repositories were read by who may, and carol may not any more."""
    folder = tmp_path_factory.mktemp("access")
    private = {each.name: set(READERS[each.like]) for each in (*WARM.values(), *COLD.values()) if each.like in READERS}
    policy = Policy(dict.fromkeys(("alice", "bob", "carol"), "pw"), private)
    with ExitStack() as stack:
        tokens = stack.enter_context(TokenServer(policy, folder, authority.server_context()))
        registry = stack.enter_context(docker_registry(folder / "origin", tls=authority.pair(), token_auth=tokens))
        for repository in WARM.values():
            for piece in (SHARED, *repository.pieces):
                put(registry, repository.name, piece, TAG)
        # Tags are believed for long: one that is in the cache could leak.
        table = {"server": registry.url, "ca": [authority.file]}
        tables: dict[str, Table] = {
            CHECKED: table,
            OPEN: table | {"access": "open"},
            tokens.endpoint: {"ca": [authority.file]},
        }
        config = toml(tables, {"tag-ttl": "1h"})
        proxy = stack.enter_context(serve(folder / "proxy", config))
        direct = HTTPSConnection(registry.endpoint, context=authority.client_context(), timeout=30)
        through = {name: proxy.client(name).connect() for name in (CHECKED, OPEN)}
        for connection in (direct, *through.values()):
            stack.enter_context(closing(connection))
        made = World(tokens, registry, direct, through)
        warm(made)
        for (_, _, ask), repository in COLD.items():
            for piece in {SHARED, wanted(ask, repository)} if ask.held_by == "this" else {SHARED}:
                put(registry, repository.name, piece, TAG)
        for readers in policy.private.values():
            readers.discard("carol")
        yield made


def warm(world: World) -> None:
    """Those who later may not read it come first: while they still can."""
    asked_by_revoked = [repository for (who, _, _), repository in COLD.items() if who is REVOKED]
    for repository in (*asked_by_revoked, WARM[A]):
        world.token(REVOKED, repository.name)
    for who in REVOKED, EXPIRED:
        read_all(world, who, WARM[A])
    for who in WHO:
        for name in who.reads if who.believed else ():
            read_all(world, who, WARM[name])
    read_all(world, ANONYMOUS, WARM[PUBLIC])
    read_all(world, ALICE, OPENED)


def read_all(world: World, who: Who, repository: Repository) -> None:
    for ask in ASKS:
        if ask.held_by != "another" and ask.method == "GET":
            given = world.observed(State.COLD, who, repository, ask)
            assert given is Outcome.GIVEN, f"{who}: {ask} of {repository.name}: {given}"


def found(world: World, state: State, who: Who, where: Callable[[Ask], Repository]) -> dict[str, Outcome | str]:
    if who is REVOKED and state is not State.DOWN:
        until_refused(world)
    if who is EXPIRED and state is State.WARM:
        # That of when it was warmed may be too old for the registry, too, by now.
        who = replace(EXPIRED, life=-1, fresh=True)
    return {str(ask): world.observed(state, who, where(ask), ask) for ask in ASKS}


def until_refused(world: World) -> None:
    """The origin cannot take carol's tokens back: they must have expired."""
    login = {"Authorization": f"Bearer {world.token(REVOKED, A)}"}  # the last that was made
    while exchange(world.direct, "HEAD", f"/v2/{A}/blobs/{SHARED.digest}", login).status != 401:
        time.sleep(0.05)


cells = pytest.mark.parametrize("repository", REPOSITORIES)
clients = pytest.mark.parametrize("who", WHO, ids=str)


@cells
@pytest.mark.parametrize("who", NEWCOMERS, ids=str)
def test_cold(world: World, who: Who, repository: str) -> None:
    given = found(world, State.COLD, who, lambda ask: COLD[who, repository, ask])
    assert given == {str(ask): outcome(State.COLD, who, repository, ask) for ask in ASKS}


@clients
@cells
def test_warm(world: World, who: Who, repository: str) -> None:
    given = found(world, State.WARM, who, lambda ask: WARM[repository])
    assert given == {str(ask): outcome(State.WARM, who, repository, ask) for ask in ASKS}


strangers = pytest.mark.parametrize("who", [ANONYMOUS, BOB, REVOKED], ids=str)


@strangers
def test_open(world: World, who: Who) -> None:
    """Whoever may use the proxy may read what is cached of this repository, and nothing else."""
    given = found(world, State.WARM, who, lambda ask: OPENED)
    rest = {str(ask): outcome(State.WARM, who, A, ask) for ask in ASKS if ask.held_by == "another"}
    assert given == {str(ask): Outcome.GIVEN for ask in ASKS} | rest
    given = found(world, State.COLD, who, lambda ask: replace(COLD[who, A, ask], registry=OPEN))
    assert given == {str(ask): outcome(State.COLD, who, A, ask) for ask in ASKS}


@pytest.fixture(scope="module")
def without_origin(world: World) -> World:
    """From here on: the tests above come first."""
    world.registry.stop()
    return world


@clients
@cells
def test_origin_down(without_origin: World, who: Who, repository: str) -> None:
    given = found(without_origin, State.DOWN, who, lambda ask: WARM[repository])
    assert given == {str(ask): outcome(State.DOWN, who, repository, ask) for ask in ASKS}


@strangers
def test_open_with_the_origin_down(without_origin: World, who: Who) -> None:
    given = found(without_origin, State.DOWN, who, lambda ask: OPENED)
    rest = {str(ask): Outcome.UNREACHABLE for ask in ASKS if ask.held_by == "another"}
    assert given == {str(ask): Outcome.GIVEN for ask in ASKS} | rest


def test_the_origin_gave_each_piece_once(without_origin: World) -> None:
    """However many read it. (What a registry has written of its work is complete when it has ended.)"""
    for repository in WARM.values():
        given = [each for each in without_origin.registry.accesses(f"/v2/{repository.name}/") if each.method == "GET"]
        for piece in repository.pieces:
            assert [each.status for each in given if piece.digest in each.path and each.status < 300] == [200]
