"""What the clients of the table share, as on a build farm: one proxy with one cache, and what is behind it."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from typing import TYPE_CHECKING

from support.access import Policy, basic
from support.certificates import write_bundle
from support.clients import Sandbox
from support.config import Table, toml
from support.drivers import Driver, Login, Machine
from support.drivers.mirrored import REGISTRIES
from support.faults import Truncate
from support.images import Image, make_image
from support.programs import docker_registry
from support.proxy import MIRROR, serve
from support.registry import FakeRegistry
from support.threads import LoopThread
from support.token_server import TokenServer
from support.whole import read_whole

from e2e.conftest import fill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.certificates import Authority
    from support.faults import Injection
    from support.programs import RealRegistry
    from support.proxy import Proxy

LOGIN = Login("registry.example", "alice", "wonder-land")  # where a token server gives out tokens
BASIC = Login("basic.example", "alice", "looking-glass")  # where each request has user and password


@dataclass(frozen=True)
class Own:
    """What one kind of client has for itself: what others pulled is in the cache."""

    secret: Image  # LOGIN's alone, at team/SLUG:1.0
    broken: Image  # at SLUG.example/library/cut:1.0, whose first mirror breaks off once, in the middle of its layer
    cut: Injection


@dataclass(frozen=True)
class Farm:
    proxy: Proxy
    machine: Machine
    mirrored: Machine  # which knows of the mirror door alone
    basic: RealRegistry  # behind BASIC.host, where clients push to
    own: dict[str, Own]

    def pushed(self, repository: str, tag: str) -> dict[str, bytes]:
        """What the registry holds, read past the proxy."""
        context = ssl.create_default_context(cafile=str(self.machine.ca))
        with closing(HTTPSConnection(self.basic.endpoint, context=context)) as direct:
            return read_whole(direct, repository, tag, {"Authorization": basic(BASIC.user, BASIC.password)})


def slug(driver: type[Driver]) -> str:
    return driver.__name__.lower()


@contextmanager
def farm(folder: Path, authority: Authority, mirror: RealRegistry, drivers: Sequence[type[Driver]]) -> Iterator[Farm]:
    """`mirror` stands for each of REGISTRIES."""
    names = [slug(driver) for driver in drivers]
    policy = Policy({LOGIN.user: LOGIN.password}, {f"team/{name}": {LOGIN.user} for name in names})
    users, pair = {BASIC.user: BASIC.password}, authority.pair()
    with (
        LoopThread() as loop,
        TokenServer(policy, folder, authority.server_context()) as tokens,
        docker_registry(folder / "private", tls=pair, token_auth=tokens) as private,
        docker_registry(folder / "basic", tls=pair, htpasswd=users) as with_passwords,
    ):
        ca = {"ca": [authority.file]}
        tables: dict[str, Table] = {
            **{host: {"mirrors": [mirror.endpoint], "fallback": False} for host in REGISTRIES},
            LOGIN.host: {"server": private.url, **ca},
            BASIC.host: {"server": with_passwords.url, **ca},
            tokens.endpoint: ca,
            mirror.endpoint: {"http": True},
        }
        whole = loop.enter(FakeRegistry())
        direct = Sandbox(folder / "direct", ca=authority.file)

        def keep(number: int, name: str) -> Image:
            secret = make_image(folder / "secrets" / name, seed=600 + number)
            fill(direct, private, secret, f"team/{name}:1.0", f"--dest-creds={LOGIN.user}:{LOGIN.password}")
            return secret

        with ThreadPoolExecutor() as pool:
            secrets = list(pool.map(keep, range(len(names)), names))
        own = {}
        for number, (name, secret) in enumerate(zip(names, secrets, strict=True)):
            broken = make_image(folder / "broken" / name, seed=700 + number, layer_sizes=(1_000_000,))
            breaking = loop.enter(FakeRegistry())
            for each in breaking, whole:
                each.add(broken, "library/cut", "1.0")
                tables[each.endpoint] = {"http": True}
            layer = f"*{broken.layers[0].digest}"
            cut = breaking.inject(Truncate(300_000), kind="blob", method="GET", path=layer, times=1)
            tables[f"{name}.example"] = {"mirrors": [breaking.endpoint, whole.endpoint], "fallback": False}
            own[name] = Own(secret, broken, cut)
        # Tags are believed for long: one that is in the cache could be shown to anybody.
        with serve(folder / "proxy", toml(tables, {"tag-ttl": "1h"}), *MIRROR) as proxy:
            # Go programs reach loopback past any proxy, so they meet the token server's own certificate.
            bundle = write_bundle(folder / "bundle.pem", proxy.ca, authority.file)
            with (
                Machine(folder / "machine", proxy=proxy.url, ca=bundle) as machine,
                Machine(folder / "mirrored", mirror=proxy.mirror) as mirrored,
            ):
                yield Farm(proxy, machine, mirrored, with_passwords, own)
