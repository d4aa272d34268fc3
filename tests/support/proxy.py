"""The real proxy as a process of its own, and a client that says through it exactly what a test wants."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import ssl
import sys
import threading
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from support.processes import Lines, Program, clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TOML = "mirrortap.toml"
ROOT = Path(__file__).resolve().parents[2]

# GET docker.io/library/app blob sha256:ab12cd34ef56 200 miss from 127.0.0.1:5001 1.2 MB 3 ms
LOG_LINE = re.compile(
    r"(?P<method>GET|HEAD) (?P<repository>\S+) (?P<kind>manifest|blob) (?P<reference>\S+) (?P<status>\d{3}) "
    r"(?P<cache>hit|miss|joined|stale)(?: from (?P<endpoint>\S+))?"
)

# The PYTHONPATH of a proxy that is told to stop once more when it is as good as gone, and must not die of that.
TOLD_LATE = str(Path(__file__).parent / "late")
# Options of `serve`.
MIRROR = ("--mirror-listen", "127.0.0.1:0")


@dataclass(frozen=True)
class Answered:
    """One line of the proxy's log about a request that its engine answered."""

    method: str
    repository: str
    kind: str
    reference: str
    status: int
    cache: str
    endpoint: str | None


class Proxy:
    def __init__(self, program: Program, host: str, port: int, data: Path) -> None:
        self.program = program
        self.host = host
        self.port = port
        self.url = f"http://{host}:{port}"
        self.data = data
        self.ca = data / "ca" / "ca.crt"
        self.cache = data / "cache"
        self.killed = False

    def kill(self) -> None:
        """Ends it with SIGKILL, as a power cut would: without a word."""
        self.killed = True
        self.program.signal(signal.SIGKILL)
        self.program.wait()

    @property
    def mirror(self) -> str:
        """HOST:PORT of its mirror door, which must have been asked for (MIRROR)."""
        return self.program.out.wait_for(r"mirror is listening on https?://(\S+)")[1]

    @property
    def log(self) -> Lines:
        return self.program.err

    def answered(self, since: int = 0) -> list[Answered]:
        """From line number `since` of the log on; a line may come after its answer."""
        return [
            Answered(
                match["method"],
                match["repository"],
                match["kind"],
                match["reference"],
                int(match["status"]),
                match["cache"],
                match["endpoint"],
            )
            for match in self.log.matching(LOG_LINE.pattern, since)
        ]

    def wait_answered(self, count: int, since: int = 0) -> list[Answered]:
        """Until the log has so many such lines."""
        self.log.wait_for(LOG_LINE.pattern, since=since, count=count)
        return self.answered(since)

    def client(self, host: str, *, ca: Path | None = None) -> RawClient:
        return RawClient(self, host, ca or self.ca)


@contextmanager
def serve(
    folder: Path,
    config: str,
    *options: str,
    name: str = _TOML,
    data: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    workers: int = 1,
    mode: str = "regular",
    ends: int = 0,
    program: Path = ROOT,
    **env: str,
) -> Iterator[Proxy]:
    """`mirrortap serve`, with a configuration file of that name.

    It must end on SIGTERM with the exit code `ends` (unless the test itself failed). `program`: where its packages are.
    """
    data = data or folder / "data"
    arguments: list[str | Path] = [
        "--config",
        _config_file(folder, config, name),
        "--listen",
        f"{host}:{port}",
        "--data",
        data,
        *(["--mode", mode] if mode != "regular" else []),
        *(["--workers", str(workers)] if workers > 1 else []),
        *options,
    ]
    argv = [sys.executable, "-m", "addon.cli", "serve", *arguments]
    with _running(folder, argv, r"listening on \w+://([^\s:]+):(\d+)", data, env, ends, program) as proxy:
        yield proxy


