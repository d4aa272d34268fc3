"""Behind a real parent proxy, Squid, that wants a login and is the only one who knows where the registry is."""

from __future__ import annotations

import socket
import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt
from support.clients import Sandbox
from support.config import toml
from support.processes import Program, clean_env, needs
from support.programs import docker_registry
from support.proxy import serve
from support.waiting import until

from e2e.conftest import fill

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.certificates import Authority
    from support.images import Image

# Where distributions have it.
HELPERS = [Path(folder) / "basic_ncsa_auth" for folder in ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid")]
USER, PASSWORD, IN_URL = "ann", "p@ss/w:rd", "ann:p%40ss%2Fw%3Ard"


@dataclass(frozen=True)
class Squid:
    endpoint: str
    log: Path

    def accesses(self) -> list[str]:
        """Status, method, target and user of each request; of a tunnel, when it has ended."""
        # Whoever only connects, as until_connectable does, is there as an error.
        return [line for line in self.log.read_text().splitlines() if "error:" not in line]


@contextmanager
def squid(hosts: Mapping[str, str]) -> Iterator[Squid]:
    # As root it gives that up, and could not read what is below a test's own folder.
    with tempfile.TemporaryDirectory(prefix="squid-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
        (folder / "users").write_text(f"{USER}:{hashed}\n")
        (folder / "hosts").write_text("".join(f"{address} {host}\n" for host, address in hosts.items()))
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        (folder / "squid.conf").write_text(
            f"http_port {endpoint}\n"
            f"auth_param basic program {next(filter(Path.exists, HELPERS), HELPERS[0])} {folder}/users\n"
            "acl known proxy_auth REQUIRED\n"
            "http_access allow known\n"
            "http_access deny all\n"
            f"hosts_file {folder}/hosts\n"
            "cache deny all\n"
            "logformat brief %>Hs %rm %ru %un\n"
            f"access_log stdio:{folder}/access.log brief\n"
            f"cache_log {folder}/cache.log\n"
            "pid_filename none\n"
            "pinger_enable off\n"
            f"coredump_dir {folder}\n"
            "shutdown_lifetime 0 seconds\n"
        )
        argv = ["squid", "-N", "-f", str(folder / "squid.conf")]
        program = stack.enter_context(Program(argv, env=clean_env(folder / "home")))
        host, _, port = endpoint.partition(":")
        program.until_connectable((host, int(port)))
        yield Squid(endpoint, folder / "access.log")


@needs("skopeo", "squid", "docker-registry")
def test_a_pull_through_squid(app: Image, authority: Authority, tmp_path: Path) -> None:
    with ExitStack() as stack:
        names = "registry.test", "other.test"
        registry = stack.enter_context(docker_registry(tmp_path / "registry", tls=authority.pair(*names)))
        fill(Sandbox(tmp_path / "direct", ca=authority.file), registry, app, "library/app:1.0")
        parent = stack.enter_context(squid(dict.fromkeys(names, "127.0.0.1")))
        where, other = (f"{name}:{registry.port}" for name in names)
        tables = {"docker.io": {"mirrors": [where], "fallback": False}, where: {"ca": [authority.file]}}
        settings = {"tunnel-ports": [registry.port, 443]}
        environment = {f"{scheme}_PROXY": f"http://{IN_URL}@{parent.endpoint}" for scheme in ("HTTP", "HTTPS")}
        with serve(tmp_path / "proxy", toml(tables, settings), **environment) as proxy:  # type: ignore[arg-type]
            builder = Sandbox(tmp_path / "builder", proxy=proxy.url, ca=proxy.ca)
            pulled = builder.pull("docker.io/library/app:1.0")
            assert pulled.digest == app.top.digest
            assert set(pulled.blobs()) >= {blob.digest for blob in app.blobs}
            # A tunnel to a host that is not intercepted, too.
            assert proxy.client(other, ca=authority.file).get("/v2/").status == 200
            assert {
                answered.endpoint for answered in proxy.wait_answered(1 + len(app.blobs)) if answered.cache == "miss"
            } == {where}
            assert PASSWORD not in proxy.program.output()
        # Of a tunnel that has just ended squid may not have heard yet.
        expected = {f"200 CONNECT {target} {USER}" for target in (where, other)}
        until(lambda: set(parent.accesses()) >= expected)
        assert set(parent.accesses()) == expected
