"""Reads BuildKit's `buildkitd.toml`, and mirrortap's own settings, which live in the same format.

The `[registry."host"]` tables mean what they mean to BuildKit
(https://github.com/moby/buildkit/blob/master/docs/buildkitd.toml.md); its other tables are ignored.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import ssl
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from addon.config import wellknown
from addon.config.model import (
    Admission,
    Auth,
    Beliefs,
    Config,
    ConfigError,
    Downloads,
    Endpoint,
    KeyPair,
    Lives,
    Rule,
    Secret,
    Space,
    Timeouts,
    Tls,
    host_of,
    is_address,
    origin_of,
)
from addon.config.values import Bytes, Duration, Least, Most, Networks, Port, Positive, Share
from ca.authority import AuthorityError, dns_name

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_AUTHORITY = re.compile(rf"(?:\[([0-9a-f:.]+)\]|{_LABEL}(?:\.{_LABEL})*)(?::([1-9][0-9]{{0,4}}))?")
_PATH = re.compile(r"[a-z0-9._/-]*")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-"))


class _KeyPairTable(_Table):
    key: str
    cert: str


class _AuthTable(_Table):
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    token_file: str | None = None
    token_env: str | None = None
    docker_config: str | None = None
    use: Literal["always", "when-client-has-none"] = Auth.use


class _RegistryTable(_Table):
    mirrors: list[str] = []
    http: bool | None = None
    insecure: bool = False
    ca: list[str] = []
    keypair: list[_KeyPairTable] = []
    tlsconfigdir: list[str] = []
    server: str | None = None
    fallback: bool = True
    tag_ttl: Duration | None = None
    mode: Literal["online", "offline"] | None = None
    access: Literal["open", "checked"] = "checked"
    auth: _AuthTable | None = None


class _MirrortapTable(_Table):
    connect_timeout: Positive = Timeouts.connect
    first_byte_timeout: Positive = Timeouts.first_byte
    stall_timeout: Positive = Timeouts.stall
    hedge_delay: Duration = Timeouts.hedge
    hedge_origin: bool = Downloads.hedge_origin
    stale_after: Duration = Timeouts.stale
    tag_ttl: Duration = 0.0
    offline: bool = False
    cache_size: Most = Space.cache
    min_free: Least = Space.free
    min_rate: Bytes = Downloads.min_rate
    keep_filling_from: Share = Downloads.keep_from
    quota_floor: Annotated[int, Field(ge=0)] = Downloads.quota_floor
    public_ttl: Duration = Beliefs.public
    private_ttl: Duration = Beliefs.private
    access_ttl: Duration = Beliefs.access
    access_grace: Duration = Beliefs.grace
    allow_clients: Networks = list(Admission.clients)
    proxy_users: str | None = None
    tunnel: Literal["all", "registries"] | list[str] = "all"
    tunnel_ports: list[Port] = sorted(Admission.ports)
    connections_per_client: Annotated[int, Field(ge=1)] = Admission.connections
    header_timeout: Positive = Admission.header
    idle_timeout: Positive = Admission.idle
    leaf_life: Positive = Lives.leaf
    intermediate_life: Positive = Lives.intermediate


class _File(BaseModel):
    mirrortap: _MirrortapTable = _MirrortapTable()
    registry: dict[str, _RegistryTable] = {}


def defaults() -> Config:
    """What holds when the operator says nothing."""
    return _Reader(None, _File()).config()


def read(path: Path) -> Config:
    """The configuration in a TOML file. Raises ConfigError."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; check the path given to --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); TOML files are") from None
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: numbers and nesting beyond Python's own limits, too.
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    known = {key: value for key, value in document.items() if key in _File.model_fields}
    for key in document.keys() - known.keys():
        # BuildKit has many other tables, all ignored; but a misspelled one of ours must not be.
        if meant := difflib.get_close_matches(key, _File.model_fields, cutoff=0.75):
            raise ConfigError(f"{path}: {key}: unknown table; did you mean [{meant[0]}]?")
    try:
        return _Reader(path, _File.model_validate(known)).config()
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, e) for e in error.errors())) from None


