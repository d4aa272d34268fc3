"""What is compared: each server, how it is told to cache what the origin has, and how clients reach it."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cryptography.hazmat.backends.openssl import backend

from benchmark.content import REPOSITORY, TAG, Content, link_registry
from benchmark.origin import HOST, PLAIN, UNLOGGED, Origin
from benchmark.processes import PATH, Processes, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).resolve().parents[2]

_MIRRORTAP = """\
[registry."{host}"]
mirrors = ["{origin}"]
fallback = false
[registry."{origin}"]
http = false
ca = ["{certificate}"]
[mirrortap]
{settings}
"""
_SQUID = """\
http_port 127.0.0.1:{port} ssl-bump tls-cert={folder}/ca.crt tls-key={folder}/ca.key generate-host-certificates=on
sslcrtd_program {certgen} -s {folder}/certificates -M 4MB
sslcrtd_children 2 startup=1 idle=1
# At once: peeking at the origin first would cost each of the clients' connections one of Squid's own.
ssl_bump bump all
tls_outgoing_options cafile={certificate}
http_access allow all
hosts_file {folder}/hosts
# ufs: it reads from the page cache, for which the threads of aufs cost 3 times the CPU.
cache_dir ufs {folder}/cache 65536 16 256
cache_mem 64 MB
maximum_object_size 16 GB
collapsed_forwarding on
refresh_pattern . 525600 100% 525600
access_log none
cache_log {folder}/cache.log
cache_store_log none
pid_filename none
pinger_enable off
coredump_dir {folder}
shutdown_lifetime 0 seconds
"""
# Where distributions have it.
_CERTGEN = [
    Path(folder) / "security_file_certgen" for folder in ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid")
]


@dataclass(frozen=True)
class Way:
    """How a client reaches what it pulls. Without a CA it is plain http, with a proxy (HOST:PORT) by CONNECT."""

    host: str
    port: int
    ca: Path | None = None
    proxy: str | None = None
    repository: str = REPOSITORY

    @property
    def authority(self) -> str:
        default = 443 if self.ca else 80
        return self.host if self.port == default else f"{self.host}:{self.port}"

    @property
    def reference(self) -> str:
        """Of the image, as programs that pull want it."""
        return f"{self.authority}/{self.repository}:{TAG}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Of programs that pull."""
        return {
            **({"SSL_CERT_FILE": str(self.ca)} if self.ca else {}),
            **({"HTTPS_PROXY": f"http://{self.proxy}"} if self.proxy else {}),
        }

    def path(self, where: str) -> str:
        return f"/v2/{self.repository}/{where}"

    def curl(self, where: str) -> list[str]:
        """Its arguments: the URL, and what it needs to get there."""
        return [
            f"{'https' if self.ca else 'http'}://{self.authority}{self.path(where)}",
            *(["--cacert", str(self.ca)] if self.ca else []),
            *(["-x", self.proxy] if self.proxy else []),
        ]


class Server(ABC):
    """One of those that are compared, with a folder of its own, in which it has nothing cached before `start`."""

    name: ClassVar[str]  # as --target has it
    title: ClassVar[str]
    programs: ClassVar[Mapping[str, str]]  # and the Debian package of each
    caches: ClassVar[bool] = True
    warm_upstream: ClassVar[str] = "unlimited"  # which of the origin's ports it uses in warm scenarios

    def __init__(self, folder: Path, origin: Origin, content: Content, processes: Processes) -> None:
        self.folder, self.origin, self.content, self.processes = folder, origin, content, processes
        self.pid = 0
        self.upstream = ""
        folder.mkdir()

    @property
    @abstractmethod
    def way(self) -> Way:
        """Over TLS, once it is started."""

    @property
    def plain(self) -> Way | None:
        """Without TLS, where it has one."""
        return None

    @abstractmethod
    def _start(self) -> None:
        """With the origin's port `upstream`."""

    def start(self, upstream: str) -> None:
        self.upstream = upstream
        self._start()

    def stop(self) -> None:
        self.processes.end(self.pid)