@contextmanager
def mitmdump(folder: Path, config: str, *options: str | Path) -> Iterator[Proxy]:
    """The same proxy as a script of plain mitmdump. Its log is what mitmdump writes."""
    data = folder / "data"
    argv: list[str | Path] = [
        Path(sys.executable).parent / "mitmdump",
        *("-s", ROOT / "addon" / "mirrortap.py"),
        *("--set", f"mirrortap_config={_config_file(folder, config)}"),
        *("--set", f"mirrortap_data={data}"),
        *("--listen-host", "127.0.0.1", "-p", "0"),
        *options,
    ]
    with _running(folder, argv, r"(?i)proxy listening at ([^\s:]+):(\d+)", data, {}) as proxy:
        yield proxy


@contextmanager
def _running(
    folder: Path,
    argv: Sequence[str | Path],
    listening: str,
    data: Path,
    env: Mapping[str, str],
    ends: int = 0,
    cwd: Path = ROOT,
) -> Iterator[Proxy]:
    with Program(argv, env=proxy_env(folder, **env), cwd=cwd) as program:
        try:
            found = program.out.wait_for(listening)
        except AssertionError as silent:
            raise AssertionError(f"the proxy does not listen:\n{program.output()}") from silent
        proxy = Proxy(program, found[1], int(found[2]), data)
        yield proxy
        assert program.stop() == (-signal.SIGKILL if proxy.killed else ends), program.output()


def proxy_env(folder: Path, **more: str) -> dict[str, str]:
    """No proxies or CA bundles of this machine: what the proxy trusts is what its configuration says."""
    # Coverage and the like measure a child through variables of theirs.
    measuring = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return clean_env(folder / "home", PYTHONUNBUFFERED="1", **measuring, **more)


def _config_file(folder: Path, config: str, name: str = _TOML) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(config)
    return path


@dataclass(frozen=True)
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    """One request and its whole answer. The connection may be used again."""
    connection.request(method, path, body=body, headers=dict(headers or {}))
    answer = connection.getresponse()
    return Response(answer.status, answer.headers, answer.read())


@dataclass
class Asking:
    """Who asks for a body; the digest of what came, None when not all of it did."""

    digest: str | None = None


class RawClient:
    """Requests to one host through the proxy (CONNECT, then TLS), with a connection for each."""

    def __init__(self, proxy: Proxy, host: str, ca: Path) -> None:
        self._proxy = proxy
        self._host = host
        self._ca = ca

    def connect(self) -> http.client.HTTPSConnection:
        """For tests that read the body piece by piece, or not at all."""
        context = ssl.create_default_context(cafile=str(self._ca))
        connection = http.client.HTTPSConnection(self._proxy.host, self._proxy.port, context=context, timeout=30)
        name, _, port = self._host.partition(":")
        connection.set_tunnel(name, int(port or 443))
        return connection

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        with closing(self.connect()) as connection:
            return exchange(connection, method, path, headers, body)

    def digest_of(self, path: str) -> str | None:
        """Of a body of any size, read to its end; None when it broke off before that."""
        found = hashlib.sha256()
        with closing(self.connect()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            try:
                while piece := answer.read(1 << 20):
                    found.update(piece)
            except (OSError, http.client.HTTPException):
                return None
        return f"sha256:{found.hexdigest()}"

    @contextmanager
    def asking(self, path: str) -> Iterator[Asking]:
        """Somebody reads it meanwhile, as far as it comes."""
        asking = Asking()

        def read() -> None:
            with suppress(OSError, http.client.HTTPException):
                asking.digest = self.digest_of(path)

        reader = threading.Thread(target=read)
        reader.start()
        yield asking
        reader.join()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", path, headers)


def token_from(realm: str, scope: str, authorization: str | None, ca: Path) -> str:
    """What a client does with a Bearer challenge; the token server is reached directly."""
    request = Request(f"{realm}?{urlencode({'service': 'test-registry', 'scope': scope})}")
    if authorization:
        request.add_header("Authorization", authorization)
    with urlopen(request, context=ssl.create_default_context(cafile=str(ca))) as answer:
        token = json.load(answer)["token"]
    assert isinstance(token, str)
    return token