def _explain(path: Path, error: Any) -> str:
    *where, key = [str(part) for part in error["loc"]]
    dotted = ".".join(part if re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in (*where, key))
    if error["type"] == "extra_forbidden":
        table: type[_Table] = _MirrortapTable if where[0] == "mirrortap" else _RegistryTable
        if where[2:3] == ["keypair"]:
            table = _KeyPairTable
        keys = [name.replace("_", "-") for name in table.model_fields]
        meant = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"the keys are {', '.join(keys)}"
        return f"{path}: {dotted}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {dotted}: {message} (it is {error['input']!r})"


class _Reader:
    """Turns the tables of one file into the model."""

    def __init__(self, path: Path | None, file: _File) -> None:
        self._path = path
        self._file = file
        self._tables: dict[str, tuple[str, _RegistryTable]] = {}
        for key, table in file.registry.items():
            registry = _registry(self._authority(key, f'registry."{key}"'))
            if registry in self._tables:
                other = self._tables[registry][0]
                self._fail(f'registry."{key}"', f'is the same registry as registry."{other}"; keep one of the two')
            self._tables[registry] = (key, table)
        self._tls = {registry: self._tls_of(key, table) for registry, (key, table) in self._tables.items()}

    def config(self) -> Config:
        own = self._file.mirrortap
        if own.cache_size.share + own.min_free.share > 1 and own.model_fields_set >= {"cache_size", "min_free"}:
            self._fail("mirrortap.min-free", "and cache-size together are more than the disk; lower one of them")
        rules = {}
        warnings = []
        for registry, (key, table) in self._tables.items():
            host = host_of(registry)
            if is_address(host) or "_" in host:
                # Such tables are common: they say how a mirror is reached.
                reason = "a registry that clients name by IP address, or with an underscore, cannot be intercepted"
                if table.server or not table.fallback or table.mode == "offline":
                    ours = "server" if table.server else "mode" if table.fallback else "fallback"
                    self._fail(f'registry."{key}".{ours}', f"cannot be kept: {reason}")
                if table.mirrors:
                    warnings.append(
                        f'registry."{key}": its mirrors are not used: {reason}, for no certificate may stand for it'
                    )
                continue
            try:
                dns_name(host)
            except AuthorityError as error:
                self._fail(f'registry."{key}"', f"no certificate can stand for it: {error}")
            rules[registry] = self._rule(registry, key, table)
        for registry, mirrors in wellknown.DEFAULT_MIRRORS.items():
            if registry not in rules:
                endpoints = tuple(e for m in mirrors for e in self._mirror(m, "default"))
                rules[registry] = Rule(registry, (origin_of(registry),), endpoints, own.tag_ttl)
        config = Config(
            rules,
            self._tls,
            Timeouts(own.connect_timeout, own.first_byte_timeout, own.stall_timeout, own.hedge_delay, own.stale_after),
            Space(own.cache_size, own.min_free),
            Downloads(own.min_rate, own.keep_filling_from, own.hedge_origin, own.quota_floor),
            Beliefs(own.public_ttl, own.private_ttl, own.access_ttl, own.access_grace),
            self._admission(),
            Lives(own.leaf_life, own.intermediate_life),
            tag_ttl=own.tag_ttl,
            source=self._path,
            warnings=tuple(warnings),
        )
        return config.taken_offline() if own.offline else config

    def _rule(self, registry: str, key: str, table: _RegistryTable) -> Rule:
        where = f'registry."{key}"'
        if not table.fallback and not table.mirrors:
            self._fail(f"{where}.fallback", "is false, and there are no mirrors: nothing could answer")
        if not table.fallback and table.server:
            self._fail(f"{where}.server", "says where the origin is, but fallback = false forbids asking it")
        if table.mode == "online" and self._file.mirrortap.offline:
            self._fail(f"{where}.mode", "cannot be online while offline = true in [mirrortap]; take one of them out")
        mirrors = tuple(
            e for i, mirror in enumerate(table.mirrors) for e in self._mirror(mirror, f"{where}.mirrors[{i}]")
        )
        origins: tuple[Endpoint, ...] = ()
        if table.fallback:
            origins = self._origin(registry, key, table)
        if not (table.access == "open" or origins) and all(mirror.auth for mirror in mirrors):
            self._fail(
                where,
                "who may read cannot be found out: the proxy logs in to all its mirrors, and its origin is never asked;"
                ' add access = "open" to let everybody who may use the proxy read all of it',
            )
        ttl = self._file.mirrortap.tag_ttl if table.tag_ttl is None else table.tag_ttl
        rule = Rule(registry, origins, mirrors, ttl, open=table.access == "open")
        return rule.taken_offline() if table.mode == "offline" else rule

    def _origin(self, registry: str, key: str, table: _RegistryTable) -> tuple[Endpoint, ...]:
        if table.server is None:
            api_host = wellknown.api_host(registry)
            return self._endpoints(registry, api_host, "", is_origin=True)
        where = f'registry."{key}".server'
        try:
            url = urlsplit(table.server)
        except ValueError as error:
            self._fail(where, f"{table.server!r} is not a URL: {error}")
        if url.scheme not in ("http", "https") or not url.netloc:
            self._fail(where, f'{table.server!r} is not a URL: write "https://host[:port]"')
        if url.path.strip("/") not in ("", "v2") or url.query or url.fragment:
            self._fail(where, f'{table.server!r} has a path: only "scheme://host[:port]" can be an origin')
        authority = self._authority(url.netloc, where)
        tls = self._tls[registry]
        auth = self._auth(registry)
        return (Endpoint(_registry(authority), _url(url.scheme, authority), tls=tls, is_origin=True, auth=auth),)

    def _mirror(self, mirror: str, where: str) -> tuple[Endpoint, ...]:
        if "://" in mirror:
            rest = mirror.partition("://")[2].partition("/")[0]
            hint = f'; for plain http add [registry."{rest}"] http = true' if mirror.startswith("http:") else ""
            self._fail(where, f'{mirror!r} has a scheme: write "host[:port][/path]"{hint}')
        authority, _, path = mirror.partition("/")
        authority = self._authority(authority, where)
        path = path.strip("/")
        if not _PATH.fullmatch(path) or ".." in path:
            self._fail(where, f"{path!r} cannot be a path of a mirror")
        name = f"{authority}/{path}" if path else authority
        return self._endpoints(name, authority, path)

    def _endpoints(self, name: str, authority: str, path: str, *, is_origin: bool = False) -> tuple[Endpoint, ...]:
        """One endpoint, or two where BuildKit too tries both: https unverified, then http."""
        registry = _registry(authority)
        table = self._tables[registry][1] if registry in self._tables else _RegistryTable()
        host = host_of(authority)
        loopback = host in ("localhost", "::1") or (is_address(host) and host.startswith("127."))
        http = loopback if table.http is None else table.http
        tls = self._tls.get(registry, Tls())
        schemes = ["https"] if table.insecure or not http else []
        schemes += ["http"] if http else []
        auth = self._auth(registry)
        return tuple(Endpoint(name, _url(s, authority), path, tls, is_origin, auth) for s in schemes)

    def _auth(self, registry: str) -> Auth | None:
        """The credential in a registry's own table."""
        key, table = self._tables.get(registry, ("", _RegistryTable()))
        own = table.auth
        if own is None:
            return None
        where = f'registry."{key}".auth'
        password = self._secret(f"{where}.password", own.password_file, own.password_env)
        token = self._secret(f"{where}.token", own.token_file, own.token_env)
        config = self._resolve(own.docker_config, f"{where}.docker-config") if own.docker_config else None
        return Auth(registry, own.username, password, token, config, own.use)

    def _secret(self, where: str, file: str | None, env: str | None) -> Secret | None:
        if file is None and env is None:
            return None
        return Secret(self._resolve(file, f"{where}-file") if file else None, env)

    def _admission(self) -> Admission:
        own = self._file.mirrortap
        users = self._resolve(own.proxy_users, "mirrortap.proxy-users") if own.proxy_users else None
        tunnel = tuple(own.tunnel) if isinstance(own.tunnel, list) else own.tunnel
        return Admission(
            tuple(own.allow_clients),
            users,
            tunnel,
            frozenset(own.tunnel_ports),
            own.connections_per_client,
            own.header_timeout,
            own.idle_timeout,
        )

    def _tls_of(self, key: str, table: _RegistryTable) -> Tls:
        where = f'registry."{key}"'
        ca = []
        for i, name in enumerate(table.ca):
            where_in = f"{where}.ca[{i}]"
            ca.append(self._ca(self._resolve(name, where_in), where_in))
        pairs = []
        for i, pair in enumerate(table.keypair):
            where_in = f"{where}.keypair[{i}]"
            certificate, key_file = self._resolve(pair.cert, where_in), self._resolve(pair.key, where_in)
            pairs.append(self._keypair(certificate, key_file, where_in))
        for i, name in enumerate(table.tlsconfigdir):
            where_in = f"{where}.tlsconfigdir[{i}]"
            folder = self._resolve(name, where_in)
            if not os.path.isdir(folder):
                self._fail(where_in, f"{_shown(folder)} is not a folder")
            # docker's certs.d convention, which BuildKit follows: *.crt are CAs, X.cert goes with X.key
            ca += [self._ca(path, where_in) for path in sorted(folder.glob("*.crt"))]
            pairs += [self._keypair(path, path.with_suffix(".key"), where_in) for path in sorted(folder.glob("*.cert"))]
        return Tls(tuple(ca), tuple(pairs), verify=not table.insecure)

    def _ca(self, path: Path, where: str) -> Path:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            self._fail(where, f"{path} holds no PEM certificate")
        except (OSError, ValueError) as error:
            self._fail(where, f"{_shown(path)} cannot be read: {_why(error)}")
        return path

    def _keypair(self, certificate: Path, key: Path, where: str) -> KeyPair:
        try:
            # An empty password, lest OpenSSL asks for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            self._fail(
                where,
                f"{certificate} and {key} are no PEM certificate with its unencrypted key: {error.reason}",
            )
        except (OSError, ValueError) as error:
            self._fail(where, f"{_shown(certificate)} or {_shown(key)} cannot be read: {_why(error)}")
        return KeyPair(certificate, key)

    def _resolve(self, name: str, where: str) -> Path:
        try:
            path = Path(name).expanduser()
        except RuntimeError:
            self._fail(where, f"{name!r}: there is no such user")
        return path if self._path is None else self._path.parent / path

    def _authority(self, text: str, where: str) -> str:
        authority = text.lower()
        match = _AUTHORITY.fullmatch(authority)
        if not match or int(match[2] or 443) > 65535 or (match[1] and not _is_ipv6(match[1])):
            self._fail(where, f"{text!r} is not host[:port]")
        return authority

    def _fail(self, key: str, message: str) -> NoReturn:
        raise ConfigError(f"{self._path}: {key}: {message}")


def _registry(authority: str) -> str:
    """The name that a registry goes by: 443 is where it is anyway."""
    return wellknown.canonical(authority.removesuffix(":443"))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _url(scheme: str, authority: str) -> str:
    return f"{scheme}://{authority.removesuffix(':443') if scheme == 'https' else authority}"


def _shown(path: Path) -> str:
    return str(path) if str(path).isprintable() else repr(str(path))


def _why(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