class Nginx(Server):
    """The limit: no proxy at all, clients straight at the origin."""

    name, title = "nginx", "nginx TLS, no proxy (the limit)"
    programs: ClassVar = {"nginx": "nginx"}
    caches, warm_upstream = False, UNLOGGED

    @property
    def way(self) -> Way:
        return Way("127.0.0.1", self.origin.ports[self.upstream], self.origin.certificate)

    @property
    def plain(self) -> Way:
        return Way("127.0.0.1", self.origin.ports[PLAIN])

    def _start(self) -> None:
        self.pid = self.origin.pid

    def stop(self) -> None:
        pass


class Squid(Server):
    name, title = "squid", "Squid, ssl-bump"
    programs: ClassVar = {"squid": "squid-openssl"}

    @property
    def way(self) -> Way:
        port = self.origin.ports[self.upstream]
        return Way(HOST, port, self.folder / "ca.crt", proxy=f"127.0.0.1:{self._port}")

    def _start(self) -> None:
        new = not (self.folder / "cache").exists()
        if new:
            self._prepare()
        self._port = free_port()
        config = self.folder / "squid.conf"
        config.write_text(
            _SQUID.format(
                port=self._port,
                folder=self.folder,
                certificate=self.origin.certificate,
                certgen=next(filter(Path.exists, _CERTGEN), _CERTGEN[0]),
            )
        )
        if new:
            self.processes.run("squid", "-N", "-z", "-f", str(config))
        self.pid = self.processes.serve(
            self.name,
            *("squid", "-N", "-f", str(config)),
            address=("127.0.0.1", self._port),
            log=self.folder.with_suffix(".log"),
        )

    def _prepare(self) -> None:
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=squid"
        uses = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        files = ("-keyout", str(self.folder / "ca.key"), "-out", str(self.folder / "ca.crt"))
        self.processes.run("openssl", *request.split(), *uses, *files)
        (self.folder / "hosts").write_text(f"127.0.0.1 {HOST}\n")
        certgen = str(next(filter(Path.exists, _CERTGEN), _CERTGEN[0]))
        self.processes.run(certgen, "-c", "-s", str(self.folder / "certificates"), "-M", "4MB")
        if os.geteuid() == 0:  # it gives that up, for the user that Debian has made for it
            for path in (self.folder, *self.folder.rglob("*")):
                shutil.chown(path, "proxy")


class Registry(Server):
    """distribution as a pull-through cache: a mirror over TLS, for it cannot intercept."""

    name, title = "registry", "docker-registry, pull-through (a mirror)"
    programs: ClassVar = {"docker-registry": "docker-registry"}

    @property
    def way(self) -> Way:
        return Way("127.0.0.1", self._port, self.origin.certificate)

    def _start(self) -> None:
        self._port = free_port()
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "storage")},
                "cache": {"blobdescriptor": "inmemory"},  # as Debian's own configuration has it
            },
            "http": {
                "addr": f"127.0.0.1:{self._port}",
                "tls": {"certificate": str(self.origin.certificate), "key": str(self.origin.key)},
            },
            **self._more(),
        }
        file = self.folder / "config.yml"
        file.write_text(json.dumps(config))  # which is YAML
        self.pid = self.processes.serve(
            self.name,
            *("docker-registry", "serve", str(file)),
            address=("127.0.0.1", self._port),
            log=self.folder / "log",
            env={"SSL_CERT_FILE": str(self.origin.certificate), "OTEL_TRACES_EXPORTER": "none"},
        )

    def _more(self) -> dict[str, object]:
        return {"proxy": {"remoteurl": f"https://{self.origin.address(self.upstream)}"}}


class HomeRegistry(Registry):
    """distribution with the image in its own storage."""

    name, title = "registry-own", "docker-registry, no proxy"
    caches = False

    def _more(self) -> dict[str, object]:
        return {}

    def _start(self) -> None:
        if not (self.folder / "storage").exists():
            image = self.content.image
            link_registry(self.folder / "storage", image, self.content.parts(image))
        super()._start()


