"""docker-registry as a pull-through cache, itself a client of the proxy."""

from __future__ import annotations

from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, ClassVar

from support.drivers.driver import NO_COMMAND, VARIABLES, Driver, Login, Machine
from support.processes import clean_env, run
from support.programs import docker_registry
from support.proxy import exchange
from support.table import Column
from support.whole import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class PullThrough(Driver):
    row = "docker-registry, pull-through"
    told = f"{VARIABLES}; `proxy.remoteurl`"
    programs = ("docker-registry",)
    asks_version = ("docker-registry", "--version")
    says_refused = "404.*MANIFEST_UNKNOWN"
    notes: ClassVar[Mapping[Column, str]] = {
        Column.PRIVATE: "`proxy.username` and `proxy.password`: what that login may read, all of its own clients may."
        " Without, it says that there is no such manifest (404).",
    }
    lacks: ClassVar[Mapping[Column, str]] = {
        Column.PUSH: "It refuses pushes (405), whatever it is a cache of: push to the registry itself.",
        Column.BUILD: NO_COMMAND,
    }

    def __init__(self, machine: Machine, user: str) -> None:
        super().__init__(machine, user)
        self._login: Login | None = None
        self._started = 0

    def pull(self, name: str) -> set[str]:
        """Through a cache that is empty, so that there is nothing to forget."""
        host, _, rest = name.partition("/")
        repository, _, reference = rest.replace("@", ":", 1).partition(":")
        with self._cache_of(host) as connection:
            return set(read_whole(connection, repository, reference))

    def remote(self, host: str) -> str:
        return f"https://{'registry-1.docker.io' if host == 'docker.io' else host}"

    def login(self, login: Login) -> None:
        self._login = login

    def show_lack(self, column: Column) -> None:
        if column is Column.BUILD:
            assert "build" not in run(["docker-registry", "--help"], env=clean_env(self.home)).stdout.split()
        else:
            with self._cache_of("registry.example") as connection:
                assert exchange(connection, "POST", "/v2/team/app/blobs/uploads/").status == 405

    @contextmanager
    def _cache_of(self, host: str) -> Iterator[HTTPConnection]:
        self._started += 1
        remote = {"remoteurl": self.remote(host)}
        if self._login:
            remote |= {"username": self._login.user, "password": self._login.password}
        folder, environment = self.home / str(self._started), self.machine.environment
        with (
            docker_registry(folder, proxy=remote, env=environment) as registry,
            closing(HTTPConnection(registry.endpoint, timeout=60)) as connection,
        ):
            yield connection
