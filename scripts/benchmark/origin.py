"""The registry that everything comes from: nginx over a folder of files, with a log of what was asked of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.content import MANIFEST, REPOSITORY
from benchmark.processes import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from benchmark.processes import Processes

# Names that the certificate is for; no resolver knows them.
HOST = "registry.example"

# What each of nginx's ports does with a connection, in bytes a second; None: no limit.
RATES: dict[str, int | None] = {"unlimited": None, "100 MB/s": 100_000_000, "20 MB/s": 20_000_000}
UNLOGGED, PLAIN = "unlogged", "plain http"  # for clients that measure nginx itself

_NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    log_format origin '$server_port $request_method $uri $status $body_bytes_sent';
    sendfile on;
    keepalive_requests 100000000; keepalive_timeout 600s;
    # The folders that are compiled in are root's.
    client_body_temp_path 1; proxy_temp_path 2; fastcgi_temp_path 3; uwsgi_temp_path 4; scgi_temp_path 5;
    ssl_certificate origin.crt; ssl_certificate_key origin.key;
    root www;
    default_type application/octet-stream;
{servers}
}}
"""
_SERVER = """\
    server {{
        listen 127.0.0.1:{port} {tls};
        access_log {log};
        {limit}
        location = /v2/ {{ default_type application/json; return 200 "{{}}"; }}
        location ~ ^/v2/.+/manifests/(?<digest>sha256:.+)$ {{
            default_type {manifest};
            add_header Docker-Content-Digest $digest;
        }}
        location ~ ^/v2/.+/manifests/ {{ default_type {manifest}; add_header Docker-Content-Digest "{tagged}"; }}
    }}
"""


@dataclass(frozen=True)
class Fetched:
    """What a client of the origin has had of one file: GETs that were answered, and bytes of bodies."""

    requests: int
    size: int


def parse_log(text: str, port: int, uri: str) -> Fetched:
    """The GETs of `uri` at that port, whole or in ranges, that were answered with content."""
    found = re.findall(r"^(\d+) GET (\S+) 20[06] (\d+)$", text, re.MULTILINE)
    sizes = [int(size) for at, path, size in found if (int(at), path) == (port, uri)]
    return Fetched(len(sizes), sum(sizes))


class Origin:
    """Started once, before all others; `address` gives HOST:PORT for one of RATES, UNLOGGED or PLAIN."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.www = folder, folder / "www"
        self.certificate, self.key = folder / "origin.crt", folder / "origin.key"
        self._processes = processes
        self.ports = {name: free_port() for name in (*RATES, UNLOGGED, PLAIN)}
        self._log = folder / "origin.log"
        self.pid = 0

    def start(self, tagged: str = "") -> None:
        """`tagged`: the digest of the manifest that content.TAG names."""
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench"
        names = f"subjectAltName=IP:127.0.0.1,DNS:{HOST},DNS:localhost"
        files = ("-keyout", str(self.key), "-out", str(self.certificate))
        self._processes.run("openssl", *request.split(), "-addext", names, *files)
        (self.folder / "nginx.conf").write_text(
            _NGINX.format(servers="".join(self._server(name, tagged) for name in self.ports))
        )
        self.pid = self._processes.serve(
            "nginx",
            *("nginx", "-p", str(self.folder), "-e", "stderr", "-c", "nginx.conf"),
            address=("127.0.0.1", self.ports["unlimited"]),
            log=self.folder / "nginx.log",
        )

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def mark(self) -> int:
        """A place in the log, for `since`."""
        return self._log.stat().st_size if self._log.exists() else 0

    def since(self, mark: int, rate: str, where: str) -> Fetched:
        """What was fetched of a file of the repository since `mark` was made."""
        with self._log.open("rb") as log:
            log.seek(mark)
            text = log.read().decode()
        return parse_log(text, self.ports[rate], f"/v2/{REPOSITORY}/{where}")

    def _server(self, name: str, tagged: str) -> str:
        rate = RATES.get(name)
        return _SERVER.format(
            port=self.ports[name],
            tls="" if name == PLAIN else "ssl",
            log="origin.log origin" if name in RATES else "off",
            limit=f"limit_rate {rate};" if rate else "",
            manifest=MANIFEST,
            tagged=tagged,
        )