class Mitmproxy(Server):
    name, title = "mitmproxy", "stock mitmproxy, streaming (no cache)"
    programs: ClassVar = {}
    caches = False

    @property
    def way(self) -> Way:
        port = self.origin.ports[self.upstream]
        return Way("127.0.0.1", port, self.folder / "mitmproxy-ca-cert.pem", proxy=f"127.0.0.1:{self._port}")

    def _start(self) -> None:
        self._port = free_port()
        options = "-q --set stream_large_bodies=1 --set flow_detail=0"
        options += f" --set ssl_verify_upstream_trusted_ca={self.origin.certificate}"
        options += f" --set confdir={self.folder} --listen-host 127.0.0.1 --listen-port {self._port}"
        self.pid = self.processes.serve(
            self.name,
            *(str(Path(sys.executable).with_name("mitmdump")), *options.split()),
            address=("127.0.0.1", self._port),
            log=self.folder / "log",
        )


class Mirrortap(Server):
    name, title = "mirrortap", "mirrortap, 1 worker"
    programs: ClassVar = {}
    workers: ClassVar = 1
    settings: ClassVar[tuple[str, ...]] = ()  # lines of its [mirrortap] table

    @property
    def way(self) -> Way:
        return Way(HOST, 443, self.folder / "ca.crt", proxy=f"127.0.0.1:{self._port}")

    @property
    def plain(self) -> Way:
        return Way("127.0.0.1", self._mirror, repository=f"{HOST}/{REPOSITORY}")

    def _start(self) -> None:
        self._port, self._mirror = free_port(), free_port()
        config = self.folder / "mirrortap.toml"
        config.write_text(
            _MIRRORTAP.format(
                host=HOST,
                origin=self.origin.address(self.upstream),
                certificate=self.origin.certificate,
                settings="\n".join(self.settings),
            )
        )
        # From this checkout, also where .venv was made for another one.
        start = f"import sys; sys.path[0] = {str(ROOT)!r}; from addon.cli import main; main()"
        self.pid = self.processes.serve(
            self.name,
            *(sys.executable, "-c", start, "serve"),
            *("--config", str(config), "--data", str(self.folder / "data"), "--workers", str(self.workers)),
            *("--listen", f"127.0.0.1:{self._port}", "--mirror-listen", f"127.0.0.1:{self._mirror}"),
            address=("127.0.0.1", self._port),
            log=self.folder / "log",
        )
        self.processes.run(
            "curl", "-qsSfo", str(self.folder / "ca.crt"), "--retry", "5", f"http://127.0.0.1:{self._port}/ca.crt"
        )


class TwoWorkers(Mirrortap):
    name, title, workers = "mirrortap-2", "mirrortap, 2 workers", 2


class OneStream(Mirrortap):
    """What parallel ranges give is the difference to this."""

    name, title = "mirrortap-one-stream", "mirrortap, 1 worker, one stream"
    settings = ("connections-per-fill = 1",)


SERVERS: tuple[type[Server], ...] = (
    Nginx,
    Squid,
    Registry,
    HomeRegistry,
    Mitmproxy,
    Mirrortap,
    TwoWorkers,
    OneStream,
)
OPTIONAL = (Mitmproxy.name,)  # measured where --target names them

_SHORT = ("nginx", "squid")  # they know no --version

# What cannot be measured wherever this runs.
NEVER = {
    "nginx as an interceptor": "Debian's nginx refuses CONNECT, and Debian has no package of the module that would"
    " answer it (ngx_http_proxy_connect_module)"
}


def missing(programs: Mapping[str, str]) -> str:
    """Which are not installed, for people; "" when all are."""
    gone = [program for program in programs if not shutil.which(program, path=PATH)]
    packages = " ".join(sorted({programs[program] for program in gone}))
    return f"{', '.join(gone)} not installed (apt-get install {packages})" if gone else ""


def versions(processes: Processes, programs: Iterable[str]) -> list[str]:
    """Of those that are here."""
    found = [f"Python {sys.version.split()[0]} with {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"]
    found.append(f"mitmproxy {version('mitmproxy')} with {' '.join(backend.openssl_version_text().split()[:2])}")
    for program in sorted(programs):
        if shutil.which(program, path=PATH):
            told = processes.run("sh", "-c", f"{program} {'-v' if program in _SHORT else '--version'} 2>&1").decode()
            if number := re.search(r"\d+\.\d+[\w.~+-]*", told):
                found.append(f"{program} {number[0]}")
    return found
